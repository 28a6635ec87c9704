//! Carrying plans out: look, plan, step, until nothing is left to do.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use towline_bus::clock::{self, Moment};
use towline_protocol::{Code, ItemError};

use super::{
    AT_ONCE, Direct,
    entry::Entry,
    plan::{Observed, Phase, Step, Wanted, plan},
    prove::Proving,
};
use crate::{
    asker::Asker,
    runtime::{LogQuery, RuntimeError, UnitSpec, UnitStatus},
    shim::{Ended, Health, Status},
};

/// How long a unit of a changed definition must stay up before an old one is removed for it. Where no health check is
/// declared, this is what keeps a version that dies at once from replacing one that works.
const SETTLE: Duration = Duration::from_millis(300);

/// Rounds after which a plan that does not come to an end is given up: two for each of the most units there can be.
const ROUNDS: usize = 2_000;

/// Characters of a log line that are told with a failure.
const LAST_WORDS: usize = 200;

/// What counts as ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revive {
    /// All that is not done successfully: someone asked for it to run, and waits to hear whether it works.
    Failed,
    /// As failed; and nobody waits.
    Pending,
    /// What was lost, or stopped with the host: nobody asked.
    Lost,
    /// As lost; and what comes back is what was there before, so it is not watched whether it stays up.
    Before,
}

impl Direct {
    /// Brings the units of `entry` to what it defines.
    ///
    /// # Errors
    /// The first thing that failed. What was done so far stays done.
    pub(super) async fn converge(
        &self,
        id: &str,
        entry: &Entry,
        revive: Revive,
        asker: &Asker,
    ) -> Result<(), ItemError> {
        self.converge_since(id, entry, revive, asker, clock::now()).await
    }

    /// The same, where it is new enough to begin from what was looked at since then.
    ///
    /// # Errors
    /// As [`Direct::converge`].
    pub(super) async fn converge_since(
        &self,
        id: &str,
        entry: &Entry,
        revive: Revive,
        asker: &Asker,
        mut since: Moment,
    ) -> Result<(), ItemError> {
        let spec = entry.unit_spec().ok_or_else(|| failed("its stored definition is not readable"))?;
        let wanted = match revive {
            // What worked before need not show that it does.
            Revive::Before => Wanted { checked: false, ..wanted(&spec) },
            _ => wanted(&spec),
        };
        let choice = spec.manifest.spec.host();
        let mut proving = Proving::default();
        // Of the whole way, not of one round: where the old ones go first, the round that starts the new sees none.
        let mut update = false;
        for _ in 0..ROUNDS {
            let looked = self.inner.runtime.observe_since(id, choice, since).await;
            let units = looked.map_err(|error| refused(&error))?;
            since = clock::now();
            proving.see(&units, &wanted.generation);
            let observed = observed(units, revive);
            update |= observed.iter().any(|unit| unit.generation != wanted.generation);
            let steps = plan(&wanted, &observed);
            let revives = steps.iter().any(|step| matches!(step, Step::Revive(_)));
            if steps.is_empty() || revives {
                // Before what has ended is started again. Of units that stay they may differ because only files were changed,
                // because a unit of another version that came and went has written its own over them, or behind our back.
                self.restore_files(id, &spec).await?;
            }
            if steps.is_empty() {
                if revive == Revive::Failed && wanted.checked && self.prove(&spec, &proving, asker).await? {
                    continue;
                }
                return Ok(());
            }
            if asker.is_gone() {
                return Err(ItemError::new(Code::Cancelled, "cancelled by its caller"));
            }
            // What may fail comes first: then nothing that serves was removed for it.
            let (removals, starts): (Vec<Step>, Vec<Step>) =
                steps.into_iter().partition(|step| matches!(step, Step::Remove(_)));
            let watched = update && !wanted.checked && revive != Revive::Before;
            self.steps(starts, &spec, watched, asker).await?;
            self.steps(removals, &spec, watched, asker).await?;
        }
        Err(failed("its units do not come to rest"))
    }

    /// Removes every unit of an app, wherever it may have some.
    ///
    /// # Errors
    /// That it is not known what it has, or the first that could not be removed; the others are, none the less.
    pub(super) async fn remove_all_units(&self, id: &str) -> Result<(), ItemError> {
        let entry = self.entry(id);
        let manifest = entry.as_ref().and_then(|entry| entry.manifest.as_ref().ok());
        let choice = manifest.and_then(|manifest| manifest.spec.host());
        let looked = self.inner.runtime.observe(id, choice).await;
        looked.map_err(|error| refused(&error))?;
        self.remove_units(id).await
    }

