//! The platform of an instance that nobody serves.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
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
use towline_protocol::{CallError, Code, ResourceId};

use super::{CallContext, ItemStream, Platform};

/// A platform whose every call answers `unavailable`, at once.
#[derive(Debug, Clone)]
pub struct Disconnected {
    why: String,
}

impl Disconnected {
    /// Nobody serves, for this reason: a sentence without a full stop.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }

    fn refuse<T>(&self) -> Result<T, CallError> {
        Err(CallError::new(Code::Unavailable, &*self.why))
    }
}

#[async_trait]
impl Platform for Disconnected {
    async fn ping(&self, _cx: &CallContext) -> Result<(), CallError> {
        self.refuse()
    }

    async fn version(&self, _cx: &CallContext) -> Result<String, CallError> {
        self.refuse()
    }

    async fn all_services(
        &self,
        _cx: &CallContext,
        _namespace: Option<&str>,
        _ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        self.refuse()
    }

    async fn some_services(&self, _cx: &CallContext, _ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        self.refuse()
    }

    async fn apply(&self, _cx: &CallContext, _definitions: &[Definition]) -> Result<(), CallError> {
        self.refuse()
    }

    async fn export(&self, _cx: &CallContext) -> Result<Bytes, CallError> {
        self.refuse()
    }

    async fn sync(&self, _cx: &CallContext, _actions: &[SyncAction]) -> Result<(), CallError> {
        self.refuse()
    }

    async fn logs(
        &self,
        _cx: &CallContext,
        _request: &LogsRequest,
    ) -> Result<ItemStream<LogLine>, CallError> {
        self.refuse()
    }

    async fn put_bundle(
        &self,
        _cx: &CallContext,
        _request: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        self.refuse()
    }

    async fn delete_bundle(
        &self,
        _cx: &CallContext,
        _request: &DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        self.refuse()
    }

    async fn pause_bundle(
        &self,
        _cx: &CallContext,
        _request: &PauseBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.refuse()
    }

    async fn resume_bundle(
        &self,
        _cx: &CallContext,
        _request: &ResumeBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.refuse()
    }

    async fn retry_bundle(
        &self,
        _cx: &CallContext,
        _request: &RetryBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.refuse()
    }

    async fn get_bundle(
        &self,
        _cx: &CallContext,
        _request: &GetBundleRequest,
    ) -> Result<GetBundleResponse, CallError> {
        self.refuse()
    }

    async fn list_bundles(
        &self,
        _cx: &CallContext,
        _request: &ListBundlesRequest,
    ) -> Result<ListBundlesResponse, CallError> {
        self.refuse()
    }

    async fn bundle_changes(
        &self,
        _cx: &CallContext,
        _request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        self.refuse()
    }

    async fn bundle_status(
        &self,
        _cx: &CallContext,
        _request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        self.refuse()
    }

    async fn get_job(
        &self,
        _cx: &CallContext,
        _request: &GetJobRequest,
    ) -> Result<GetJobResponse, CallError> {
        self.refuse()
    }

    async fn list_jobs(
        &self,
        _cx: &CallContext,
        _request: &ListJobsRequest,
    ) -> Result<ListJobsResponse, CallError> {
        self.refuse()
    }

    async fn watch_job(
        &self,
        _cx: &CallContext,
        _request: &WatchJobRequest,
    ) -> Result<ItemStream<JobRecord>, CallError> {
        self.refuse()
    }

    async fn cancel_job(
        &self,
        _cx: &CallContext,
        _request: &CancelJobRequest,
    ) -> Result<CancelJobResponse, CallError> {
        self.refuse()
    }

    async fn capacity(&self, _cx: &CallContext) -> Result<CapacityResponse, CallError> {
        self.refuse()
    }

    async fn addresses(&self, _cx: &CallContext) -> Result<AddressesResponse, CallError> {
        self.refuse()
    }
}
