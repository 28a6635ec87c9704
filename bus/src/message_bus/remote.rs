//! The platform of an instance that is somewhere else.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use towline_protocol::bundle::{
    BundleChangesRequest, BundleChangesResponse, BundleStatusRequest, BundleStatusResponse,
    DeleteBundleRequest, DeleteBundleResponse, GetBundleRequest, GetBundleResponse, JobResponse,
    ListBundlesRequest, ListBundlesResponse, PauseBundleRequest, PutBundleRequest, PutBundleResponse,
    ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::call::Request;
use towline_protocol::capacity::{AddressesRequest, AddressesResponse, CapacityRequest, CapacityResponse};
use towline_protocol::job::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, JobRecord, ListJobsRequest,
    ListJobsResponse, WatchJobRequest,
};
use towline_protocol::platform::{
    AllServicesRequest, ApplyRequest, Definition, ExportRequest, LogLine, LogsRequest, PingRequest, Service,
    SomeServicesRequest, SyncAction, SyncRequest, VersionRequest,
};
use towline_protocol::{CallError, Code, Effect, InstanceId, Method, ResourceId, StoreId, limits};

use super::roster::Roster;
use crate::authority::{Authority, Replicas};
use crate::clock;
use crate::exchange::{Caller, Destination, check_count};
use crate::platform::{CallContext, ItemStream, Platform};
use crate::session::Target;

/// An instance, as seen from the hub. Every call is measured here, on the caller's side: unavailable instances and lost
/// calls are in the histogram.
#[derive(Debug, Clone)]
pub struct Remote {
    instance: InstanceId,
    roster: Arc<Roster>,
    authority: Arc<dyn Authority>,
    caller: Caller,
    /// The only store that calls go to, if it matters.
    only: Option<StoreId>,
}

impl Remote {
    pub(super) fn new(
        instance: InstanceId,
        roster: Arc<Roster>,
        authority: Arc<dyn Authority>,
        caller: Caller,
    ) -> Self {
        Self { instance, roster, authority, caller, only: None }
    }

    /// Whether somebody serves the instance now, as far as this hub knows.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.roster.target(&self.instance, |_| ()).is_ok()
    }

    /// The store behind the session that a call would go to now.
    #[must_use]
    pub fn store(&self) -> Option<StoreId> {
        self.roster.target(&self.instance, |target| target.store).ok()
    }

    /// The same instance, for as long as this store is behind it: a call is `unavailable` to any other, and not sent.
    #[must_use]
    pub fn only_at(self, store: StoreId) -> Self {
        Self { only: Some(store), ..self }
    }

    /// Where the call goes, once it is sure that the agent has it.
    fn destination(&self, method: Method) -> Result<Destination, CallError> {
        let instance = self.instance.clone();
        let look = |target: &Target| {
            let has_it = target.calls.has(method);
            (target.epoch, target.store, has_it)
        };
        let (epoch, store, has_it) = self
            .roster
            .target(&instance, look)
            .map_err(|why| CallError::new(Code::Unavailable, format!("{instance} {why}")))?;
        if self.only.is_some_and(|only| only != store) {
            return Err(CallError::new(Code::Unavailable, format!("{instance} was taken over just now")));
        }
        if has_it {
            return Ok(Destination { instance, epoch });
        }
        let text =
            format!("{method} needs a call set of {}; the agent of {instance} lacks it", method.since());
        Err(CallError::new(Code::UpgradeNeeded, text))
    }

    async fn call<R: Request>(&self, cx: &CallContext, args: &R) -> Result<R::Response, CallError> {
        self.wherever(R::METHOD, |to| async move { self.caller.call(&to, cx, args).await }).await
    }

    async fn open<R: Request>(
        &self,
        cx: &CallContext,
        args: &R,
    ) -> Result<ItemStream<R::Response>, CallError> {
        self.wherever(R::METHOD, |to| async move { self.caller.open(&to, cx, args).await }).await
    }

    /// Tries where this hub knows the instance to be served; before anybody is told that nobody serves, where the authority does.
    async fn wherever<T, F>(&self, method: Method, go: impl Fn(Destination) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let begun = clock::now();
        let mut result = match self.destination(method) {
            Ok(to) => go(to).await,
            Err(error) => Err(error),
        };
        // Boxed, as all that is rare: every call's future would be the larger for it.
        if result.as_ref().is_err_and(is_nobody_there)
            && let Some(to) = Box::pin(self.elsewhere()).await
        {
            result = Box::pin(go(to)).await;
        }
        self.caller.metrics().call_seconds.observe(method, begun, &result);
        result
    }

    /// Where another hub let somebody begin of whom this one has not heard. What that agent can do, it says itself.
    async fn elsewhere(&self) -> Option<Destination> {
        if self.authority.replicas() == Replicas::One {
            return None;
        }
        let known = self.roster.view(&self.instance).and_then(|view| view.epoch);
        // An authority that does not answer knows of nobody.
        let grant = self.authority.active(&self.instance).await.ok()??;
        let is_wanted = self.only.is_none_or(|only| only == grant.store);
        (Some(grant.epoch) > known && !grant.ended && is_wanted)
            .then(|| Destination { instance: self.instance.clone(), epoch: grant.epoch })
    }
}

