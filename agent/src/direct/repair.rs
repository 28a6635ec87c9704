//! Holding units to the definition in force, where an app says `drift: repair`: the host restarted, a supervisor was
//! killed, an agent died in the middle of a call.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};
use towline_bus::{clock, clock::Moment};

use super::{
    AT_ONCE, Direct,
    converge::{Revive, observed, wanted},
    entry::Entry,
    plan::plan,
};
use crate::{manifest::Drift, runtime::process::UnitStatus, shim::Ended};

/// Between two looks for units that are not as they should be.
const EVERY: Duration = Duration::from_secs(2);
/// Waits after a repair that failed: the first, doubled each time up to the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(300));

/// Looks, and mends, until the agent ends.
pub(super) async fn run(direct: Direct) {
    let stopping = direct.inner.tasks.stopping().clone();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waits = Waits::default();
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = clock::now();
        let astray: Vec<String> = astray(&direct).into_iter().filter(|id| waits.is_due(id, now)).collect();
        let mended = stream::iter(astray).map(|id| {
            let direct = direct.clone();
            async move { (mend(&direct, &id).await, id) }
        });
        // Not cut off when the agent ends: each looks at that itself, between its steps.
        for (mended, id) in mended.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
            waits.note(id, mended, clock::now());
        }
    }
}

/// When those that could not be mended are tried again.
#[derive(Debug, Default)]
struct Waits(HashMap<String, (Moment, Duration)>);

impl Waits {
    fn is_due(&self, id: &str, now: Moment) -> bool {
        self.0.get(id).is_none_or(|(due, _)| now >= *due)
    }

    fn note(&mut self, id: String, mended: bool, now: Moment) {
        if mended {
            self.0.remove(&id);
            return;
        }
        let wait = self.0.get(&id).map_or(BACK_OFF.0, |(_, wait)| (*wait * 2).min(BACK_OFF.1));
        self.0.insert(id, (now + wait, wait));
    }
}

/// Apps to be repaired whose units are not as their definition says, and that nobody is working on.
fn astray(direct: &Direct) -> Vec<String> {
    let mut units: BTreeMap<String, Vec<UnitStatus>> = BTreeMap::new();
    for unit in direct.inner.runtime.list() {
        units.entry(unit.app.clone()).or_default().push(unit);
    }
    let entries = direct.entries().clone();
    let mut found = Vec::new();
    for (id, entry) in entries {
        let Some(spec) = entry.unit_spec().filter(|_| wants_repair(&entry) && !direct.is_busy(&id)) else {
            continue;
        };
        let units = units.remove(&id).unwrap_or_default();
        let lost =
            units.iter().any(|unit| unit.state.final_state && unit.state.last_end == Some(Ended::Lost));
        if !plan(&wanted(&spec), &observed(units, Revive::Lost)).is_empty() {
            direct.inner.drift.with_label_values(&[if lost { "lost" } else { "differs" }]).inc();
            found.push(id);
        }
    }
    found
}

/// Brings one app back to its definition; says whether that succeeded, or is no concern any more.
async fn mend(direct: &Direct, id: &str) -> bool {
    let _lock = direct.lock(id).await;
    // Read under the lock: a call may have changed or removed it meanwhile.
    let Some(entry) = direct.entry(id).filter(wants_repair) else { return true };
    let stopping = direct.inner.tasks.stopping().clone();
    let failure = direct.converge(id, &entry, Revive::Lost, &stopping).await.err().map(|error| error.message);
    if failure != entry.resource.facts.failure && !stopping.is_cancelled() {
        direct.note(id, &entry, failure.clone()).await;
    }
    failure.is_none()
}

fn wants_repair(entry: &Arc<Entry>) -> bool {
    entry.manifest.as_ref().is_ok_and(|manifest| manifest.spec.drift == Drift::Repair)
}
