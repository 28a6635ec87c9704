//! The engine: accept, then execute; nothing that was accepted is ever lost.
//!
//! ```text
//! put ─► read ─► decide ─► check whole ─► store bundle and job ─► answer
//!                                                 └─► lane ─► work out ─► for each workload: store, do, store ─► end
//! ```
//!
//! Deciding is pure (`accept`, `plan`, `order`, `lanes`, `backoff`, `retention`, `model`); the rest does. Work is worked
//! out anew whenever it is begun, against what is there then, so one cut short is begun again from the start, and all that
//! is done to a workload can be done twice. Lanes are serial within a bundle and parallel across.
//!
//! The state in memory is the store's, one commit behind at most: whoever changes a bundle's rows holds its gate, stores
//! them, and then takes them over.

mod accept;
mod back;
mod backoff;
mod callbacks;
mod cancel;
mod capacity;
mod content;
mod decommission;
mod diff;
pub(crate) mod doors;
mod drive;
mod ending;
mod epochs;
mod jobs;
mod lanes;
mod manager;
mod managers;
mod model;
mod observe;
mod order;
mod pass;
mod pipeline;
mod plan;
mod put;
pub(crate) mod retention;
mod show;
mod state;
#[cfg(test)]
mod tests;
mod todos;
mod upkeep;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::HistogramVec;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use towline_bus::{clock::Moment, task::Tasks};
use towline_protocol::{
    CallError, Name, ResourceId,
    bundle::BundlePhase,
    job::{Job, JobKind, JobState},
};

pub use self::callbacks::{BundleChange, BundleEvent};
use self::{
    callbacks::Callbacks,
    lanes::Item,
    state::{Bundle, Gates, OpenJob, State},
};
pub(crate) use self::{capacity::Room, manager::Registry};
use crate::{
    calls::{Answered, Caller, Calls},
    direct::Direct,
    mark::Mark,
    owners::Owners,
    runtime::process::Watcher,
    store::{
        OutcomeKey, PATIENCE as PATIENCE_OF_CALLER, Store, StoreError,
        jobs::{self as stored_jobs, Notes},
        rows,
    },
};

/// How long work under way may take to end with the agent; what does not is begun again by the next one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bundles and their jobs. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("managers", &self.inner.registry).finish_non_exhaustive()
    }
}

/// Told the digest of what is carried out of a bundle; none when nothing is.
pub(crate) type TellApplied = Box<dyn Fn(&Name, Option<[u8; 32]>) + Send + Sync>;

/// The room that is promised to what `apply` brought here.
pub(crate) type DirectRoom = Box<dyn Fn() -> Vec<(ResourceId, Room)> + Send + Sync>;

struct Inner {
    store: Arc<Store>,
    registry: Registry,
    /// Where the agent keeps its data: the disk that room is counted on.
    data_dir: PathBuf,
    calls: Calls,
    owners: Owners,
    /// Whether `apply` brought a resource here.
    is_direct: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// The room that is promised to what `apply` brought here.
    direct_room: DirectRoom,
    applied: TellApplied,
    durations: HistogramVec,
    state: Mutex<State>,
    gates: Gates,
    /// Whether this agent may act.
    mark: Mark,
    /// Held, shared, by whoever changes rows or jobs; alone while all open jobs end at once.
    segments: Arc<tokio::sync::RwLock<()>>,
    callbacks: Callbacks,
    tasks: Tasks,
}

/// What an engine works with.
pub(crate) struct Parts {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Registry,
    pub(crate) data_dir: PathBuf,
    pub(crate) calls: Calls,
    pub(crate) owners: Owners,
    /// Tells which resources change on this host.
    pub(crate) changes: Watcher,
    pub(crate) is_direct: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// The room that is promised to what `apply` brought here.
    pub(crate) direct_room: DirectRoom,
    pub(crate) applied: TellApplied,
    pub(crate) mark: Mark,
    /// How long jobs take from acceptance to end, by kind and outcome.
    pub(crate) durations: HistogramVec,
}

impl Parts {
    /// The managers of this agent, over its direct resources.
    pub(crate) fn of_agent(
        store: Arc<Store>,
        data_dir: &Path,
        direct: &Direct,
        durations: HistogramVec,
    ) -> Self {
        let (id, by_id, by_room, by_digest) = (store.id(), direct.clone(), direct.clone(), direct.clone());
        Self {
            registry: Registry::new(managers::all(data_dir, id, direct.clone())),
            store,
            data_dir: data_dir.to_owned(),
            calls: direct.calls(),
            owners: direct.owners(),
            changes: direct.runtime().changes(),
            is_direct: Box::new(move |id| by_id.is_direct(id)),
            direct_room: Box::new(move || by_room.direct_room()),
            applied: Box::new(move |name, digest| by_digest.tell_applied(name.as_str(), digest)),
            mark: direct.runtime().mark().clone(),
            durations,
        }
    }
}

