//! Carrying out one thing of a lane: what is to be done is worked out against what is there, then done one workload after
//! the other. Each is stored before it is begun, and again with its result; a pass that was cut short is simply run again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use redb::WriteTransaction;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use towline_bus::clock;
use towline_protocol::{
    CallError, Code, ContentDigest, ItemError, JobId, Name, WorkloadId,
    bundle::{BundlePhase, ResultState},
    job::{Job, JobKind, JobState},
};

use super::{
    Engine, decommission,
    ending::verdict,
    jobs::{end, next_record, selected},
    lanes::Item,
    model::Verb,
    retention,
    state::Bundle,
    todos::{Lost, Todos},
};
use crate::failpoints::failpoint;
use crate::store::{
    StoreError, jobs, note_boot,
    once::once,
    records,
    rows::{self, Begun, BundleRow},
};

/// What a pass is to bring about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// Its content, as far as nobody paused it. With workloads: those that failed, however often.
    Bring { again: bool, only: Vec<WorkloadId> },
    /// Nothing of it.
    Remove { force: bool },
    /// All of it stopped.
    Pause,
    /// One workload as it is defined.
    Repair(WorkloadId),
    /// One workload gone, and why.
    GiveUp(WorkloadId, String),
}

/// One operation on one workload.
#[derive(Debug, Clone)]
pub(super) struct Todo {
    pub(super) verb: Verb,
    pub(super) id: WorkloadId,
    /// What is to hold afterwards.
    pub(super) definition: Bytes,
    pub(super) digest: ContentDigest,
    pub(super) version: u64,
    /// What held before: definition, digest, version.
    pub(super) before: Option<(Bytes, ContentDigest, u64)>,
}

impl Todo {
    /// What takes it back.
    fn inverse(&self) -> Option<Self> {
        let verb = self.verb.inverse()?;
        // What failed before it was stopped is tried again by itself.
        if verb == Verb::Resume && self.before.is_none() {
            return None;
        }
        let this = (self.definition.clone(), self.digest, self.version);
        let (definition, digest, version) = match verb {
            Verb::Update | Verb::Add => self.before.clone()?,
            _ => this.clone(),
        };
        Some(Self { verb, id: self.id.clone(), definition, digest, version, before: Some(this) })
    }
}

/// A pass under way.
pub(super) struct Pass {
    pub(super) engine: Engine,
    pub(super) bundle: Name,
    pub(super) goal: Goal,
    pub(super) job: Option<Job>,
    pub(super) cancelled: CancellationToken,
    /// What failed, by workload.
    pub(super) errors: BTreeMap<String, ItemError>,
    /// Workloads whose operation failed or was skipped.
    pub(super) failed: BTreeSet<WorkloadId>,
    /// Those of them that were not begun at all, for something stands in their way.
    pub(super) skipped: BTreeSet<WorkloadId>,
    /// What must stay, for what could not be removed needs it.
    pub(super) needed: BTreeSet<WorkloadId>,
    begun: Vec<Todo>,
    /// An earlier agent began it, and did some of it.
    pub(super) resumed: bool,
    /// It was cancelled in time, and what it did was undone.
    taken_back: bool,
}

/// The agent ends; what is left is done by the next one.
#[derive(Debug)]
pub(super) struct Ending;

impl Engine {
    /// Does one thing of the lane of `bundle`.
    pub(super) async fn run_item(&self, bundle: Name, item: Item) {
        let came_up = (item == Item::Reboot).then(|| bundle.clone());
        if let Some(mut pass) = self.pass(bundle, item) {
            // Otherwise the next agent finds it as it is, and begins it again.
            if pass.run().await.is_err() {
                tracing::info!(bundle = %pass.bundle, "work is left to the next start");
                return;
            }
        }
        let boot = came_up.and_then(|bundle| {
            let mut state = self.state();
            let last = state.to_come_up.remove(&bundle) && state.to_come_up.is_empty();
            last.then(|| state.boot.clone())
        });
        if let Some(boot) = boot {
            self.persist(move |transaction| note_boot(transaction, &boot)).await.ok();
        }
    }

