//! Carrying plans out: look, plan, step, until nothing is left to do.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    AT_ONCE, Direct,
    entry::Entry,
    plan::{Observed, Phase, Step, Wanted, plan},
};
use crate::{
    runtime::process::{UnitSpec, UnitStatus},
    shim::{Ended, Status},
};

/// How long a unit of a changed definition must stay up before an old one is removed for it. Until there are health
/// checks, this is what keeps a version that dies at once from replacing one that works.
const SETTLE: Duration = Duration::from_millis(300);

/// Rounds after which a plan that does not come to an end is given up: two for each of the most units there can be.
const ROUNDS: usize = 2_000;

/// What counts as ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revive {
    /// All that is not done successfully: someone asked for it to run.
    Failed,
    /// What was lost, or stopped with the host: nobody asked.
    Lost,
}

impl Direct {
    /// Brings the units of `entry` to what it defines.
    ///
    /// # Errors
    /// The first thing that failed, as a sentence. What was done so far stays done.
    pub(super) async fn converge(
        &self,
        id: &str,
        entry: &Entry,
        revive: Revive,
        cancelled: &CancellationToken,
    ) -> Result<(), String> {
        let spec = entry.unit_spec().ok_or("its stored definition is not readable")?;
        let wanted = wanted(&spec);
        for _ in 0..ROUNDS {
            let observed = self.observe(id, revive);
            let steps = plan(&wanted, &observed);
            if steps.is_empty() {
                return Ok(());
            }
            if cancelled.is_cancelled() {
                return Err("cancelled by its caller".to_owned());
            }
            let update = observed.iter().any(|unit| unit.generation != wanted.generation);
            // What may fail comes first: then nothing that serves was removed for it.
            let (removals, starts): (Vec<Step>, Vec<Step>) =
                steps.into_iter().partition(|step| matches!(step, Step::Remove(_)));
            self.steps(starts, &spec, update).await?;
            self.steps(removals, &spec, update).await?;
        }
        Err("its units do not come to rest".to_owned())
    }

    /// Removes every unit of an app.
    ///
    /// # Errors
    /// The first that could not be removed; the others are, none the less.
    pub(super) async fn remove_units(&self, id: &str) -> Result<(), String> {
        let units = self.inner.runtime.units_of(id);
        let removals = units.into_iter().map(|unit| self.remove(unit.unit));
        let results: Vec<Result<(), String>> =
            stream::iter(removals).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    fn observe(&self, id: &str, revive: Revive) -> Vec<Observed> {
        let mut units = self.inner.runtime.units_of(id);
        units.sort_by_key(|unit| unit.created);
        let observed = |status: UnitStatus| Observed {
            phase: phase(&status, revive),
            unit: status.unit,
            generation: status.generation,
        };
        units.into_iter().map(observed).collect()
    }

    async fn steps(&self, steps: Vec<Step>, spec: &UnitSpec, update: bool) -> Result<(), String> {
        let work = steps.into_iter().map(|step| self.step(step, spec, update));
        let results: Vec<Result<(), String>> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    async fn step(&self, step: Step, spec: &UnitSpec, update: bool) -> Result<(), String> {
        let runtime = &self.inner.runtime;
        match step {
            Step::Start => {
                let started = runtime.start(spec).await.map_err(|error| error.to_string())?;
                if update && runtime.falls_within(&started.unit, SETTLE).await {
                    return Err(self.fallen(&started.unit));
                }
                Ok(())
            }
            Step::Revive(unit) => {
                let Err(error) = runtime.start_again(&unit).await else { return Ok(()) };
                // Its port was taken, or its directory damaged: then another unit in its stead.
                tracing::info!(unit, %error, "a unit cannot be started again; replacing it");
                self.remove(unit).await?;
                runtime.start(spec).await.map(drop).map_err(|error| error.to_string())
            }
            Step::Remove(unit) => self.remove(unit).await,
        }
    }

    async fn remove(&self, unit: String) -> Result<(), String> {
        self.inner.runtime.delete(&unit).await.map_err(|error| error.to_string())
    }

    fn fallen(&self, unit: &str) -> String {
        let found = self.inner.runtime.list().into_iter().find(|status| status.unit == unit);
        let why = found
            .and_then(|status| status.state.last_end)
            .map_or_else(String::new, |end| format!(": it {end}"));
        format!("the new version did not stay up{why}; see its log")
    }
}

fn wanted(spec: &UnitSpec) -> Wanted {
    let app = &spec.manifest.spec;
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Wanted {
        generation: spec.generation.clone(),
        units: count(app.units),
        kind: app.strategy.kind,
        max_unavailable: count(app.strategy.max_unavailable),
        max_surge: count(app.strategy.max_surge),
        exclusive: app.ports.iter().any(|port| port.host_port != 0),
    }
}

fn phase(status: &UnitStatus, revive: Revive) -> Phase {
    let state = &status.state;
    if !state.final_state {
        return if state.status == Status::Started { Phase::Up } else { Phase::Trying };
    }
    // A stop that was asked for bears no reason; an end by the restart policy bears the policy's.
    let stopped = state.status == Status::Stopped && state.reason.is_none();
    let ended = match revive {
        Revive::Failed => state.status == Status::Error || stopped,
        Revive::Lost => state.last_end == Some(Ended::Lost) || stopped,
    };
    if ended { Phase::Ended } else { Phase::Done }
}
