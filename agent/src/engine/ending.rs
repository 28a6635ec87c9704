//! How a bundle and a job stand before and after a pass. Pure but for the time.

use std::collections::{BTreeMap, BTreeSet};

use towline_bus::clock;
use towline_protocol::{
    CallError, Code, ItemError, WorkloadId,
    bundle::{BundlePhase, ResultState, WorkloadResult},
    job::{Job, JobKind, JobState},
};

use super::{
    BundleChange, BundleEvent,
    back::TakenBack,
    pass::{Goal, Pass},
    state::Bundle,
};
use crate::store::{
    records,
    rows::{BundleRow, WorkloadRow},
};

impl Pass {
    /// The rows of a bundle that nothing can be done for, its content being lost or not readable by this agent: each says
    /// so, and is tried again.
    pub(super) fn hopeless(&self, target: u64, error: &CallError) -> Vec<WorkloadRow> {
        let now = clock::unix_ms();
        let worse = |row: &WorkloadRow| {
            let since = match row.result.state {
                ResultState::Error => row.result.since_unix_ms,
                _ => now,
            };
            let result = WorkloadResult {
                state: ResultState::Error,
                message: Some(error.message.clone()),
                since_unix_ms: since,
                job: self.job_id(),
            };
            WorkloadRow { attempts: row.attempts + 1, result, ..row.clone() }
        };
        let rows = self.read(|bundle| {
            let mine = self.job_id() == Some(bundle.row.put) && bundle.row.accepted == target;
            let awaited = bundle.awaited().filter(|_| mine);
            let there = bundle.workloads.values().filter(|row| !row.given_up).cloned();
            there.chain(awaited).map(|row| worse(&row)).collect()
        });
        rows.unwrap_or_default()
    }

    /// What the record is to say of rows with which a pass begins: what is new, and what stands otherwise than before.
    pub(super) fn told(&self, rows: &[WorkloadRow]) -> Vec<records::Entry> {
        let Some(known) = self.read(Bundle::clone) else { return Vec::new() };
        // Of what its own version adds the record says already that it comes.
        let own = known.coming.iter().filter(|_| self.job_id() == Some(known.row.put));
        let announced: BTreeSet<&WorkloadId> =
            own.filter(|coming| coming.announced).map(|coming| &coming.id).collect();
        let is_news = |row: &&WorkloadRow| match known.workloads.get(&row.id) {
            Some(before) => {
                before.result.state != row.result.state || before.result.message != row.result.message
            }
            None => row.result.state != ResultState::Init || !announced.contains(&row.id),
        };
        let entry = |row: &WorkloadRow| records::Entry {
            at_unix_ms: clock::unix_ms(),
            version: row.version,
            workload: Some(row.id.clone()),
            state: row.result.state.clone(),
            message: row.result.message.clone(),
            job: row.result.job,
        };
        rows.iter().filter(is_news).map(entry).collect()
    }

    /// What listeners are told.
    pub(super) fn event(&self, before: &BundleRow, after: &BundleRow) -> BundleEvent {
        let change = match () {
            () if after.phase == BundlePhase::Deleted => BundleChange::Deleted,
            () if before.applied.is_none() && after.applied.is_some() => BundleChange::Created,
            () => BundleChange::Updated,
        };
        BundleEvent { bundle: self.bundle.clone(), change, failed: !self.errors.is_empty() }
    }

    /// How the bundle stands after this pass; says which rows go with it.
    pub(super) fn settle(&self, known: &Bundle, row: &mut BundleRow, was_cancelled: bool) -> Vec<WorkloadId> {
        let now = clock::unix_ms();
        if was_cancelled {
            return self.go_back(known, row);
        }
        match &self.goal {
            Goal::Remove { force } => {
                let left = known.workloads.keys().cloned().collect::<Vec<_>>();
                if left.is_empty() || *force {
                    row.phase = BundlePhase::Deleted;
                    row.applied = None;
                    row.forced = false;
                    row.since_unix_ms = now;
                    return left;
                }
            }
            Goal::Bring { .. }
                if self.errors.is_empty() && row.phase == BundlePhase::Active && row.target > 0 =>
            {
                let whole = known.workloads.values().all(|row| row.holds.is_some());
                if whole && row.applied != Some(row.target) {
                    row.applied = Some(row.target);
                    row.since_unix_ms = now;
                }
            }
            _ => {}
        }
        Vec::new()
    }
}

/// How a job ended, and a sentence about it.
pub(super) fn verdict(
    job: &Job,
    errors: &BTreeMap<String, ItemError>,
    taken_back: Option<&TakenBack>,
    row: &BundleRow,
) -> (JobState, Option<String>) {
    let own = errors.values().filter(|error| error.code != Code::Cancelled).count();
    if let Some(TakenBack { reason, later }) = taken_back {
        let undone = match own {
            0 if *later => "what was done of it is undone next".to_owned(),
            0 => "what it did was undone".to_owned(),
            failed => format!("undoing {failed} of its operations failed"),
        };
        let why = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        return (JobState::Cancelled, Some(format!("taken back{why}; {undone}")));
    }
    match (own, &row.phase) {
        (0, BundlePhase::Paused) if job.kind == JobKind::Put => {
            (JobState::Done, Some("the bundle is paused: what is new begins when it is resumed".to_owned()))
        }
        (0, _) => (JobState::Done, None),
        (1, _) => (JobState::Failed, Some("1 workload failed; it is tried again".to_owned())),
        (failed, _) => (JobState::Failed, Some(format!("{failed} workloads failed; they are tried again"))),
    }
}
