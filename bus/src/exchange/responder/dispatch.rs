//! From a call's bytes to the platform and back: the one place that ties the call table to the trait.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use towline_protocol::call::{CallBody, Request};
use towline_protocol::frame::{Header, Kind};
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
    macro_rules! call {
        ($request:ty, |$cx:ident, $args:ident| $work:expr) => {{
            let ($cx, $args) = read::<$request>(body, time, cancelled)?;
            let response: <$request as Request>::Response = $work;
            Ok(Outcome::Message(Kind::Reply, wire::encode(&response)))
        }};
    }
    match method {
        Method::Ping => call!(PingRequest, |cx, _args| {
            platform.ping(&cx).await?;
            PingResponse {}
        }),
        Method::Version => {
            call!(VersionRequest, |cx, _args| VersionResponse { version: platform.version(&cx).await? })
        }
        Method::AllServices => call!(AllServicesRequest, |cx, args| {
            check_count("ignored ids", args.ignored.len(), limits::IDS_MAX)?;
            ServicesResponse {
                services: platform.all_services(&cx, args.namespace.as_deref(), &args.ignored).await?,
            }
        }),
        Method::SomeServices => call!(SomeServicesRequest, |cx, args| {
            check_count("ids", args.ids.len(), limits::IDS_MAX)?;
            ServicesResponse { services: platform.some_services(&cx, &args.ids).await? }
        }),
        Method::Apply => call!(ApplyRequest, |cx, args| {
            check_count("definitions", args.definitions.len(), limits::DEFINITIONS_MAX)?;
            platform.apply(&cx, &args.definitions).await?;
            ApplyResponse {}
        }),
        Method::Export => {
            call!(ExportRequest, |cx, _args| ExportResponse { config: platform.export(&cx).await? })
        }
        Method::Sync => call!(SyncRequest, |cx, args| {
            check_count("actions", args.actions.len(), limits::DEFINITIONS_MAX)?;
            platform.sync(&cx, &args.actions).await?;
            SyncResponse {}
        }),
        Method::Logs => {
            let (cx, args) = read::<LogsRequest>(body, time, cancelled)?;
            Ok(Outcome::Lines(platform.logs(&cx, &args).await?))
        }
    }
}

fn read<R: Request>(
    body: &Bytes,
    time: Option<Duration>,
    cancelled: &CancellationToken,
) -> Result<(CallContext, R), CallError> {
    let body: CallBody<R> =
        wire::decode(body).map_err(|error| CallError::new(Code::Invalid, error.to_string()))?;
    let cx = CallContext { id: body.id, time, store: body.store, cancelled: cancelled.clone() };
    Ok((cx, body.args))
}
