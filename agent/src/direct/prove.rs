//! Waiting until what was started is known to work, where an app says how that is found out.
//!
//! Planning itself removes no old unit for a new one of which that is not known; here is only the waiting of whoever asked,
//! and the reason why it is in vain.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};
use towline_protocol::{Code, ItemError};

use super::{
    Direct,
    converge::{failed, refused},
};
use crate::{
    asker::Asker,
    manifest::HealthSpec,
    runtime::{UnitSpec, UnitStatus},
    shim::{Health, Status},
};

/// What looking, telling and starting may take beyond what a check declares.
const SLACK: Duration = Duration::from_secs(30);

/// Between two looks, if nothing is told to have changed.
const LOOK: Duration = Duration::from_secs(1);

/// Which units are to show that they work: those that were not there before and, while others are to be replaced, all.
#[derive(Debug, Default)]
pub(super) struct Proving {
    before: Option<BTreeSet<String>>,
    replacing: bool,
}

/// What is known of a unit.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    Works,
    /// Not yet; and for how long at most is for its check to say.
    Open,
    /// It does not, and waiting would not change that.
    Fails,
}

impl Proving {
    /// Takes in a look at the units of an app that is brought to `generation`.
    pub(super) fn see(&mut self, units: &[UnitStatus], generation: &str) {
        let ids = || units.iter().map(|unit| unit.unit.clone()).collect();
        self.before.get_or_insert_with(ids);
        self.replacing |= units.iter().any(|unit| unit.generation != generation);
    }

    fn concerns(&self, unit: &UnitStatus) -> bool {
        let is_new = self.before.as_ref().is_none_or(|before| !before.contains(&unit.unit));
        is_new || self.replacing
    }
}

impl Direct {
    /// Waits until every unit of `spec` that `proving` concerns works; says whether there was anything to wait for.
    ///
    /// # Errors
    /// Which does not, and why; or that it was cancelled.
    pub(super) async fn prove(
        &self,
        spec: &UnitSpec,
        proving: &Proving,
        asker: &Asker,
    ) -> Result<bool, ItemError> {
        let longest = spec.manifest.spec.health.as_ref().map_or(Duration::ZERO, HealthSpec::longest);
        let deadline = Instant::now() + longest.saturating_add(SLACK);
        let mut changes = self.inner.runtime.changes();
        let mut waited = false;
        loop {
            let choice = spec.manifest.spec.host();
            let looked = self.inner.runtime.observe(&spec.manifest.id, choice).await;
            let units = looked.map_err(|error| refused(&error))?;
            let mut open = None;
            let concerned = |unit: &UnitStatus| unit.generation == spec.generation && proving.concerns(unit);
            for unit in units.into_iter().filter(concerned) {
                match proof(&unit) {
                    Proof::Works => {}
                    Proof::Open => open = Some(unit),
                    Proof::Fails => return Err(self.does_not_work(&unit).await),
                }
            }
            let Some(open) = open else {
                asker.tell();
                return Ok(waited);
            };
            waited = true;
            if Instant::now() >= deadline {
                return Err(self.does_not_work(&open).await);
            }
            tokio::select! {
                Some(_) = changes.next() => {}
                () = sleep(LOOK) => {}
                () = asker.gone() => {
                    return Err(ItemError::new(Code::Cancelled, "cancelled by its caller"));
                }
            }
        }
    }

    async fn does_not_work(&self, unit: &UnitStatus) -> ItemError {
        let state = &unit.state;
        let end = || state.last_end.as_ref().map(ToString::to_string);
        let why = state.reason.clone().or_else(end).map_or_else(String::new, |why| format!(": {why}"));
        let words = self.last_words(unit).await;
        failed(format!("unit {} did not become healthy{why}{words}", unit.unit))
    }
}

fn proof(unit: &UnitStatus) -> Proof {
    let state = &unit.state;
    match (state.status, state.final_state, state.health) {
        (Status::Started, false, _) => Proof::Works,
        // Done by its own declaration.
        (Status::Stopped, true, _) => Proof::Works,
        (_, true, _) | (_, _, Some(Health::Unhealthy)) => Proof::Fails,
        // It has ended, and is about to be started again: as without a check, that is not to stay up.
        (Status::Error, false, None) => Proof::Fails,
        // It is under way; if it was started again by then, it did not stay up, either.
        _ if state.restarts > 0 => Proof::Fails,
        _ => Proof::Open,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::shim::UnitState;

    fn unit(id: &str, generation: &str, state: UnitState) -> UnitStatus {
        UnitStatus {
            unit: id.to_owned(),
            app: "default/App/web".to_owned(),
            generation: generation.to_owned(),
            host: None,
            state,
            ports: Vec::new(),
            created: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_is_known_decides_whether_waiting_makes_sense() {
        use Proof::{Fails, Open, Works};
        let table = [
            (Status::Started, false, Some(Health::Healthy), 0, Works),
            (Status::Started, false, Some(Health::Healthy), 4, Works),
            (Status::Stopped, true, None, 0, Works),
            (Status::Starting, false, Some(Health::Starting), 0, Open),
            (Status::Starting, false, None, 0, Open),
            (Status::Unknown, false, None, 0, Open),
            (Status::Starting, false, Some(Health::Starting), 1, Fails),
            (Status::Error, false, Some(Health::Unhealthy), 0, Fails),
            (Status::Error, false, None, 0, Fails),
            (Status::Error, true, None, 0, Fails),
        ];
        for (status, final_state, health, restarts, expected) in table {
            let state =
                UnitState { final_state, health, restarts, ..UnitState::new(status, Timestamp::UNIX_EPOCH) };
            let seen = proof(&unit("web-1", "g", state.clone()));
            assert_eq!(seen, expected, "{state:?}");
        }
    }

    #[test]
    fn units_that_were_there_are_concerned_only_while_others_are_replaced() {
        let new = |id| unit(id, "new", UnitState::new(Status::Starting, Timestamp::UNIX_EPOCH));
        let old = unit("web-0", "old", UnitState::new(Status::Started, Timestamp::UNIX_EPOCH));
        let mut proving = Proving::default();
        proving.see(&[new("web-1")], "new");
        proving.see(&[new("web-1"), new("web-2")], "new");
        assert!(!proving.concerns(&new("web-1")) && proving.concerns(&new("web-2")));
        proving.see(&[new("web-1"), old], "new");
        assert!(proving.concerns(&new("web-1")));
    }
}