impl Engine {
    /// Takes up the bundles and jobs of the store. What was accepted and not finished is begun (again); what runs is found
    /// and not touched; after a reboot of the host, what is active comes up in its order.
    ///
    /// `boot` names the boot of the host.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(crate) async fn open(parts: Parts, boot: &str) -> Result<Self, StoreError> {
        let Parts {
            store,
            registry,
            data_dir,
            calls,
            owners,
            changes,
            is_direct,
            direct_room,
            applied,
            mark,
            durations,
        } = parts;
        let (state, rebooted, skipped) = stored_state(&store, boot)?;
        let inner = Inner {
            store,
            registry,
            data_dir,
            calls,
            owners,
            is_direct,
            direct_room,
            applied,
            durations,
            state: Mutex::new(state),
            gates: Gates::default(),
            mark,
            segments: Arc::default(),
            callbacks: Callbacks::default(),
            tasks: Tasks::new(),
        };
        let engine = Self { inner: Arc::new(inner) };
        if engine.state().to_come_up.is_empty() {
            let boot = boot.to_owned();
            engine
                .inner
                .store
                .write_out(move |transaction| crate::store::note_boot(transaction, &boot))
                .await?;
        }
        engine.claim_again().await;
        engine.find_again(rebooted, skipped).await?;
        let names: Vec<Name> = engine.state().bundles.keys().cloned().collect();
        for name in &names {
            engine.wait_for_retry(name, &BTreeSet::new());
            engine.settle_later(name);
            engine.told(name);
        }
        engine.inner.tasks.spawn("retry", engine.clone().retry());
        engine.inner.tasks.spawn("watch", engine.clone().watch(changes));
        engine.inner.tasks.spawn("managers", engine.clone().get_ready());
        engine.inner.tasks.spawn("janitor", engine.clone().janitor());
        engine.kick();
        Ok(engine)
    }

    /// Has every bundle own again what it has, and what it is about to have.
    async fn claim_again(&self) {
        let pending: Vec<(Name, u64)> = {
            let state = self.state();
            let puts = state
                .jobs
                .values()
                .filter(|open| open.job.kind == JobKind::Put && open.job.state == JobState::Pending);
            puts.filter_map(|open| open.job.bundle.clone().zip(open.job.version)).collect()
        };
        for (name, version) in pending {
            let Ok(Some(bytes)) = self.content_of(&name, version).await else { continue };
            let read = content::read_accepted(self.inner.registry.clone(), name.clone(), bytes);
            let Ok(content) = read.await else { continue };
            let wanted: Vec<(ResourceId, bool)> = content
                .members
                .iter()
                .map(|member| (member.resource.clone(), member.traits.shared))
                .collect();
            self.inner.owners.claim(&name, &wanted).ok();
            if let Some(bundle) = self.state().bundles.get_mut(&name) {
                bundle.coming = content.coming();
            }
        }
        let state = self.state();
        for (name, bundle) in &state.bundles {
            let rows = bundle.workloads.values();
            let wanted: Vec<(ResourceId, bool)> =
                rows.map(|row| (row.resource.clone(), row.shared)).collect();
            self.inner.owners.claim(name, &wanted).ok();
        }
    }

    /// Leaves to `bundle` what it has and what it is about to have, and nothing else.
    fn release(&self, bundle: &Name) {
        let kept: BTreeSet<ResourceId> = {
            let state = self.state();
            let found = state.bundles.get(bundle).into_iter();
            let of = |bundle: &Bundle| {
                let rows = bundle.workloads.values().map(|row| row.resource.clone());
                rows.chain(bundle.coming.iter().map(|coming| coming.resource.clone())).collect::<Vec<_>>()
            };
            found.flat_map(of).collect()
        };
        self.inner.owners.retain(bundle, |resource| kept.contains(resource));
    }

    /// Tells what is carried out of `bundle` now.
    fn told(&self, bundle: &Name) {
        let digest = {
            let state = self.state();
            let found = state.bundles.get(bundle).filter(|bundle| !bundle.workloads.is_empty());
            found.map(|bundle| {
                let mut hasher = blake3::Hasher::new();
                for row in bundle.workloads.values() {
                    hasher.update(row.id.as_str().as_bytes()).update(b"\0");
                    hasher.update(row.holds.as_ref().map_or(&[0; 32], |digest| digest.as_bytes()));
                    hasher.update(row.result.state.as_str().as_bytes());
                }
                *hasher.finalize().as_bytes()
            })
        };
        (self.inner.applied)(bundle, digest);
    }

    /// Things that wait in the lanes, and jobs that have not ended, by state.
    fn load(&self) -> (usize, BTreeMap<JobState, i64>) {
        let state = self.state();
        let mut jobs: BTreeMap<JobState, i64> = [(JobState::Pending, 0), (JobState::Running, 0)].into();
        for open in state.jobs.values() {
            *jobs.entry(open.job.state.clone()).or_default() += 1;
        }
        (state.lanes.depth(), jobs)
    }

    /// What does not come on, for whoever outlives the engine.
    pub(crate) fn stall_watch(&self) -> impl Fn(Moment) -> Option<String> + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.inner);
        move |now| Self { inner: inner.upgrade()? }.stalled(now)
    }

    /// [`Engine::load`], for whoever outlives the engine.
    pub(crate) fn load_watch(&self) -> impl Fn() -> (usize, BTreeMap<JobState, i64>) + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.inner);
        move || inner.upgrade().map(|inner| Self { inner }.load()).unwrap_or_default()
    }

    /// Cancelled when nothing is done any more: the engine was closed, or one of its tasks panicked.
    pub(crate) fn stopped(&self) -> CancellationToken {
        self.inner.tasks.stopping().clone()
    }

    /// Ends the engine's tasks: the operation under way is finished, what follows is left to the next start.
    pub(crate) async fn close(&self) {
        if !self.inner.tasks.stop(PATIENCE).await {
            tracing::warn!("work on bundles did not end in time; it is begun again at the next start");
        }
    }

    async fn once<T, W, F>(&self, caller: &Caller, question: String, work: W) -> Result<T, CallError>
    where
        T: DeserializeOwned,
        W: FnOnce(OutcomeKey) -> F + Send + 'static,
        F: Future<Output = Answered> + Send + 'static,
    {
        // Only the caller's patience ends; the work goes on, and a repetition is told how it ended.
        let answer =
            tokio::time::timeout(PATIENCE_OF_CALLER, self.inner.calls.once(caller, question, work)).await;
        let late = |_| CallError::unknown_outcome("the agent did not answer in time; the call goes on");
        let answer = answer.map_err(late)??;
        let lost = || CallError::unknown_outcome("what was answered is not remembered in full");
        serde_json::from_str(&answer.ok_or_else(lost)?).map_err(|_| lost())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the store knows, what is to be begun by it, whether the host has been started anew since, and whether there is more
/// that could not be read.
fn stored_state(store: &Store, boot: &str) -> Result<(State, bool, bool), StoreError> {
    let before = store.read(crate::store::noted_boot)?;
    let rebooted = before.is_some_and(|before| before != boot);
    let (loaded, jobs) =
        store.read(|transaction| Ok((rows::load(transaction)?, stored_jobs::unfinished(transaction)?)))?;
    let mut state = State { boot: boot.to_owned(), ..State::default() };
    for (row, workloads) in loaded.bundles {
        if rebooted && row.phase == BundlePhase::Active {
            state.lanes.submit(&row.name, Item::Reboot);
            state.to_come_up.insert(row.name.clone());
        }
        state.bundles.insert(row.name.clone(), Bundle::new(row, workloads));
    }
    for (job, notes) in jobs {
        let Some(bundle) = job.bundle.clone() else { continue };
        let notes = notes.unwrap_or_else(|| noted_before(state.bundles.get(&bundle), &job));
        state.lanes.submit(&bundle, Item::Job { id: job.id, kind: job.kind.clone() });
        state.jobs.insert(job.id, OpenJob::new(job, notes));
    }
    Ok((state, rebooted, loaded.skipped))
}

/// What an older agent noted of a job: in the row of its bundle, of the last one alone.
fn noted_before(bundle: Option<&Bundle>, job: &Job) -> Notes {
    let is_last = |row: &&rows::BundleRow| match job.kind {
        JobKind::Put => row.put == job.id,
        JobKind::Delete => row.job == job.id,
        _ => false,
    };
    let row = bundle.map(|bundle| &bundle.row).filter(is_last);
    Notes { forced: row.is_some_and(|row| row.forced), cancel: None }
}
