//! What an instance implements, and what a hub gets to talk to it: the same trait near and far.

mod battery;
mod disconnected;
mod instrumented;
mod mock;
mod stream;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use towline_protocol::bundle::{
    BundleChangesRequest, BundleChangesResponse, BundleStatusRequest, BundleStatusResponse,
    DeleteBundleRequest, DeleteBundleResponse, GetBundleRequest, GetBundleResponse, JobResponse,
    ListBundlesRequest, ListBundlesResponse, PauseBundleRequest, PutBundleRequest, PutBundleResponse,
    ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::capacity::{AddressesResponse, CapacityResponse};
use towline_protocol::job::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, JobRecord, ListJobsRequest,
    ListJobsResponse, WatchJobRequest,
};
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, Code, Method, RequestId, ResourceId, StoreId};
use uuid::Uuid;

pub use battery::{BATTERY, Case, Ends, battery};
pub use disconnected::Disconnected;
pub use instrumented::{Instrumented, PlatformMetrics};
pub use mock::{MockPlatform, Seen};
pub use stream::{ItemSink, ItemStream};

/// Who asks, and how long they wait.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The caller's own id for this call, the same for each retry of it: a mutating call is done once per id.
    pub id: RequestId,
    /// How long the caller waits, counted from when the context reached whoever holds it. `None`: as long as the method
    /// is given by default.
    pub time: Option<Duration>,
    /// For a retry: the store that saw the first attempt.
    pub store: Option<StoreId>,
    /// Cancelled when the caller takes the call back. A platform may give up reading then; of mutating work it undoes
    /// what it can, and says what came of it.
    pub cancelled: CancellationToken,
}

impl CallContext {
    /// A new call with a random id.
    #[must_use]
    pub fn new() -> Self {
        Self::with_id(RequestId::from_uuid(Uuid::new_v4()))
    }

    /// A call with the caller's id.
    #[must_use]
    pub fn with_id(id: RequestId) -> Self {
        Self { id, time: None, store: None, cancelled: CancellationToken::new() }
    }

    /// Limits the time that the caller waits.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Pins a retry to the store that saw the first attempt.
    #[must_use]
    pub fn pinned_to(mut self, store: Option<StoreId>) -> Self {
        self.store = store;
        self
    }
}

impl Default for CallContext {
    fn default() -> Self {
        Self::new()
    }
}

fn unsupported<T>(method: Method) -> Result<T, CallError> {
    Err(CallError::new(Code::Unsupported, format!("this platform cannot {method}")))
}

