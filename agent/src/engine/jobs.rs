//! Accepting jobs: what they take the place of, and what is stored with them.

use bytes::Bytes;
use redb::ReadTransaction;
use towline_bus::clock;
use towline_protocol::{
    CallError, Code, JobId, Name, RequestId, WorkloadId,
    bundle::{
        BundlePhase, Change, ChangeOp, DeleteBundleRequest, DeleteBundleResponse, JobResponse, ResultState,
    },
    job::{Job, JobKind, JobRecord, JobState},
    limits::REASON_BYTES_MAX,
};

use super::{
    Engine,
    lanes::Item,
    put::{answered, json},
    state::{Bundle, Coming, OpenJob, State},
};
use crate::{
    calls::Caller,
    failpoints::failpoint,
    store::{
        Outcome, OutcomeKey, StoreError,
        jobs::{self, Notes},
        outcomes, records,
        rows::{self, BundleRow},
    },
};

/// What is stored in one transaction, before the answer.
#[derive(Debug)]
pub(super) struct Accepting {
    pub(super) job: Job,
    pub(super) row: BundleRow,
    /// What is noted of the job.
    pub(super) notes: Notes,
    /// The documents of a put, and what they define.
    pub(super) content: Option<(Bytes, Vec<Coming>)>,
    /// What is answered, for a repetition.
    pub(super) outcome: Option<(OutcomeKey, String)>,
}

impl Engine {
    /// A job that was just accepted.
    pub(super) fn new_job(
        &self,
        kind: JobKind,
        bundle: Option<&Name>,
        version: Option<u64>,
        request: Option<RequestId>,
        reason: Option<String>,
    ) -> Job {
        Job {
            id: JobId::new(uuid::Uuid::new_v4()),
            kind,
            state: JobState::Pending,
            bundle: bundle.cloned(),
            version,
            request,
            reason,
            accepted_unix_ms: clock::unix_ms(),
            started_unix_ms: None,
            ended_unix_ms: None,
            records: 0,
            message: None,
            errors: std::collections::BTreeMap::new(),
        }
    }

    /// Stores a job with what belongs to it, ends those that it takes the place of, and hands it to its lane. Call with
    /// the bundle's gate held.
    pub(super) async fn accept(&self, accepting: Accepting) -> Result<(), CallError> {
        let Accepting { mut job, mut row, notes, content, outcome } = accepting;
        failpoint!("accept.checked", CallError::new(Code::Cluster, "a test says so"));
        if self.inner.tasks.stopping().is_cancelled() {
            return Err(CallError::new(Code::Unavailable, "the agent is ending, and accepts nothing more"));
        }
        let (bundle, kind) = (row.name.clone(), job.kind.clone());
        let withdrawn = {
            let mut state = self.state();
            let mut superseded = state.lanes.superseded(&bundle, &kind);
            superseded.retain(|id| state.is_pending(*id));
            if superseded.is_empty() && state.lanes.is_full(&bundle) {
                let text = "too many jobs of this bundle wait, or of all together";
                return Err(CallError::new(Code::Busy, text));
            }
            // Out of the lane first, so that none of them begins meanwhile.
            superseded.into_iter().filter(|id| state.lanes.withdraw(&bundle, *id)).collect::<Vec<_>>()
        };
        let mut ended: Vec<(Job, JobRecord)> = Vec::new();
        for id in &withdrawn {
            let Some(old) = self.state().jobs.get(id).map(|open| open.job.clone()) else { continue };
            ended.push(end(old, JobState::Superseded, Some(format!("job {} took its place", job.id))));
        }
        // Else the same content, put again, would be said to be what is there already.
        let superseded_put = withdrawn.contains(&row.put);
        row.void |= superseded_put;
        let first = next_record(&mut job, None);
        let (stored, noted, kept, others) = (job.clone(), notes.clone(), row.clone(), ended.clone());
        let now = clock::unix_ms();
        let (content, coming) = content.unzip();
        let coming = coming.map(|coming| self.announced(&bundle, coming, &withdrawn));
        let new: Vec<records::Entry> =
            coming.iter().flatten().filter_map(|new| init(new, &job, now)).collect();
        let write = self.inner.store.write_out(move |transaction| {
            for (job, record) in &others {
                jobs::put_job(transaction, job)?;
                jobs::append_job_record(transaction, job.id, record)?;
            }
            jobs::add_job(transaction, &stored)?;
            jobs::append_job_record(transaction, stored.id, &first)?;
            jobs::note(transaction, stored.id, &noted)?;
            rows::put_bundle(transaction, &kept)?;
            if let Some(content) = &content {
                rows::put_content(transaction, &kept.name, kept.accepted, kept.target, content)?;
            }
            for entry in new {
                records::append(transaction, kept.name.as_str(), entry)?;
            }
            if let Some((key, answer)) = outcome {
                outcomes::remember(transaction, &key, &Outcome(Ok(Some(answer))), now)?;
            }
            Ok(())
        });
        let id = job.id;
        let is_there = move |transaction: &ReadTransaction| Ok(jobs::job(transaction, id)?.is_some());
        let written = self.certain(write.await, is_there).await;
        failpoint!("accept.stored");
        let mut state = self.state();
        if let Err(error) = written {
            for id in withdrawn {
                let kind = state.jobs.get(&id).map(|open| open.job.kind.clone());
                kind.into_iter().for_each(|kind| state.lanes.submit(&bundle, Item::Job { id, kind }));
            }
            return Err(error);
        }
        // Of a version whose place was taken nothing comes any more.
        let coming = coming.or_else(|| superseded_put.then(Vec::new));
        take_over(&mut state, OpenJob::new(job, notes), row, coming, ended);
        drop(state);
        self.kick();
        Ok(())
    }