    /// Removes every unit of an app that is known.
    ///
    /// # Errors
    /// The first that could not be removed; the others are, none the less.
    pub(super) async fn remove_units(&self, id: &str) -> Result<(), ItemError> {
        let units = self.inner.runtime.units_of(id);
        let removals = units.into_iter().map(|unit| self.remove(unit.unit));
        let results: Vec<Result<(), ItemError>> =
            stream::iter(removals).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    /// Stops every unit of an app; they stay, to be started again.
    pub(super) async fn stop_units(&self, id: &str) -> Result<(), ItemError> {
        let units = self.inner.runtime.units_of(id);
        let stops = units.into_iter().map(|unit| async move {
            self.inner.runtime.stop(&unit.unit).await.map_err(|error| refused(&error))
        });
        let results: Vec<Result<(), ItemError>> =
            stream::iter(stops).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    async fn steps(
        &self,
        steps: Vec<Step>,
        spec: &UnitSpec,
        watched: bool,
        asker: &Asker,
    ) -> Result<(), ItemError> {
        let work = steps
            .into_iter()
            .map(async |step| self.step(step, spec, watched).await.inspect(|()| asker.tell()));
        let results: Vec<Result<(), ItemError>> =
            stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    async fn step(&self, step: Step, spec: &UnitSpec, watched: bool) -> Result<(), ItemError> {
        let runtime = &self.inner.runtime;
        match step {
            Step::Start => {
                let started = runtime.start(spec).await.map_err(|error| refused(&error))?;
                if watched && runtime.falls_within(&started.unit, SETTLE).await {
                    return Err(self.fallen(&started).await);
                }
                Ok(())
            }
            Step::Revive(unit) => {
                let error = match runtime.start_again(&unit).await {
                    Ok(_) => return Ok(()),
                    // It may well run by now, or be another agent's to start: only what cannot be started is replaced.
                    Err(error @ (RuntimeError::Unknown { .. } | RuntimeError::Fenced { .. })) => {
                        return Err(refused(&error));
                    }
                    Err(error) => error,
                };
                // Its port was taken, or its directory damaged: then another unit in its stead.
                tracing::info!(unit, %error, "a unit cannot be started again; replacing it");
                self.remove(unit).await?;
                runtime.start(spec).await.map(drop).map_err(|error| refused(&error))
            }
            Step::Remove(unit) => self.remove(unit).await,
        }
    }

    /// Brings the files of units that stay to what is declared.
    pub(super) async fn restore_files(&self, id: &str, spec: &UnitSpec) -> Result<(), ItemError> {
        let restored = self.inner.runtime.restore_files(spec).await.map_err(|error| refused(&error))?;
        self.inner.file_looks.note(id, None, clock::now());
        if !restored.is_empty() {
            tracing::info!(id, files = restored.len(), "files were brought to what is declared");
        }
        Ok(())
    }

    async fn remove(&self, unit: String) -> Result<(), ItemError> {
        self.sightings().removing(&unit);
        let removed = self.inner.runtime.delete(&unit).await;
        removed.inspect_err(|_| self.sightings().kept(&unit)).map_err(|error| refused(&error))
    }

    /// Why a new version was given up; its log goes with it, so its last words are worth telling.
    async fn fallen(&self, unit: &UnitStatus) -> ItemError {
        let now = self.inner.runtime.units_of(&unit.app).into_iter().find(|status| status.unit == unit.unit);
        let end =
            now.and_then(|status| status.state.last_end).map_or_else(String::new, |end| format!(": {end}"));
        let words = self.last_words(unit).await;
        failed(format!("the new version did not stay up{end}{words}"))
    }

    /// The last line of a unit's log, for the end of a sentence.
    pub(super) async fn last_words(&self, unit: &UnitStatus) -> String {
        let query = LogQuery {
            app: unit.app.clone(),
            unit: Some(unit.unit.clone()),
            tail: Some(1),
            ..LogQuery::default()
        };
        let last = self.inner.runtime.logs(query).recv().await;
        last.and_then(Result::ok).map_or_else(String::new, |line| {
            let text: String = line.line.text.chars().take(LAST_WORDS).collect();
            format!("; its last words: {text}")
        })
    }
}

pub(super) fn failed(text: impl Into<String>) -> ItemError {
    ItemError::new(Code::Cluster, text)
}

/// What the runtime refused, with the code of its kind.
pub(super) fn refused(error: &RuntimeError) -> ItemError {
    let code = match error {
        RuntimeError::PortInUse { .. } | RuntimeError::FileConflict { .. } => Code::Conflict,
        RuntimeError::NoSuchUser { .. } | RuntimeError::Unbounded { .. } => Code::Invalid,
        RuntimeError::Fenced { .. } => Code::Fenced,
        _ => Code::Cluster,
    };
    ItemError::new(code, error.to_string())
}

/// Units as planning sees them, oldest first.
pub(super) fn observed(mut units: Vec<UnitStatus>, revive: Revive) -> Vec<Observed> {
    units.sort_by_key(|unit| unit.created);
    let observed = |status: UnitStatus| Observed {
        phase: phase(&status, revive),
        unit: status.unit,
        generation: status.generation,
    };
    units.into_iter().map(observed).collect()
}

/// What a definition asks of planning.
pub(super) fn wanted(spec: &UnitSpec) -> Wanted {
    let app = &spec.manifest.spec;
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Wanted {
        generation: spec.generation.clone(),
        units: count(app.units),
        kind: app.strategy.kind,
        max_unavailable: count(app.strategy.max_unavailable),
        max_surge: count(app.strategy.max_surge),
        exclusive: app.ports.iter().any(|port| port.host_port != 0),
        checked: app.health.is_some(),
    }
}

fn phase(status: &UnitStatus, revive: Revive) -> Phase {
    let state = &status.state;
    if state.status == Status::Unknown {
        return Phase::Unknown;
    }
    if !state.final_state {
        return match (state.status, state.health) {
            (Status::Started, _) => Phase::Up,
            (Status::Starting, Some(Health::Starting)) => Phase::Proving,
            _ => Phase::Trying,
        };
    }
    // A stop that was asked for bears no reason; an end by the restart policy bears the policy's.
    let stopped = state.status == Status::Stopped && state.reason.is_none();
    let ended = match revive {
        Revive::Failed | Revive::Pending => state.status == Status::Error || stopped,
        Revive::Lost | Revive::Before => state.last_end == Some(Ended::Lost) || stopped,
    };
    if ended { Phase::Ended } else { Phase::Done }
}