    fn pass(&self, bundle: Name, item: Item) -> Option<Pass> {
        let state = self.state();
        let phase = state.bundles.get(&bundle)?.row.phase.clone();
        let forced = state.bundles.get(&bundle)?.row.forced;
        let by_phase = |again, only| match phase {
            // One that has gone by now has nothing that could be brought back: its contents went with it.
            BundlePhase::Deleting | BundlePhase::Deleted => Goal::Remove { force: forced },
            BundlePhase::Paused => Goal::Pause,
            _ => Goal::Bring { again, only },
        };
        let mut cancelled = CancellationToken::new();
        let (goal, job) = match item {
            Item::Job { id, .. } => {
                let open = state.jobs.get(&id)?;
                cancelled = open.cancelled.clone();
                let goal = match open.job.kind {
                    JobKind::Put => Goal::Bring { again: forced, only: Vec::new() },
                    JobKind::Resume => Goal::Bring { again: false, only: Vec::new() },
                    JobKind::Delete => Goal::Remove { force: forced },
                    JobKind::Pause => Goal::Pause,
                    JobKind::Decommission => decommission::goal(&open.job)?,
                    _ => by_phase(false, selected(&open.job)),
                };
                (goal, Some(open.job.clone()))
            }
            Item::Reboot => (by_phase(true, Vec::new()), None),
            Item::Retry => (by_phase(false, Vec::new()), None),
            Item::Repair { workload } => (Goal::Repair(workload), None),
        };
        drop(state);
        let engine = self.clone();
        let resumed = job.as_ref().is_some_and(|job| job.state == JobState::Running);
        Some(Pass {
            engine,
            bundle,
            goal,
            job,
            cancelled,
            errors: BTreeMap::new(),
            failed: BTreeSet::new(),
            skipped: BTreeSet::new(),
            needed: BTreeSet::new(),
            begun: Vec::new(),
            resumed,
            taken_back: false,
        })
    }
}

impl Engine {
    /// Bundles that went so long ago that they are to be forgotten, now that one more goes; each with its gate.
    fn long_gone(&self, goes: &Name) -> Vec<(Name, OwnedMutexGuard<()>)> {
        let is_gone = |name: &Name, bundle: &Bundle| name != goes && bundle.row.phase == BundlePhase::Deleted;
        let gone = {
            let state = self.state();
            let gone = state.bundles.iter().filter(|(name, bundle)| is_gone(name, bundle));
            gone.map(|(name, bundle)| (bundle.row.since_unix_ms, name.clone())).collect()
        };
        let surplus = retention::long_gone(gone, retention::GONE - 1).into_iter();
        let held = surplus.filter_map(|name| Some((name.clone(), self.inner.gates.try_pass(&name)?)));
        let state = self.state();
        // Looked at again, now that nobody changes them.
        let idle = |name: &Name| {
            state.lanes.is_idle(name) && state.bundles.get(name).is_some_and(|bundle| is_gone(name, bundle))
        };
        held.filter(|(name, _)| idle(name)).collect()
    }

    /// Counts a job that has ended, and tells those who watch it that its last record is durable.
    pub(super) fn job_ended(&self, job: &Job, last: u64) {
        let took = job.ended_unix_ms.unwrap_or(0).saturating_sub(job.accepted_unix_ms);
        let histogram = self.inner.durations.with_label_values(&[job.kind.as_str(), job.state.as_str()]);
        histogram.observe(Duration::from_millis(took).as_secs_f64());
        if let Some(open) = self.state().jobs.remove(&job.id) {
            open.progress.send_replace(last);
        }
    }