    /// `coming`, and of which the record is to say so: what is there already is no news, unless it is about to go.
    fn announced(&self, bundle: &Name, coming: Vec<Coming>, withdrawn: &[JobId]) -> Vec<Coming> {
        let state = self.state();
        let goes = |open: &OpenJob| {
            open.job.kind == JobKind::Delete
                && open.job.bundle.as_ref() == Some(bundle)
                && !withdrawn.contains(&open.job.id)
        };
        let known = state.bundles.get(bundle);
        let stays =
            known.filter(|known| known.row.phase != BundlePhase::Deleting && !state.jobs.values().any(goes));
        let is_new = |id: &WorkloadId| stays.is_none_or(|known| !known.workloads.contains_key(id));
        coming.into_iter().map(|coming| Coming { announced: is_new(&coming.id), ..coming }).collect()
    }

    /// After an error nobody knows whether the disk has the change; what is undone in memory must not be in the store. The
    /// store, opened anew, says it: `made` looks there.
    pub(super) async fn certain(
        &self,
        written: Result<(), StoreError>,
        made: impl FnOnce(&ReadTransaction) -> Result<bool, StoreError> + Send + 'static,
    ) -> Result<(), CallError> {
        let Err(error) = written else { return Ok(()) };
        match self.look(made).await {
            Ok(true) => Ok(()),
            // Also where it cannot be opened: a disk that is full says so while it writes, and has nothing of it.
            _ => Err(error.refusal()),
        }
    }

    /// Accepts that a bundle goes.
    pub(crate) async fn delete(
        &self,
        caller: &Caller,
        request: DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        if request.dry_run {
            let mut changes = self.what_goes(&request.bundle)?;
            self.name_units(&request.bundle, &mut changes).await?;
            return Ok(DeleteBundleResponse { job: None, changes });
        }
        let (engine, id) = (self.clone(), caller.request.clone());
        let question = crate::calls::question("delete_bundle", &request);
        self.once(caller, question, move |key| async move {
            // In here: a repetition is answered as the first was, also when the bundle has gone by now.
            let changes = engine.what_goes(&request.bundle)?;
            let notes = Notes { forced: request.force, cancel: None };
            let job = engine
                .operate((JobKind::Delete, notes), &request.bundle, (key, id), request.reason, |job| {
                    json(&DeleteBundleResponse { job: Some(job), changes: changes.clone() })
                })
                .await?;
            answered(&DeleteBundleResponse { job: Some(job), changes })
        })
        .await
    }

    /// What the deletion of a bundle means.
    fn what_goes(&self, bundle: &Name) -> Result<Vec<Change>, CallError> {
        let state = self.state();
        let bundle = existing(state.bundles.get(bundle), bundle)?;
        let change = |row: &rows::WorkloadRow| Change {
            workload: row.id.clone(),
            resource: Some(row.resource.clone()),
            op: ChangeOp::Remove,
            reason: Some("the bundle goes".to_owned()),
            diff: None,
            units: Vec::new(),
        };
        Ok(bundle.in_order().into_iter().rev().map(change).collect())
    }

    /// Accepts an operation on the whole of a bundle: pause, resume or retry.
    pub(crate) async fn operation(
        &self,
        caller: &Caller,
        kind: JobKind,
        bundle: Name,
        reason: Option<String>,
        workloads: Vec<WorkloadId>,
    ) -> Result<JobResponse, CallError> {
        let (engine, id) = (self.clone(), caller.request.clone());
        let question = crate::calls::question(kind.as_str(), &(&bundle, &reason, &workloads));
        self.once(caller, question, move |key| async move {
            engine.check_workloads(&bundle, &workloads)?;
            let reason = if workloads.is_empty() { reason } else { Some(selection(&workloads)) };
            let asked = (kind, Notes::default());
            let answer = |job| json(&JobResponse { job });
            let job = engine.operate(asked, &bundle, (key, id), reason, answer).await?;
            answered(&JobResponse { job })
        })
        .await
    }

    fn check_workloads(&self, bundle: &Name, workloads: &[WorkloadId]) -> Result<(), CallError> {
        let state = self.state();
        let found = existing(state.bundles.get(bundle), bundle)?;
        match workloads.iter().find(|id| !found.workloads.contains_key(id)) {
            Some(missing) => {
                Err(CallError::new(Code::NotFound, format!("bundle {bundle} has no workload {missing}")))
            }
            None => Ok(()),
        }
    }