/// Nothing was done, so that another try is sound.
fn is_nobody_there(error: &CallError) -> bool {
    error.code == Code::Unavailable && error.effect == Effect::None
}

#[async_trait]
impl Platform for Remote {
    async fn ping(&self, cx: &CallContext) -> Result<(), CallError> {
        self.call(cx, &PingRequest {}).await.map(|_| ())
    }

    async fn version(&self, cx: &CallContext) -> Result<String, CallError> {
        self.call(cx, &VersionRequest {}).await.map(|response| response.version)
    }

    async fn all_services(
        &self,
        cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        check_count("ignored ids", ignored.len(), limits::IDS_MAX)?;
        let request =
            AllServicesRequest { namespace: namespace.map(str::to_owned), ignored: ignored.clone() };
        self.call(cx, &request).await.map(|response| response.services)
    }

    async fn some_services(&self, cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        check_count("ids", ids.len(), limits::IDS_MAX)?;
        let request = SomeServicesRequest { ids: ids.to_vec() };
        self.call(cx, &request).await.map(|response| response.services)
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        check_count("definitions", definitions.len(), limits::DEFINITIONS_MAX)?;
        let request = ApplyRequest { definitions: definitions.to_vec() };
        self.call(cx, &request).await.map(|_| ())
    }

    async fn export(&self, cx: &CallContext) -> Result<Bytes, CallError> {
        self.call(cx, &ExportRequest {}).await.map(|response| response.config)
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        check_count("actions", actions.len(), limits::DEFINITIONS_MAX)?;
        let request = SyncRequest { actions: actions.to_vec() };
        self.call(cx, &request).await.map(|_| ())
    }

    async fn logs(&self, cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        self.open(cx, request).await
    }

    async fn put_bundle(
        &self,
        cx: &CallContext,
        request: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        self.call(cx, request).await
    }

    async fn delete_bundle(
        &self,
        cx: &CallContext,
        request: &DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        self.call(cx, request).await
    }

    async fn pause_bundle(
        &self,
        cx: &CallContext,
        request: &PauseBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.call(cx, request).await
    }

    async fn resume_bundle(
        &self,
        cx: &CallContext,
        request: &ResumeBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.call(cx, request).await
    }

    async fn retry_bundle(
        &self,
        cx: &CallContext,
        request: &RetryBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.call(cx, request).await
    }

    async fn get_bundle(
        &self,
        cx: &CallContext,
        request: &GetBundleRequest,
    ) -> Result<GetBundleResponse, CallError> {
        self.call(cx, request).await
    }

    async fn list_bundles(
        &self,
        cx: &CallContext,
        request: &ListBundlesRequest,
    ) -> Result<ListBundlesResponse, CallError> {
        self.call(cx, request).await
    }

    async fn bundle_changes(
        &self,
        cx: &CallContext,
        request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        self.call(cx, request).await
    }

    async fn bundle_status(
        &self,
        cx: &CallContext,
        request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        self.call(cx, request).await
    }

    async fn get_job(&self, cx: &CallContext, request: &GetJobRequest) -> Result<GetJobResponse, CallError> {
        self.call(cx, request).await
    }

    async fn list_jobs(
        &self,
        cx: &CallContext,
        request: &ListJobsRequest,
    ) -> Result<ListJobsResponse, CallError> {
        self.call(cx, request).await
    }

    async fn watch_job(
        &self,
        cx: &CallContext,
        request: &WatchJobRequest,
    ) -> Result<ItemStream<JobRecord>, CallError> {
        self.open(cx, request).await
    }

    async fn cancel_job(
        &self,
        cx: &CallContext,
        request: &CancelJobRequest,
    ) -> Result<CancelJobResponse, CallError> {
        self.call(cx, request).await
    }

    async fn capacity(&self, cx: &CallContext) -> Result<CapacityResponse, CallError> {
        self.call(cx, &CapacityRequest {}).await
    }

    async fn addresses(&self, cx: &CallContext) -> Result<AddressesResponse, CallError> {
        self.call(cx, &AddressesRequest {}).await
    }
}
