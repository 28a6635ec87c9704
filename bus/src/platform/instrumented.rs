//! A platform whose every call is measured.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::Registry;
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
use towline_protocol::{CallError, Method, ResourceId};

use super::{CallContext, ItemStream, Platform};
use crate::clock;
use crate::metrics::CallSeconds;

/// How long calls take where they are answered.
#[derive(Debug, Clone)]
pub struct PlatformMetrics {
    seconds: CallSeconds,
}

impl PlatformMetrics {
    /// Makes the histogram and registers it.
    ///
    /// # Errors
    /// When the registry already has one of this name.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "How long calls take on the agent's side, by method and outcome.";
        Ok(Self { seconds: CallSeconds::register(registry, "towline_platform_call_duration_seconds", help)? })
    }
}

/// Measures every call to the platform within. A stream is measured until it is open.
#[derive(Clone)]
pub struct Instrumented {
    inner: Arc<dyn Platform>,
    metrics: PlatformMetrics,
}

impl std::fmt::Debug for Instrumented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instrumented").finish_non_exhaustive()
    }
}

impl Instrumented {
    /// Measures this platform.
    #[must_use]
    pub fn new(inner: Arc<dyn Platform>, metrics: PlatformMetrics) -> Self {
        Self { inner, metrics }
    }

    async fn measured<T>(
        &self,
        method: Method,
        work: impl Future<Output = Result<T, CallError>> + Send,
    ) -> Result<T, CallError> {
        let begun = clock::now();
        let result = work.await;
        self.metrics.seconds.observe(method, begun, &result);
        result
    }
}

#[async_trait]
impl Platform for Instrumented {
    async fn ping(&self, cx: &CallContext) -> Result<(), CallError> {
        self.measured(Method::Ping, self.inner.ping(cx)).await
    }

    async fn version(&self, cx: &CallContext) -> Result<String, CallError> {
        self.measured(Method::Version, self.inner.version(cx)).await
    }

    async fn all_services(
        &self,
        cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        self.measured(Method::AllServices, self.inner.all_services(cx, namespace, ignored)).await
    }

    async fn some_services(&self, cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        self.measured(Method::SomeServices, self.inner.some_services(cx, ids)).await
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        self.measured(Method::Apply, self.inner.apply(cx, definitions)).await
    }

    async fn export(&self, cx: &CallContext) -> Result<Bytes, CallError> {
        self.measured(Method::Export, self.inner.export(cx)).await
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        self.measured(Method::Sync, self.inner.sync(cx, actions)).await
    }

    async fn logs(&self, cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        self.measured(Method::Logs, self.inner.logs(cx, request)).await
    }

    async fn put_bundle(
        &self,
        cx: &CallContext,
        request: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        self.measured(Method::PutBundle, self.inner.put_bundle(cx, request)).await
    }

    async fn delete_bundle(
        &self,
        cx: &CallContext,
        request: &DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        self.measured(Method::DeleteBundle, self.inner.delete_bundle(cx, request)).await
    }

    async fn pause_bundle(
        &self,
        cx: &CallContext,
        request: &PauseBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.measured(Method::PauseBundle, self.inner.pause_bundle(cx, request)).await
    }

    async fn resume_bundle(
        &self,
        cx: &CallContext,
        request: &ResumeBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.measured(Method::ResumeBundle, self.inner.resume_bundle(cx, request)).await
    }

    async fn retry_bundle(
        &self,
        cx: &CallContext,
        request: &RetryBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.measured(Method::RetryBundle, self.inner.retry_bundle(cx, request)).await
    }

    async fn get_bundle(
        &self,
        cx: &CallContext,
        request: &GetBundleRequest,
    ) -> Result<GetBundleResponse, CallError> {
        self.measured(Method::GetBundle, self.inner.get_bundle(cx, request)).await
    }

    async fn list_bundles(
        &self,
        cx: &CallContext,
        request: &ListBundlesRequest,
    ) -> Result<ListBundlesResponse, CallError> {
        self.measured(Method::ListBundles, self.inner.list_bundles(cx, request)).await
    }

    async fn bundle_changes(
        &self,
        cx: &CallContext,
        request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        self.measured(Method::BundleChanges, self.inner.bundle_changes(cx, request)).await
    }

    async fn bundle_status(
        &self,
        cx: &CallContext,
        request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        self.measured(Method::BundleStatus, self.inner.bundle_status(cx, request)).await
    }

    async fn get_job(&self, cx: &CallContext, request: &GetJobRequest) -> Result<GetJobResponse, CallError> {
        self.measured(Method::GetJob, self.inner.get_job(cx, request)).await
    }

    async fn list_jobs(
        &self,
        cx: &CallContext,
        request: &ListJobsRequest,
    ) -> Result<ListJobsResponse, CallError> {
        self.measured(Method::ListJobs, self.inner.list_jobs(cx, request)).await
    }

    async fn watch_job(
        &self,
        cx: &CallContext,
        request: &WatchJobRequest,
    ) -> Result<ItemStream<JobRecord>, CallError> {
        self.measured(Method::WatchJob, self.inner.watch_job(cx, request)).await
    }

    async fn cancel_job(
        &self,
        cx: &CallContext,
        request: &CancelJobRequest,
    ) -> Result<CancelJobResponse, CallError> {
        self.measured(Method::CancelJob, self.inner.cancel_job(cx, request)).await
    }

    async fn capacity(&self, cx: &CallContext) -> Result<CapacityResponse, CallError> {
        self.measured(Method::Capacity, self.inner.capacity(cx)).await
    }

    async fn addresses(&self, cx: &CallContext) -> Result<AddressesResponse, CallError> {
        self.measured(Method::Addresses, self.inner.addresses(cx)).await
    }
}
