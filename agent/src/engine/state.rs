//! What the engine holds in memory: the rows of the store, who works on what, and who waits for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use towline_bus::clock::{self, Moment};
use towline_protocol::{
    JobId, Name, ResourceId, WorkloadId,
    bundle::{BundlePhase, ResultState, WorkloadResult},
    job::{Job, JobState},
};

use super::{capacity::Room, lanes::Lanes, pass::Todo, plan::There};
use crate::store::{
    jobs::Notes,
    rows::{BundleRow, WorkloadRow},
};

/// A workload of an accepted version that was not begun yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coming {
    pub(super) id: WorkloadId,
    pub(super) resource: ResourceId,
    pub(super) needs: Room,
    /// The record says already that it comes.
    pub(super) announced: bool,
}

/// How a lane comes on.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    /// What is being done.
    pub(super) what: String,
    /// When it came on last.
    pub(super) since: Moment,
    /// The operation, if it is one: what that is about may declare to take long.
    pub(super) todo: Option<Todo>,
}

impl Beat {
    /// Of nothing in particular, and nothing that may take long.
    pub(super) fn now() -> Self {
        Self { what: String::new(), since: clock::now(), todo: None }
    }
}

/// A bundle, as the store has it.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    pub(super) row: BundleRow,
    pub(super) workloads: BTreeMap<WorkloadId, WorkloadRow>,
    /// The workloads of an accepted version that was not begun yet.
    pub(super) coming: Vec<Coming>,
    /// When what failed is tried again; none if nothing failed.
    pub(super) due: Option<Moment>,
    /// How workloads are known to have drifted.
    pub(super) drift: BTreeMap<WorkloadId, Drifted>,
    /// When a look at a workload was last answered.
    pub(super) looked: BTreeMap<WorkloadId, Moment>,
}

/// How a workload differs from its definition, as the last look that was answered found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drifted {
    /// Since when, in Unix milliseconds.
    pub(super) since_unix_ms: u64,
    pub(super) message: String,
    /// Somebody mends it.
    pub(super) mending: bool,
}

impl Bundle {
    pub(super) fn new(row: BundleRow, workloads: BTreeMap<WorkloadId, WorkloadRow>) -> Self {
        Self {
            row,
            workloads,
            coming: Vec::new(),
            due: None,
            drift: BTreeMap::new(),
            looked: BTreeMap::new(),
        }
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

    /// What is to be there that has no row yet, as the row that it will have.
    pub(super) fn awaited(&self) -> impl Iterator<Item = WorkloadRow> {
        let new = self.coming.iter().filter(|coming| !self.workloads.contains_key(&coming.id));
        new.map(|coming| {
            let result = WorkloadResult {
                state: ResultState::Init,
                message: None,
                since_unix_ms: self.row.since_unix_ms,
                job: Some(self.row.put),
            };
            let (id, resource) = (coming.id.clone(), coming.resource.clone());
            WorkloadRow { needs: coming.needs, ..WorkloadRow::new(id, resource, self.row.accepted, result) }
        })
    }

    /// At most `limit` of its workloads after `after`, by id: what was accepted is shown from then on.
    pub(super) fn shown(&self, after: Option<&WorkloadId>, limit: usize) -> Vec<WorkloadRow> {
        let wanted = |id: &WorkloadId| after.is_none_or(|after| id > after);
        let there = self.workloads.values().filter(|row| wanted(&row.id)).take(limit).cloned();
        let mut rows: Vec<WorkloadRow> = there.chain(self.awaited().filter(|row| wanted(&row.id))).collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows.truncate(limit);
        rows
    }

    /// How old the last look at a workload is that was answered, in milliseconds; where there was none, as old as the result.
    pub(super) fn age_ms(&self, row: &WorkloadRow) -> u64 {
        match self.looked.get(&row.id) {
            Some(looked) => u64::try_from(clock::now().since(*looked).as_millis()).unwrap_or(u64::MAX),
            None => clock::unix_ms().saturating_sub(row.result.since_unix_ms),
        }
    }

    /// The same, as planning sees them.
    pub(super) fn there(&self) -> Vec<There> {
        let there = |row: &WorkloadRow| There {
            id: row.id.clone(),
            holds: row.holds,
            state: row.result.state.clone(),
            failing: row.is_failing(),
        };
        self.in_order().into_iter().map(there).collect()
    }
}

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct OpenJob {
    pub(super) job: Job,
    pub(super) notes: Notes,
    pub(super) cancelled: CancellationToken,
    /// The sequence of its newest record that is durable.
    pub(super) progress: watch::Sender<u64>,
}

impl OpenJob {
    pub(super) fn new(job: Job, notes: Notes) -> Self {
        let ((progress, _), cancelled) = (watch::channel(job.records), CancellationToken::new());
        if notes.cancel.is_some() {
            cancelled.cancel();
        }
        Self { job, notes, cancelled, progress }
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
    /// Room that is promised to versions which are being stored.
    pub(super) admitted: BTreeMap<Name, Vec<(ResourceId, Room)>>,
    /// Kinds whose manager is not ready, and why.
    pub(super) unready: BTreeMap<&'static str, String>,
    /// Not all that the store knows could be read.
    pub(super) partial: bool,
    /// What is being worked on, since when it has not come on.
    pub(super) at_work: BTreeMap<Name, Beat>,
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