    /// Whether a version of `bundle` was accepted that is to be begun after what is under way.
    fn is_to_come(&self, bundle: &Name) -> bool {
        let of_it = |job: &Job| {
            job.kind == JobKind::Put && job.state == JobState::Pending && job.bundle.as_ref() == Some(bundle)
        };
        self.state().jobs.values().any(|open| of_it(&open.job))
    }
}

impl Pass {
    async fn run(&mut self) -> Result<(), Ending> {
        let asked = self.job.is_some();
        let begun = {
            let _segment = self.its_turn().await?;
            // Its job ended while it waited: nothing was begun, and nothing is to be.
            if asked && self.job.is_none() {
                return Ok(());
            }
            self.begin().await?
        };
        let todos = match begun {
            Ok(todos) => todos,
            Err(error) => {
                self.errors.insert(self.bundle.to_string(), ItemError::new(error.code, error.message));
                return self.finish().await;
            }
        };
        for todo in todos {
            if self.engine.inner.tasks.stopping().is_cancelled() {
                return Err(Ending);
            }
            if self.cancelled.is_cancelled() {
                break;
            }
            self.begun.push(todo.clone());
            self.act(&todo).await?;
        }
        if self.cancelled.is_cancelled() {
            self.take_back().await?;
        }
        self.finish().await
    }

    /// Works out what is to be done, and stores that it is begun.
    async fn begin(&mut self) -> Result<Result<Vec<Todo>, CallError>, Ending> {
        let target = match &self.job {
            Some(job) if job.kind == JobKind::Put => job.version,
            _ => None,
        };
        let target = target.unwrap_or_else(|| self.read(|bundle| bundle.row.target).unwrap_or(0));
        let todos = self.worked_out(target).await?.and_then(|todos| self.claim(todos));
        let _gate = self.engine.inner.gates.pass(&self.bundle).await;
        let Some(mut row) = self.read(|bundle| bundle.row.clone()) else { return Ok(Ok(Vec::new())) };
        self.begin_row(&mut row, target);
        let started = self.job.as_mut().map(|job| {
            job.state = JobState::Running;
            job.started_unix_ms.get_or_insert_with(clock::unix_ms);
            let record = next_record(job, None);
            (job.clone(), record)
        });
        let (rows, todos) = match todos {
            Ok((rows, todos)) => (rows, Ok(todos)),
            Err(error) => (self.hopeless(target, &error), Err(error)),
        };
        let told = self.told(&rows);
        let (bundle, stored, new_rows) = (self.bundle.clone(), row.clone(), rows.clone());
        self.persist(move |transaction| {
            rows::put_bundle(transaction, &stored)?;
            new_rows.iter().try_for_each(|row| rows::put_workload(transaction, &bundle, row, None))?;
            for entry in &told {
                records::append(transaction, bundle.as_str(), entry.clone())?;
            }
            if let Some((job, record)) = &started {
                jobs::put_job(transaction, job)?;
                jobs::append_job_record(transaction, job.id, record)?;
            }
            Ok(())
        })
        .await?;
        failpoint!("pass.begun");
        let job = self.job_id();
        self.change(|bundle| {
            // Only now has it what its accepted version adds; another pass leaves it what is still to come.
            if job.is_some_and(|job| job == row.put) {
                bundle.coming.clear();
            }
            bundle.row = row;
            rows.into_iter().for_each(|row| drop(bundle.workloads.insert(row.id.clone(), row)));
        });
        self.publish();
        Ok(todos)
    }

    /// The work towards the goal. Waits for a store that does not answer, as what is to be stored does: a job that failed
    /// for that would not be tried again.
    async fn worked_out(&self, target: u64) -> Result<Result<Todos, CallError>, Ending> {
        loop {
            match self.try_work_out(target).await {
                Ok(todos) => return Ok(Ok(todos)),
                Err(Lost::Content(error)) => return Ok(Err(error)),
                Err(Lost::Store(error)) => tracing::error!(%error, "work waits until the store can be read"),
            }
            self.engine.wait_for_disk().await?;
            // The database refuses everything after one failure; only a write has it opened anew.
            self.persist(|_| Ok(())).await?;
        }
    }

