//! From a call's bytes to the platform and back: the one place that ties the call table to the trait.

use std::time::Duration;

use bytes::Bytes;
use prometheus::IntCounterVec;
use tokio_util::sync::CancellationToken;
use towline_protocol::bundle::{
    BundleChangesRequest, BundleStatusRequest, DeleteBundleRequest, GetBundleRequest, ListBundlesRequest,
    PauseBundleRequest, PutBundleRequest, ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::call::{CallBody, Request};
use towline_protocol::capacity::{AddressesRequest, CapacityRequest};
use towline_protocol::frame::Kind;
use towline_protocol::job::{CancelJobRequest, GetJobRequest, JobRecord, ListJobsRequest, WatchJobRequest};
use towline_protocol::platform::{
    AllServicesRequest, ApplyRequest, ApplyResponse, ExportRequest, ExportResponse, LogLine, LogsRequest,
    PingRequest, PingResponse, ServicesResponse, SomeServicesRequest, SyncRequest, SyncResponse,
    VersionRequest, VersionResponse,
};
use towline_protocol::{CallError, Code, Method, limits, wire};

use crate::exchange::check_count;
use crate::platform::{CallContext, ItemStream, Platform};

/// What a call answers with.
pub(super) enum Outcome {
    Message(Kind, Vec<u8>),
    Lines(ItemStream<LogLine>),
    Records(ItemStream<JobRecord>),
}

/// A call as it came.
struct Asked<'a> {
    body: &'a Bytes,
    time: Option<Duration>,
    cancelled: &'a CancellationToken,
    refusals: &'a IntCounterVec,
}

/// One row: reads the arguments, does the work, encodes what it answers.
macro_rules! call {
    ($asked:ident, $request:ty, |$cx:ident, $args:ident| $work:expr) => {{
        let ($cx, $args) = $asked.read::<$request>()?;
        let response: <$request as Request>::Response = $work;
        Ok(Outcome::Message(Kind::Reply, wire::encode(&response)))
    }};
}

/// A row whose call takes and gives what travels.
macro_rules! pass {
    ($asked:ident, $platform:ident.$call:ident, $request:ty) => {
        call!($asked, $request, |cx, args| $platform.$call(&cx, &args).await?)
    };
}

/// Decodes a call, asks the platform, and encodes its answer. A body that is none is counted as refused.
pub(super) async fn dispatch(
    platform: &dyn Platform,
    method: Method,
    time: Option<Duration>,
    body: &Bytes,
    cancelled: &CancellationToken,
    refusals: &IntCounterVec,
) -> Result<Outcome, CallError> {
    let time = time.map(|time| time.min(limits::CALL_TIME_MAX));
    let asked = Asked { body, time, cancelled, refusals };
    match method {
        Method::Ping => call!(asked, PingRequest, |cx, _args| {
            platform.ping(&cx).await?;
            PingResponse {}
        }),
        Method::Version => {
            call!(asked, VersionRequest, |cx, _args| VersionResponse {
                version: platform.version(&cx).await?
            })
        }
        Method::AllServices => call!(asked, AllServicesRequest, |cx, args| {
            check_count("ignored ids", args.ignored.len(), limits::IDS_MAX)?;
            ServicesResponse {
                services: platform.all_services(&cx, args.namespace.as_deref(), &args.ignored).await?,
            }
        }),
        Method::SomeServices => call!(asked, SomeServicesRequest, |cx, args| {
            check_count("ids", args.ids.len(), limits::IDS_MAX)?;
            ServicesResponse { services: platform.some_services(&cx, &args.ids).await? }
        }),
        Method::Apply => call!(asked, ApplyRequest, |cx, args| {
            check_count("definitions", args.definitions.len(), limits::DEFINITIONS_MAX)?;
            platform.apply(&cx, &args.definitions).await?;
            ApplyResponse {}
        }),
        Method::Export => {
            call!(asked, ExportRequest, |cx, _args| ExportResponse { config: platform.export(&cx).await? })
        }
        Method::Sync => call!(asked, SyncRequest, |cx, args| {
            check_count("actions", args.actions.len(), limits::DEFINITIONS_MAX)?;
            platform.sync(&cx, &args.actions).await?;
            SyncResponse {}
        }),
        Method::Logs => {
            let (cx, args) = asked.read::<LogsRequest>()?;
            Ok(Outcome::Lines(platform.logs(&cx, &args).await?))
        }
        Method::PutBundle => pass!(asked, platform.put_bundle, PutBundleRequest),
        Method::DeleteBundle => pass!(asked, platform.delete_bundle, DeleteBundleRequest),
        Method::PauseBundle => pass!(asked, platform.pause_bundle, PauseBundleRequest),
        Method::ResumeBundle => pass!(asked, platform.resume_bundle, ResumeBundleRequest),
        Method::RetryBundle => pass!(asked, platform.retry_bundle, RetryBundleRequest),
        Method::GetBundle => pass!(asked, platform.get_bundle, GetBundleRequest),
        Method::ListBundles => pass!(asked, platform.list_bundles, ListBundlesRequest),
        Method::BundleChanges => pass!(asked, platform.bundle_changes, BundleChangesRequest),
        Method::BundleStatus => pass!(asked, platform.bundle_status, BundleStatusRequest),
        Method::GetJob => pass!(asked, platform.get_job, GetJobRequest),
        Method::ListJobs => pass!(asked, platform.list_jobs, ListJobsRequest),
        Method::WatchJob => {
            let (cx, args) = asked.read::<WatchJobRequest>()?;
            Ok(Outcome::Records(platform.watch_job(&cx, &args).await?))
        }
        Method::CancelJob => pass!(asked, platform.cancel_job, CancelJobRequest),
        Method::Capacity => call!(asked, CapacityRequest, |cx, _args| platform.capacity(&cx).await?),
        Method::Addresses => call!(asked, AddressesRequest, |cx, _args| platform.addresses(&cx).await?),
    }
}

impl Asked<'_> {
    fn read<R: Request>(&self) -> Result<(CallContext, R), CallError> {
        let body: CallBody<R> = wire::decode(self.body).map_err(|error| {
            self.refusals.with_label_values(&["malformed_body"]).inc();
            CallError::new(Code::Invalid, error.to_string())
        })?;
        let cancelled = self.cancelled.clone();
        Ok((CallContext { id: body.id, time: self.time, store: body.store, cancelled }, body.args))
    }
}