/// What an instance answers. Each call has `unsupported` as its default, so that a platform implements what it can.
///
/// Errors are [`CallError`]s on every hop. A [`Code::Fatal`] error ends the platform's subscription.
///
/// Dropping the future of a reading call cancels it; mutating work goes on (see [`CallContext::cancelled`]).
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// A round trip through whatever this platform talks to.
    async fn ping(&self, _cx: &CallContext) -> Result<(), CallError> {
        unsupported(Method::Ping)
    }

    /// The build of the agent. It is never invented.
    async fn version(&self, _cx: &CallContext) -> Result<String, CallError> {
        unsupported(Method::Version)
    }

    /// All services, of one namespace or of all, without those ignored.
    async fn all_services(
        &self,
        _cx: &CallContext,
        _namespace: Option<&str>,
        _ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        unsupported(Method::AllServices)
    }

    /// The services named; ids that do not exist are silently absent, and no ids ask for none.
    async fn some_services(&self, _cx: &CallContext, _ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        unsupported(Method::SomeServices)
    }

    /// Applies definitions. What fails is told by id, in a [`Code::Cluster`] error; the rest is done.
    async fn apply(&self, _cx: &CallContext, _definitions: &[Definition]) -> Result<(), CallError> {
        unsupported(Method::Apply)
    }

    /// Everything the instance holds, in its runtime's own format.
    async fn export(&self, _cx: &CallContext) -> Result<Bytes, CallError> {
        unsupported(Method::Export)
    }

    /// Runs actions in order, each delete-then-apply. A failed delete skips its own apply; the rest goes on.
    async fn sync(&self, _cx: &CallContext, _actions: &[SyncAction]) -> Result<(), CallError> {
        unsupported(Method::Sync)
    }

    /// The log lines of an app. The stream ends after its last item, or with one error; dropping it ends it.
    async fn logs(
        &self,
        _cx: &CallContext,
        _request: &LogsRequest,
    ) -> Result<ItemStream<LogLine>, CallError> {
        unsupported(Method::Logs)
    }

    /// Accepts a bundle, and answers with the job that carries it out; or says what it would do, in a dry run.
    async fn put_bundle(
        &self,
        _cx: &CallContext,
        _request: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        unsupported(Method::PutBundle)
    }

    /// Accepts that a bundle goes, with all that belongs to it.
    async fn delete_bundle(
        &self,
        _cx: &CallContext,
        _request: &DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        unsupported(Method::DeleteBundle)
    }

    /// Accepts that a bundle's workloads stop until it is resumed.
    async fn pause_bundle(
        &self,
        _cx: &CallContext,
        _request: &PauseBundleRequest,
    ) -> Result<JobResponse, CallError> {
        unsupported(Method::PauseBundle)
    }

    /// Accepts that a paused bundle's workloads start again.
    async fn resume_bundle(
        &self,
        _cx: &CallContext,
        _request: &ResumeBundleRequest,
    ) -> Result<JobResponse, CallError> {
        unsupported(Method::ResumeBundle)
    }

    /// Accepts that failed workloads of a bundle are tried again now.
    async fn retry_bundle(
        &self,
        _cx: &CallContext,
        _request: &RetryBundleRequest,
    ) -> Result<JobResponse, CallError> {
        unsupported(Method::RetryBundle)
    }

    /// A bundle as it was put; one that there is not is [`Code::NotFound`].
    async fn get_bundle(
        &self,
        _cx: &CallContext,
        _request: &GetBundleRequest,
    ) -> Result<GetBundleResponse, CallError> {
        unsupported(Method::GetBundle)
    }

    /// All bundles, by name, a page at a time.
    async fn list_bundles(
        &self,
        _cx: &CallContext,
        _request: &ListBundlesRequest,
    ) -> Result<ListBundlesResponse, CallError> {
        unsupported(Method::ListBundles)
    }

    /// The record of a bundle, oldest first, a page at a time.
    async fn bundle_changes(
        &self,
        _cx: &CallContext,
        _request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        unsupported(Method::BundleChanges)
    }

    /// How a bundle and its workloads stand, a page at a time.
    async fn bundle_status(
        &self,
        _cx: &CallContext,
        _request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        unsupported(Method::BundleStatus)
    }

    /// A job, and a page of its records.
    async fn get_job(
        &self,
        _cx: &CallContext,
        _request: &GetJobRequest,
    ) -> Result<GetJobResponse, CallError> {
        unsupported(Method::GetJob)
    }

    /// Jobs, the newest first, a page at a time.
    async fn list_jobs(
        &self,
        _cx: &CallContext,
        _request: &ListJobsRequest,
    ) -> Result<ListJobsResponse, CallError> {
        unsupported(Method::ListJobs)
    }

    /// A job's records from a sequence on, as they are made. The stream ends after the one with a terminal state.
    async fn watch_job(
        &self,
        _cx: &CallContext,
        _request: &WatchJobRequest,
    ) -> Result<ItemStream<JobRecord>, CallError> {
        unsupported(Method::WatchJob)
    }

    /// Takes a job back; watch it to see when it has ended.
    async fn cancel_job(
        &self,
        _cx: &CallContext,
        _request: &CancelJobRequest,
    ) -> Result<CancelJobResponse, CallError> {
        unsupported(Method::CancelJob)
    }

    /// What the instance has room for.
    async fn capacity(&self, _cx: &CallContext) -> Result<CapacityResponse, CallError> {
        unsupported(Method::Capacity)
    }

    /// Which addresses are in use.
    async fn addresses(&self, _cx: &CallContext) -> Result<AddressesResponse, CallError> {
        unsupported(Method::Addresses)
    }
}
