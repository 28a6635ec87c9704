//! A platform that answers as it is told, and remembers what it was asked: for tests of whoever talks to platforms.

mod model;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use towline_protocol::bundle::{
    BundleChangesRequest, BundleChangesResponse, BundlePhase, BundleStatusRequest, BundleStatusResponse,
    Change, ChangeRecord, DeleteBundleRequest, DeleteBundleResponse, GetBundleRequest, GetBundleResponse,
    JobResponse, ListBundlesRequest, ListBundlesResponse, PauseBundleRequest, PutBundleRequest,
    PutBundleResponse, ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::capacity::{AddressInUse, AddressesResponse, CapacityResponse};
use towline_protocol::job::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, Job, JobKind, JobRecord,
    ListJobsRequest, ListJobsResponse, WatchJobRequest,
};
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, Code, JobId, Method, Name, RequestId, ResourceId, wire};

use self::model::{HeldJob, Model};

use super::{CallContext, ItemStream, Platform};

/// One call, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the platform's calls")]
pub enum Seen {
    Ping,
    Version,
    AllServices { namespace: Option<String>, ignored: BTreeSet<ResourceId> },
    SomeServices { ids: Vec<ResourceId> },
    Apply { definitions: Vec<Definition> },
    Export,
    Sync { actions: Vec<SyncAction> },
    Logs { request: LogsRequest },
    PutBundle { request: PutBundleRequest },
    DeleteBundle { request: DeleteBundleRequest },
    PauseBundle { request: PauseBundleRequest },
    ResumeBundle { request: ResumeBundleRequest },
    RetryBundle { request: RetryBundleRequest },
    GetBundle { request: GetBundleRequest },
    ListBundles { request: ListBundlesRequest },
    BundleChanges { request: BundleChangesRequest },
    BundleStatus { request: BundleStatusRequest },
    GetJob { request: GetJobRequest },
    ListJobs { request: ListJobsRequest },
    WatchJob { request: WatchJobRequest },
    CancelJob { request: CancelJobRequest },
    Capacity,
    Addresses,
}

/// Answers as it is told. Clones are the same platform.
#[derive(Debug, Clone, Default)]
pub struct MockPlatform {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    version: String,
    services: Vec<Service>,
    config: Bytes,
    lines: Vec<LogLine>,
    failures: HashMap<Method, CallError>,
    delays: HashMap<Method, Duration>,
    seen: Vec<Seen>,
    /// Mutating work that was really begun, by request id: each must stand here once.
    executed: Vec<RequestId>,
    model: Model,
}

impl MockPlatform {
    /// Answers everything, with little.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The answer to `version`.
    pub fn set_version(&self, version: impl Into<String>) {
        self.lock().version = version.into();
    }

    /// The services that there are.
    pub fn set_services(&self, services: Vec<Service>) {
        self.lock().services = services;
    }

    /// The answer to `export`.
    pub fn set_config(&self, config: Bytes) {
        self.lock().config = config;
    }

    /// The lines of every log.
    pub fn set_lines(&self, lines: Vec<LogLine>) {
        self.lock().lines = lines;
    }

    /// What each put of a bundle changes, from now on.
    pub fn set_put_changes(&self, changes: Vec<Change>) {
        self.lock().model.put_changes = changes;
    }

    /// The answer to `bundle_status`, for a bundle that was put.
    pub fn set_bundle_status(&self, bundle: &Name, status: BundleStatusResponse) {
        if let Some(held) = self.lock().model.bundles.get_mut(bundle) {
            held.status = Some(status);
        }
    }

    /// The record of a bundle that was put.
    pub fn set_bundle_changes(&self, bundle: &Name, changes: Vec<ChangeRecord>) {
        if let Some(held) = self.lock().model.bundles.get_mut(bundle) {
            held.changes = changes;
        }
    }

    /// Adds a job, as it is. Those that come of calls have ended before the answer.
    pub fn add_job(&self, job: Job, records: Vec<JobRecord>) {
        self.lock().model.jobs.push(HeldJob::new(job, records));
    }

