//! How a bundle and a job stand after a pass. Pure but for the time.

use std::collections::BTreeMap;

use towline_bus::clock;
use towline_protocol::{
    Code, ItemError, WorkloadId,
    bundle::BundlePhase,
    job::{Job, JobKind, JobState},
};

use super::{
    BundleChange, BundleEvent,
    pass::{Goal, Pass},
    state::Bundle,
};
use crate::store::rows::{BundleRow, WorkloadRow};

impl Pass {
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
                // What this version alone wanted and never had; the one before may want what it lacks, too.
                let own = |row: &&WorkloadRow| {
                    row.holds.is_none() && job.version == Some(row.version) && row.version != before.target
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