    async fn try_work_out(&self, target: u64) -> Result<Todos, Lost> {
        let todos = self.todos(target).await?;
        failpoint!(
            "pass.worked-out",
            Lost::Store(CallError::new(Code::Cluster, "a test says that the store cannot be read"))
        );
        Ok(todos)
    }

    /// Nothing is begun that another bundle owns.
    fn claim(&self, todos: Todos) -> Result<Todos, CallError> {
        let wanted: Vec<_> = todos.0.iter().map(|row| (row.resource.clone(), row.shared)).collect();
        self.engine.inner.owners.claim(&self.bundle, &wanted).map_err(|(resource, owner)| {
            CallError::new(Code::Conflict, format!("{resource} is of bundle {owner}"))
        })?;
        Ok(todos)
    }

    /// What the bundle is meant to be from here on.
    fn begin_row(&self, row: &mut BundleRow, target: u64) {
        let begun = row.begun.as_ref().map(|begun| begun.job);
        // One that was cut short and begins again must not take its own beginning for what was before.
        if let Some(job) = self.job_id().filter(|job| Some(*job) != begun) {
            // Where it was accepted when all had gone, it is active from then on; no less where that went meanwhile.
            let (target, phase) = match row.phase {
                BundlePhase::Deleted => (0, BundlePhase::Active),
                ref phase => (row.target, phase.clone()),
            };
            row.begun = Some(Begun { job, target, phase });
        }
        row.target = target;
        let kind = self.job.as_ref().map(|job| &job.kind);
        let phase = match kind {
            Some(JobKind::Delete) => BundlePhase::Deleting,
            // Who is to go, or has gone, does not come back by being paused or resumed.
            Some(JobKind::Pause) if row.phase == BundlePhase::Active => BundlePhase::Paused,
            Some(JobKind::Resume) if row.phase == BundlePhase::Paused => BundlePhase::Active,
            // What was deleted meanwhile begins anew.
            Some(JobKind::Put) if row.phase != BundlePhase::Paused => BundlePhase::Active,
            _ => row.phase.clone(),
        };
        if phase != row.phase {
            row.phase = phase;
            row.since_unix_ms = clock::unix_ms();
        }
        if kind == Some(&JobKind::Delete) {
            row.reason = self.job.as_ref().and_then(|job| job.reason.clone());
        }
    }

    /// Undoes what this pass did, in reverse, to the end.
    async fn take_back(&mut self) -> Result<(), Ending> {
        self.failed.clear();
        self.skipped.clear();
        self.needed.clear();
        let inverses: Vec<Todo> = self.begun.drain(..).rev().filter_map(|todo| todo.inverse()).collect();
        self.cancelled = CancellationToken::new();
        for mut todo in inverses {
            // Of what was cut short before it was stopped nothing is to be resumed; it is made sure of.
            let is_paused = |bundle: &Bundle| {
                bundle.workloads.get(&todo.id).is_some_and(|row| row.result.state == ResultState::Paused)
            };
            if todo.verb == Verb::Resume && !self.read(is_paused).unwrap_or(false) {
                todo.verb = Verb::Again;
            }
            self.act(&todo).await?;
        }
        self.taken_back = true;
        Ok(())
    }