    async fn operate(
        &self,
        (kind, notes): (JobKind, Notes),
        bundle: &Name,
        (key, request): (OutcomeKey, RequestId),
        reason: Option<String>,
        answer: impl FnOnce(JobId) -> Result<String, CallError>,
    ) -> Result<JobId, CallError> {
        check_reason(reason.as_deref())?;
        let _segment = self.segment().await;
        let _gate = self.inner.gates.pass(bundle).await;
        let mut row = existing(self.state().bundles.get(bundle), bundle)?.row.clone();
        // Else it would be paused, or resumed, when it has gone.
        if matches!(kind, JobKind::Pause | JobKind::Resume) && self.goes(&row) {
            return Err(CallError::new(Code::Conflict, format!("bundle {bundle} is being deleted")));
        }
        let version = (row.target > 0).then_some(row.target);
        let job = self.new_job(kind, Some(bundle), version, Some(request), reason);
        let id = job.id;
        row.job = id;
        let answer = answer(id)?;
        self.accept(Accepting { job, row, notes, content: None, outcome: Some((key, answer)) }).await?;
        Ok(id)
    }
}

/// The next record of a job, about the job as a whole.
pub(super) fn next_record(job: &mut Job, message: Option<String>) -> JobRecord {
    job.records += 1;
    JobRecord {
        seq: job.records,
        at_unix_ms: clock::unix_ms(),
        state: job.state.clone(),
        workload: None,
        op: None,
        step: None,
        result: None,
        message,
    }
}

/// A job that has ended, and its last record.
pub(super) fn end(mut job: Job, state: JobState, message: Option<String>) -> (Job, JobRecord) {
    job.state = state;
    job.ended_unix_ms = Some(clock::unix_ms());
    job.message.clone_from(&message);
    let record = next_record(&mut job, message);
    (job, record)
}

/// Refuses a reason that is too long to be kept.
pub(super) fn check_reason(reason: Option<&str>) -> Result<(), CallError> {
    if reason.is_none_or(|reason| reason.len() <= REASON_BYTES_MAX) {
        return Ok(());
    }
    let text = format!("the reason is too long: allowed are at most {REASON_BYTES_MAX} bytes");
    Err(CallError::new(Code::Invalid, text))
}

/// What was stored when a job was accepted, in memory: the job in its lane, its bundle, and the end of those before it.
fn take_over(
    state: &mut State,
    open: OpenJob,
    row: BundleRow,
    coming: Option<Vec<Coming>>,
    ended: Vec<(Job, JobRecord)>,
) {
    for (job, record) in ended {
        if let Some(open) = state.jobs.remove(&job.id) {
            open.progress.send_replace(record.seq);
        }
    }
    let name = row.name.clone();
    let known =
        state.bundles.entry(name.clone()).or_insert_with(|| Bundle::new(row.clone(), Default::default()));
    known.row = row;
    if let Some(coming) = coming {
        known.coming = coming;
    }
    state.lanes.submit(&name, Item::Job { id: open.job.id, kind: open.job.kind.clone() });
    state.jobs.insert(open.job.id, open);
}

/// What the record says of a workload that was just accepted; nothing of one that was there.
fn init(coming: &Coming, job: &Job, now_ms: u64) -> Option<records::Entry> {
    coming.announced.then(|| records::Entry {
        at_unix_ms: now_ms,
        version: job.version.unwrap_or(0),
        workload: Some(coming.id.clone()),
        state: ResultState::Init,
        message: None,
        job: Some(job.id),
    })
}

pub(super) fn existing<'a>(bundle: Option<&'a Bundle>, name: &Name) -> Result<&'a Bundle, CallError> {
    let found = bundle.filter(|bundle| bundle.row.phase != BundlePhase::Deleted);
    found.ok_or_else(|| CallError::new(Code::NotFound, format!("there is no bundle {name}")))
}

/// Which workloads a retry is about, as its job's reason says it.
fn selection(workloads: &[WorkloadId]) -> String {
    workloads.iter().map(WorkloadId::as_str).collect::<Vec<_>>().join(" ")
}

/// The workloads of a retry, read back from its job.
pub(super) fn selected(job: &Job) -> Vec<WorkloadId> {
    let words = job.reason.as_deref().unwrap_or_default().split(' ');
    words.map_while(|word| word.parse().ok()).collect()
}

/// Counts of workloads by state, for a summary.
pub(super) fn counts(bundle: &Bundle) -> std::collections::BTreeMap<ResultState, u64> {
    let mut counts = std::collections::BTreeMap::new();
    for row in bundle.workloads.values() {
        *counts.entry(row.result.state.clone()).or_default() += 1;
    }
    let awaited = u64::try_from(bundle.awaited().count()).unwrap_or(u64::MAX);
    if awaited > 0 {
        *counts.entry(ResultState::Init).or_default() += awaited;
    }
    counts
}
