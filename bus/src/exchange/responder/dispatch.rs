//! From a call's bytes to the platform and back: the one place that ties the call table to the trait.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use towline_protocol::bundle::{
    BundleChangesRequest, BundleStatusRequest, DeleteBundleRequest, GetBundleRequest, ListBundlesRequest,
    PauseBundleRequest, PutBundleRequest, ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::call::{CallBody, Request};
use towline_protocol::capacity::{AddressesRequest, CapacityRequest};
use towline_protocol::frame::{Header, Kind};
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
}

/// One row: reads the arguments, does the work, encodes what it answers.
macro_rules! call {
    ($asked:ident, $request:ty, |$cx:ident, $args:ident| $work:expr) => {{
        let ($cx, $args) = $asked.read::<$request>()?;
        let response: <$request as Request>::Response = $work;
        Ok(Outcome::Message(Kind::Reply, wire::encode(&response)))
    }};
}

/// Decodes a call, asks the platform, and encodes its answer.
pub(super) async fn dispatch(
    platform: &dyn Platform,
    method: Method,
    header: &Header,
    body: &Bytes,
    cancelled: &CancellationToken,
) -> Result<Outcome, CallError> {
    let time = header.time_left.map(|time| time.min(limits::CALL_TIME_MAX));
    let asked = Asked { body, time, cancelled };
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
        Method::PutBundle => {
            call!(asked, PutBundleRequest, |cx, args| platform.put_bundle(&cx, &args).await?)
        }
        Method::DeleteBundle => {
            call!(asked, DeleteBundleRequest, |cx, args| platform.delete_bundle(&cx, &args).await?)
        }
        Method::PauseBundle => {
            call!(asked, PauseBundleRequest, |cx, args| platform.pause_bundle(&cx, &args).await?)
        }
        Method::ResumeBundle => {
            call!(asked, ResumeBundleRequest, |cx, args| platform.resume_bundle(&cx, &args).await?)
        }
        Method::RetryBundle => {
            call!(asked, RetryBundleRequest, |cx, args| platform.retry_bundle(&cx, &args).await?)
        }
        Method::GetBundle => {
            call!(asked, GetBundleRequest, |cx, args| platform.get_bundle(&cx, &args).await?)
        }
        Method::ListBundles => {
            call!(asked, ListBundlesRequest, |cx, args| platform.list_bundles(&cx, &args).await?)
        }
        Method::BundleChanges => {
            call!(asked, BundleChangesRequest, |cx, args| platform.bundle_changes(&cx, &args).await?)
        }
        Method::BundleStatus => {
            call!(asked, BundleStatusRequest, |cx, args| platform.bundle_status(&cx, &args).await?)
        }
        Method::GetJob => call!(asked, GetJobRequest, |cx, args| platform.get_job(&cx, &args).await?),
        Method::ListJobs => call!(asked, ListJobsRequest, |cx, args| platform.list_jobs(&cx, &args).await?),
        Method::WatchJob => {
            let (cx, args) = asked.read::<WatchJobRequest>()?;
            Ok(Outcome::Records(platform.watch_job(&cx, &args).await?))
        }
        Method::CancelJob => {
            call!(asked, CancelJobRequest, |cx, args| platform.cancel_job(&cx, &args).await?)
        }
        Method::Capacity => call!(asked, CapacityRequest, |cx, _args| platform.capacity(&cx).await?),
        Method::Addresses => call!(asked, AddressesRequest, |cx, _args| platform.addresses(&cx).await?),
    }
}

impl Asked<'_> {
    fn read<R: Request>(&self) -> Result<(CallContext, R), CallError> {
        let body: CallBody<R> =
            wire::decode(self.body).map_err(|error| CallError::new(Code::Invalid, error.to_string()))?;
        let cancelled = self.cancelled.clone();
        Ok((CallContext { id: body.id, time: self.time, store: body.store, cancelled }, body.args))
    }
}
