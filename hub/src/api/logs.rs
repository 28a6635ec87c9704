//! The log lines of an app, as they come from its instance.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse;
use futures::stream;
use tokio_util::sync::CancellationToken;
use towline_bus::platform::ItemStream;
use towline_bus::{Platform as _, clock};
use towline_protocol::ResourceId;
use towline_protocol::platform::{LogLine, LogsRequest};

use super::Shared;
use super::extract::{Asked, AtInstance, Params};
use super::problem::Refusal;
use super::sse::{event, respond};
use super::types::{LogLineInfo, Problem};
use crate::time::parse_since;

/// The log lines of an app: `event: line` for each, then `event: end`, or `event: error` with a problem.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/logs", tag = "calls", operation_id = "logs",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("app" = String, Query, description = "The app: `default/App/web`."),
        ("unit" = Option<String>, Query, description = "One of its units."),
        ("follow" = Option<bool>, Query, description = "Go on with lines as they come."),
        ("since" = Option<String>, Query, description = "Not older: `2026-11-21T02:34:50Z`, or `10m`."),
        ("tail" = Option<u64>, Query, description = "Begin with at most so many of the newest lines."),
        ("timeout" = Option<String>, Query, description = "How long the stream may last. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The lines.", body = LogLineInfo, content_type = "text/event-stream"),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn logs(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (asked, request) = asked(params, &headers, clock::unix_ms())?;
    let lines = api.bus.connect(&instance).logs(&asked.reading(), &request).await?;
    let source = Source { lines, stopping: api.tasks.stopping().clone() };
    Ok(respond(stream::unfold(Some(source), next)))
}

/// Which lines are asked for.
pub(super) fn asked(
    params: Params,
    headers: &HeaderMap,
    now_unix_ms: u64,
) -> Result<(Asked, LogsRequest), Refusal> {
    let params = params.only(&["app", "unit", "follow", "since", "tail", "timeout"])?;
    let asked = Asked::from(headers, &params)?;
    let app = params.parsed("app", str::parse::<ResourceId>)?;
    let app = app.ok_or_else(|| Refusal::malformed("the parameter `app` is missing: it names the app"))?;
    let request = LogsRequest {
        app,
        unit: params.one("unit")?.map(str::to_owned),
        follow: params.flag("follow")?.unwrap_or(false),
        since_unix_ms: params.parsed("since", |text| parse_since(text, now_unix_ms))?,
        tail: params.parsed("tail", |text| text.parse::<u64>().map_err(|_| "it is a whole number from 0"))?,
    };
    Ok((asked, request))
}

struct Source {
    lines: ItemStream<LogLine>,
    stopping: CancellationToken,
}

/// A caller sees the difference between a log that is over and one that was lost. Dropping the stream ends the call.
async fn next(source: Option<Source>) -> Option<(sse::Event, Option<Source>)> {
    let mut source = source?;
    let line = tokio::select! {
        line = source.lines.next() => line,
        () = source.stopping.cancelled() => return None,
    };
    Some(match line {
        Some(Ok(line)) => (event("line", &LogLineInfo::from(line)), Some(source)),
        Some(Err(error)) => (event("error", &Refusal::from(error).0), None),
        None => (event("end", &serde_json::json!({})), None),
    })
}
