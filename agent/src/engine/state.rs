//! What the engine holds in memory: the rows of the store, who works on what, and who waits for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use towline_bus::clock::Moment;
use towline_protocol::{
    JobId, Name, ResourceId, WorkloadId,
    bundle::BundlePhase,
    job::{Job, JobState},
};

use super::{capacity::Room, lanes::Lanes, plan::There};
use crate::store::rows::{BundleRow, WorkloadRow};

/// A bundle, as the store has it.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    pub(super) row: BundleRow,
    pub(super) workloads: BTreeMap<WorkloadId, WorkloadRow>,
    /// What an accepted version adds that was not begun yet.
    pub(super) coming: Vec<(ResourceId, Room)>,
    /// When what failed is tried again; none if nothing failed.
    pub(super) due: Option<Moment>,
    /// Since when a workload is known to have drifted, in Unix milliseconds, and how.
    pub(super) drift: BTreeMap<WorkloadId, (u64, String)>,
}

impl Bundle {
    pub(super) fn new(row: BundleRow, workloads: BTreeMap<WorkloadId, WorkloadRow>) -> Self {
        Self { row, workloads, coming: Vec::new(), due: None, drift: BTreeMap::new() }
    }

    /// Whether it may be otherwise than it is to be though nothing of it failed: its last work was cut short.
    pub(super) fn is_unsettled(&self) -> bool {
        match self.row.phase {
            BundlePhase::Deleted => false,
            BundlePhase::Deleting => true,
            _ if self.row.target == 0 => !self.workloads.is_empty(),
            _ => self.row.applied != Some(self.row.target),
        }
    }

    /// Its workloads in the order they were started in.
    pub(super) fn in_order(&self) -> Vec<&WorkloadRow> {
        let mut rows: Vec<&WorkloadRow> = self.workloads.values().collect();
        rows.sort_by_key(|row| row.rank);
        rows
    }

    /// The same, as planning sees them.
    pub(super) fn there(&self) -> Vec<There> {
        let there = |row: &WorkloadRow| There {
            id: row.id.clone(),
            holds: row.holds,
            state: row.result.state.clone(),
            failing: row.attempts > 0,
        };
        self.in_order().into_iter().map(there).collect()
    }
}

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct OpenJob {
    pub(super) job: Job,
    pub(super) cancelled: CancellationToken,
    /// The sequence of its newest record that is durable.
    pub(super) progress: watch::Sender<u64>,
}

impl OpenJob {
    pub(super) fn new(job: Job) -> Self {
        let (progress, _) = watch::channel(job.records);
        Self { job, cancelled: CancellationToken::new(), progress }
    }
}

/// Everything that the engine holds.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) bundles: BTreeMap<Name, Bundle>,
    pub(super) jobs: HashMap<JobId, OpenJob>,
    pub(super) lanes: Lanes,
    /// The boot of the host.
    pub(super) boot: String,
    /// Bundles that are yet to come up after it. The boot is noted after the last: an agent that dies before it begins
    /// anew with all of them, for what had come up is not hurt by coming up again.
    pub(super) to_come_up: BTreeSet<Name>,
    /// What is being worked on, since when it has not come on.
    pub(super) at_work: BTreeMap<Name, (String, Moment)>,
}

impl State {
    /// Whether a job was not begun yet. One that an earlier agent began waits for its lane, too, and may have been done in
    /// part: it is not simply left out.
    pub(super) fn is_pending(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|open| open.job.state == JobState::Pending)
    }
}

/// One lock per bundle: whoever reads its rows to write them anew holds it.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>);

impl Gates {
    /// Waits for the lock of `bundle`. Locks that nobody holds or waits for are forgotten on the way.
    pub(super) async fn pass(&self, bundle: &Name) -> OwnedMutexGuard<()> {
        self.gate(bundle).lock_owned().await
    }

    /// The lock of `bundle`, if nobody holds it.
    pub(super) fn try_pass(&self, bundle: &Name) -> Option<OwnedMutexGuard<()>> {
        self.gate(bundle).try_lock_owned().ok()
    }

    fn gate(&self, bundle: &Name) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(gates.entry(bundle.clone()).or_default())
    }
}