    /// Stores how it ended.
    async fn finish(&mut self) -> Result<(), Ending> {
        let bundle = self.bundle.clone();
        let _segment = self.engine.segment().await;
        self.drop_ended_job();
        let _gate = self.engine.inner.gates.pass(&bundle).await;
        let Some(known) = self.read(Bundle::clone) else { return Ok(()) };
        // Not whether it was cancelled: that may have come too late for anything to be undone.
        let was_cancelled = self.taken_back;
        let mut row = known.row.clone();
        let left = self.settle(&known, &mut row, was_cancelled);
        let ended = self.job.take().map(|mut job| {
            job.errors.clone_from(&self.errors);
            let (state, message) = verdict(&job, &self.errors, was_cancelled, &row);
            end(job, state, message)
        });
        let goes = row.phase == BundlePhase::Deleted && known.row.phase != BundlePhase::Deleted;
        let record = goes.then(|| farewell(&row, ended.as_ref().map(|(job, _)| job.id)));
        let event = self.event(&known.row, &row);
        failpoint!("pass.before-end");
        // With their gates held: one that is being put again right now is not forgotten.
        let (long_gone, _held): (Vec<Name>, Vec<_>) =
            if goes { self.engine.long_gone(&bundle) } else { Vec::new() }.into_iter().unzip();
        let forgotten = long_gone.clone();
        let to_come = self.engine.is_to_come(&bundle).then_some(row.accepted);
        let (name, stored, kept, gone) = (bundle.clone(), row.clone(), ended.clone(), left.clone());
        self.persist(move |transaction| {
            for id in &gone {
                rows::remove_workload(transaction, &name, id)?;
            }
            rows::put_bundle(transaction, &stored)?;
            if goes {
                rows::drop_contents(transaction, &name, to_come)?;
                long_gone.iter().try_for_each(|other| rows::forget(transaction, other))?;
            }
            if let Some(record) = &record {
                records::append(transaction, name.as_str(), record.clone())?;
            }
            if let Some((job, record)) = &kept {
                jobs::put_job(transaction, job)?;
                jobs::append_job_record(transaction, job.id, record)?;
            }
            Ok(())
        })
        .await?;
        failpoint!("pass.ended");
        self.engine.state().bundles.retain(|name, _| !forgotten.contains(name));
        self.change(|bundle| {
            if goes && to_come.is_none() {
                bundle.coming.clear();
            }
            bundle.row = row;
            bundle.workloads.retain(|id, _| !left.contains(id));
            bundle.drift.retain(|id, _| bundle.workloads.contains_key(id));
            bundle.looked.retain(|id, _| bundle.workloads.contains_key(id));
        });
        self.engine.release(&bundle);
        self.engine.wait_for_retry(&bundle, &self.skipped);
        if was_cancelled && self.resumed {
            self.engine.settle_later(&bundle);
        }
        self.engine.told(&bundle);
        self.engine.inner.callbacks.tell(&event);
        if let Some((job, record)) = ended {
            self.engine.job_ended(&job, record.seq);
        }
        Ok(())
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Bundle) -> T) -> Option<T> {
        self.engine.state().bundles.get(&self.bundle).map(look)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Bundle)) {
        if let Some(bundle) = self.engine.state().bundles.get_mut(&self.bundle) {
            change(bundle);
        }
    }

    /// Tells those who watch the job that its records are durable.
    pub(super) fn publish(&self) {
        let Some(job) = &self.job else { return };
        if let Some(open) = self.engine.state().jobs.get_mut(&job.id) {
            open.job = job.clone();
            open.progress.send_replace(job.records);
        }
    }

    pub(super) fn job_id(&self) -> Option<JobId> {
        self.job.as_ref().map(|job| job.id)
    }

    pub(super) async fn persist<W>(&self, work: W) -> Result<(), Ending>
    where
        W: Fn(&WriteTransaction) -> Result<(), StoreError> + Clone + Send + 'static,
    {
        // Of an attempt that failed nobody knows whether the disk has it.
        let (bundle, mark) = (self.bundle.clone(), uuid::Uuid::new_v4().as_u128());
        let made = move |transaction: &WriteTransaction| once(transaction, bundle.as_str(), mark, &work);
        self.engine.persist(made).await
    }
}

/// What the record says last of a bundle that has gone.
fn farewell(row: &BundleRow, job: Option<JobId>) -> records::Entry {
    records::Entry {
        at_unix_ms: row.since_unix_ms,
        version: row.target,
        workload: None,
        state: ResultState::Deleted,
        message: row.reason.clone(),
        job,
    }
}