    /// One more record of a job that was added; the job takes its state. Whoever watches the job sees it.
    pub fn add_record(&self, job: JobId, record: JobRecord) {
        if let Ok(held) = self.lock().model.job_mut(job) {
            held.add(record);
        }
    }

    /// Forgets bundles, jobs, and what puts change.
    pub fn clear_bundles(&self) {
        self.lock().model = Model::default();
    }

    /// The answer to `capacity`.
    pub fn set_capacity(&self, capacity: CapacityResponse) {
        self.lock().model.capacity = capacity;
    }

    /// The answer to `addresses`.
    pub fn set_addresses(&self, addresses: Vec<AddressInUse>) {
        self.lock().model.addresses = addresses;
    }

    /// Every call of this method fails so, until told otherwise.
    pub fn fail(&self, method: Method, error: Option<CallError>) {
        match error {
            Some(error) => self.lock().failures.insert(method, error),
            None => self.lock().failures.remove(&method),
        };
    }

    /// Every call of this method takes so long.
    pub fn delay(&self, method: Method, delay: Duration) {
        self.lock().delays.insert(method, delay);
    }

    /// What was asked so far, in order; forgets it.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.lock().seen)
    }

    /// The request ids of the mutating work that was begun, in order.
    #[must_use]
    pub fn executed(&self) -> Vec<RequestId> {
        self.lock().executed.clone()
    }

    async fn answer<T>(
        &self,
        method: Method,
        cx: &CallContext,
        seen: Seen,
        answer: impl FnOnce(&State) -> T + Send,
    ) -> Result<T, CallError> {
        let delay = {
            let mut state = self.lock();
            state.seen.push(seen);
            if method.is_mutating() {
                state.executed.push(cx.id.clone());
            }
            state.delays.get(&method).copied()
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let state = self.lock();
        match state.failures.get(&method) {
            Some(error) => Err(error.clone()),
            None => Ok(answer(&state)),
        }
    }

    /// As [`answer`](Self::answer), for calls that the model answers.
    async fn model<T>(
        &self,
        method: Method,
        cx: &CallContext,
        seen: Seen,
        answer: impl FnOnce(&Model) -> Result<T, CallError> + Send,
    ) -> Result<T, CallError> {
        self.answer(method, cx, seen, |state| answer(&state.model)).await?
    }

    /// Changes the model once per request id: what came of it is remembered, unless nothing did.
    async fn change<T: Serialize + DeserializeOwned>(
        &self,
        method: Method,
        cx: &CallContext,
        seen: Seen,
        change: impl FnOnce(&mut Model) -> Result<T, CallError> + Send,
    ) -> Result<T, CallError> {
        let delay = {
            let mut state = self.lock();
            state.seen.push(seen);
            state.delays.get(&method).copied()
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.lock();
        if let Some(error) = state.failures.get(&method) {
            return Err(error.clone());
        }
        if let Some(bytes) = state.model.answered.get(&cx.id) {
            let other = |_| CallError::new(Code::Conflict, "the request id belongs to another call");
            return wire::decode(bytes).map_err(other);
        }
        let answer = change(&mut state.model)?;
        state.executed.push(cx.id.clone());
        state.model.answered.insert(cx.id.clone(), wire::encode(&answer));
        Ok(answer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

#[async_trait]
impl Platform for MockPlatform {
    async fn ping(&self, cx: &CallContext) -> Result<(), CallError> {
        self.answer(Method::Ping, cx, Seen::Ping, |_| ()).await
    }

    async fn version(&self, cx: &CallContext) -> Result<String, CallError> {
        self.answer(Method::Version, cx, Seen::Version, |state| state.version.clone()).await
    }

    async fn all_services(
        &self,
        cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        let seen = Seen::AllServices { namespace: namespace.map(str::to_owned), ignored: ignored.clone() };
        let is_wanted = |service: &&Service| {
            let own = service.id.as_str().split('/').next();
            !ignored.contains(&service.id) && namespace.is_none_or(|wanted| own == Some(wanted))
        };
        self.answer(Method::AllServices, cx, seen, |state| {
            state.services.iter().filter(is_wanted).cloned().collect()
        })
        .await
    }

    async fn some_services(&self, cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        let seen = Seen::SomeServices { ids: ids.to_vec() };
        let wanted: BTreeSet<_> = ids.iter().collect();
        self.answer(Method::SomeServices, cx, seen, |state| {
            state.services.iter().filter(|service| wanted.contains(&service.id)).cloned().collect()
        })
        .await
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        self.answer(Method::Apply, cx, Seen::Apply { definitions: definitions.to_vec() }, |_| ()).await
    }

    async fn export(&self, cx: &CallContext) -> Result<Bytes, CallError> {
        self.answer(Method::Export, cx, Seen::Export, |state| state.config.clone()).await
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        self.answer(Method::Sync, cx, Seen::Sync { actions: actions.to_vec() }, |_| ()).await
    }

    async fn logs(&self, cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        let seen = Seen::Logs { request: request.clone() };
        let lines = self.answer(Method::Logs, cx, seen, |state| state.lines.clone()).await?;
        let (sink, stream) = ItemStream::channel();
        crate::task::Tasks::new().spawn_isolated("mock logs", async move {
            for line in lines {
                if !sink.send(line).await {
                    return;
                }
            }
        });
        Ok(stream)
    }

    async fn put_bundle(
        &self,
        cx: &CallContext,
        request: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        let seen = Seen::PutBundle { request: request.clone() };
        self.change(Method::PutBundle, cx, seen, |model| model.put(&cx.id, request)).await
    }

    async fn delete_bundle(
        &self,
        cx: &CallContext,
        request: &DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        let seen = Seen::DeleteBundle { request: request.clone() };
        self.change(Method::DeleteBundle, cx, seen, |model| {
            let changes = model.put_changes.clone();
            if request.dry_run {
                model.held(&request.bundle)?;
                return Ok(DeleteBundleResponse { job: None, changes });
            }
            let (gone, reason) = (Some(BundlePhase::Deleted), request.reason.as_deref());
            let job = model.operate(&cx.id, JobKind::Delete, &request.bundle, gone, reason)?;
            Ok(DeleteBundleResponse { job: Some(job), changes })
        })
        .await
    }

    async fn pause_bundle(
        &self,
        cx: &CallContext,
        request: &PauseBundleRequest,
    ) -> Result<JobResponse, CallError> {
        let seen = Seen::PauseBundle { request: request.clone() };
        self.change(Method::PauseBundle, cx, seen, |model| {
            let job = model.operate(
                &cx.id,
                JobKind::Pause,
                &request.bundle,
                Some(BundlePhase::Paused),
                request.reason.as_deref(),
            )?;
            Ok(JobResponse { job })
        })
        .await
    }

    async fn resume_bundle(
        &self,
        cx: &CallContext,
        request: &ResumeBundleRequest,
    ) -> Result<JobResponse, CallError> {
        let seen = Seen::ResumeBundle { request: request.clone() };
        self.change(Method::ResumeBundle, cx, seen, |model| {
            let job = model.operate(
                &cx.id,
                JobKind::Resume,
                &request.bundle,
                Some(BundlePhase::Active),
                request.reason.as_deref(),
            )?;
            Ok(JobResponse { job })
        })
        .await
    }

    async fn retry_bundle(
        &self,
        cx: &CallContext,
        request: &RetryBundleRequest,
    ) -> Result<JobResponse, CallError> {
        let seen = Seen::RetryBundle { request: request.clone() };
        self.change(Method::RetryBundle, cx, seen, |model| {
            let job = model.operate(&cx.id, JobKind::Retry, &request.bundle, None, None)?;
            Ok(JobResponse { job })
        })
        .await
    }

    async fn get_bundle(
        &self,
        cx: &CallContext,
        request: &GetBundleRequest,
    ) -> Result<GetBundleResponse, CallError> {
        let seen = Seen::GetBundle { request: request.clone() };
        self.model(Method::GetBundle, cx, seen, |model| model.get(&request.bundle, request.version)).await
    }

    async fn list_bundles(
        &self,
        cx: &CallContext,
        request: &ListBundlesRequest,
    ) -> Result<ListBundlesResponse, CallError> {
        let seen = Seen::ListBundles { request: request.clone() };
        let list = |model: &Model| Ok(model.list(request.after.as_ref(), request.limit));
        self.model(Method::ListBundles, cx, seen, list).await
    }

    async fn bundle_changes(
        &self,
        cx: &CallContext,
        request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        let seen = Seen::BundleChanges { request: request.clone() };
        let changes = |model: &Model| model.changes(&request.bundle, request.after, request.limit);
        self.model(Method::BundleChanges, cx, seen, changes).await
    }

    async fn bundle_status(
        &self,
        cx: &CallContext,
        request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        let seen = Seen::BundleStatus { request: request.clone() };
        self.model(Method::BundleStatus, cx, seen, |model| model.status(&request.bundle)).await
    }

    async fn get_job(&self, cx: &CallContext, request: &GetJobRequest) -> Result<GetJobResponse, CallError> {
        let seen = Seen::GetJob { request: request.clone() };
        let get = |model: &Model| model.get_job(request.job, request.after, request.limit);
        self.model(Method::GetJob, cx, seen, get).await
    }

    async fn list_jobs(
        &self,
        cx: &CallContext,
        request: &ListJobsRequest,
    ) -> Result<ListJobsResponse, CallError> {
        let seen = Seen::ListJobs { request: request.clone() };
        self.model(Method::ListJobs, cx, seen, |model| Ok(model.list_jobs(request))).await
    }

    async fn watch_job(
        &self,
        cx: &CallContext,
        request: &WatchJobRequest,
    ) -> Result<ItemStream<JobRecord>, CallError> {
        let seen = Seen::WatchJob { request: request.clone() };
        let bell = |model: &Model| model.job(request.job).map(|held| held.bell.subscribe());
        let mut bell = self.model(Method::WatchJob, cx, seen, bell).await?;
        let (sink, stream) = ItemStream::channel();
        let (mock, WatchJobRequest { job, mut after }) = (self.clone(), request.clone());
        crate::task::Tasks::new().spawn_isolated("mock watch", async move {
            loop {
                bell.borrow_and_update();
                let found = mock.lock().model.get_job(job, after, None);
                let Ok(GetJobResponse { job: held, records, next }) = found else { return };
                for record in records {
                    after = record.seq;
                    if !sink.send(record).await {
                        return;
                    }
                }
                if next.is_some() {
                    continue;
                }
                if held.state.is_terminal() {
                    return;
                }
                tokio::select! {
                    rung = bell.changed() => if rung.is_err() { return },
                    () = sink.closed() => return,
                }
            }
        });
        Ok(stream)
    }

    async fn cancel_job(
        &self,
        cx: &CallContext,
        request: &CancelJobRequest,
    ) -> Result<CancelJobResponse, CallError> {
        let seen = Seen::CancelJob { request: request.clone() };
        let cancel = |model: &mut Model| model.cancel(request.job).map(|job| CancelJobResponse { job });
        self.change(Method::CancelJob, cx, seen, cancel).await
    }

    async fn capacity(&self, cx: &CallContext) -> Result<CapacityResponse, CallError> {
        self.answer(Method::Capacity, cx, Seen::Capacity, |state| state.model.capacity.clone()).await
    }

    async fn addresses(&self, cx: &CallContext) -> Result<AddressesResponse, CallError> {
        let addresses = |state: &State| AddressesResponse { addresses: state.model.addresses.clone() };
        self.answer(Method::Addresses, cx, Seen::Addresses, addresses).await
    }
}
