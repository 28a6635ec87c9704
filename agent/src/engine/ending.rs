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
            // Not where it had gone before, and what was accepted since is to come.
            Goal::Remove { force } if row.phase == BundlePhase::Deleting => {
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
                row.forced &= row.target != row.accepted;
            }
            _ => {}
        }
        Vec::new()
    }

    /// How the bundle stands when the job was taken back: as it did when that began. Says which rows go with it.
    fn go_back(&self, known: &Bundle, row: &mut BundleRow) -> Vec<WorkloadId> {
        let Some(job) = &self.job else { return Vec::new() };
        let before = row.begun.clone().filter(|begun| begun.job == job.id);
        row.void |= job.kind == JobKind::Put && job.id == row.put;
        if self.resumed {
            // What an earlier agent did of it was not undone: that is brought about by the next pass.
            row.applied = None;
        }
        match (&job.kind, before) {
            (JobKind::Delete | JobKind::Pause | JobKind::Resume, Some(before)) => row.phase = before.phase,
            (JobKind::Put, Some(before)) => {
                row.target = before.target;
                // What was on its way out when this version came, goes on going.
                row.phase = before.phase;
                // What this version alone wanted and never had; the one before may want what it lacks, too. What may be
                // there in part keeps its row until it was taken down.
                let own = |row: &&WorkloadRow| {
                    let never = row.holds.is_none() && !self.resumed && !self.failed.contains(&row.id);
                    never && job.version == Some(row.version) && row.version != before.target
                };
                return known.workloads.values().filter(own).map(|row| row.id.clone()).collect();
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
    was_cancelled: bool,
    row: &BundleRow,
) -> (JobState, Option<String>) {
    let own = errors.values().filter(|error| error.code != Code::Cancelled).count();
    if was_cancelled {
        let undone = match own {
            0 => "taken back; what it did was undone".to_owned(),
            failed => format!("taken back; undoing {failed} of its operations failed"),
        };
        return (JobState::Cancelled, Some(undone));
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
