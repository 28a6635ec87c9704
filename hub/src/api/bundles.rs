//! Bundles as they stand: what is there, what it holds, what came of it. These calls only read.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use towline_bus::Platform as _;
use towline_protocol::bundle::{
    BundleChangesRequest, BundleStatusRequest, GetBundleRequest, GetBundleResponse, ListBundlesRequest,
};
use towline_protocol::{Name, WorkloadId};

use super::Shared;
use super::extract::{Asked, AtInstance, Below, Params};
use super::problem::Refusal;
use super::types::{BundleContent, BundleList, BundleRecords, BundleStanding, Problem};

/// A number in a query.
pub(super) fn number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "it is a whole number from 0")
}

/// How many items a page is to hold.
pub(super) fn limit(params: &Params) -> Result<Option<u32>, Refusal> {
    let most = towline_protocol::limits::PAGE_ITEMS_MAX;
    params.parsed("limit", |text| match text.parse::<u32>() {
        Ok(limit) if (1..=most).contains(&usize::try_from(limit).unwrap_or(usize::MAX)) => Ok(limit),
        _ => Err(format!("it is a whole number from 1 to {most}")),
    })
}

/// A version as an entity tag: what `If-Match` compares.
pub(super) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits and quotes are visible ASCII")
}

/// All bundles of an instance, by name.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/bundles", tag = "bundles", operation_id = "list_bundles",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("after" = Option<String>, Query, description = "Begin after this bundle: the `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "At most so many: 1,000 if it is not said, at most 10,000."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The bundles.", body = BundleList),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<BundleList>, Refusal> {
    let params = params.only(&["after", "limit", "timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let request =
        ListBundlesRequest { after: params.parsed("after", str::parse::<Name>)?, limit: limit(&params)? };
    let page = api.bus.connect(&instance).list_bundles(&context, &request).await?;
    Ok(Json(BundleList { bundles: page.bundles.into_iter().map(Into::into).collect(), next: page.next }))
}

/// A bundle as it was put. With `Accept: application/yaml` the answer is the documents alone, byte for byte.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}", tag = "bundles", operation_id = "get_bundle",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("version" = Option<u64>, Query, description = "One of the versions that are still kept; else the last accepted one."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The bundle; the `ETag` is its version, for `If-Match`.", content(
            (BundleContent = "application/json"), ([u8] = "application/yaml"),
        )),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["version", "timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let request = GetBundleRequest { bundle, version: params.parsed("version", number)? };
    let held = api.bus.connect(&instance).get_bundle(&context, &request).await?;
    let GetBundleResponse { summary, version, digest, content, envelope } = held;
    let mut response = if wants_yaml(&headers) {
        ([(header::CONTENT_TYPE, "application/yaml")], content).into_response()
    } else {
        let envelope = envelope.map(Into::into);
        let bundle = summary.into();
        Json(BundleContent { bundle, version, digest, content: content.into(), envelope }).into_response()
    };
    response.headers_mut().insert(header::ETAG, etag(version));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Whether the caller names YAML. Whoever takes anything gets JSON, as from every other route.
pub(super) fn wants_yaml(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/yaml"))
    })
}

/// The record of a bundle: every result, oldest first.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}/changes", tag = "bundles", operation_id = "bundle_changes",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("after" = Option<u64>, Query, description = "Begin after this sequence."),
        ("limit" = Option<u32>, Query, description = "At most so many: 1,000 if it is not said, at most 10,000."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The records.", body = BundleRecords),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn changes(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<BundleRecords>, Refusal> {
    let params = params.only(&["after", "limit", "timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let after = params.parsed("after", number)?.unwrap_or(0);
    let request = BundleChangesRequest { bundle, after, limit: limit(&params)? };
    let page = api.bus.connect(&instance).bundle_changes(&context, &request).await?;
    Ok(Json(BundleRecords { changes: page.changes.into_iter().map(Into::into).collect(), next: page.next }))
}

/// How a bundle and its workloads stand: what came of the last operation, what is observed, how it drifted.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}/status", tag = "bundles", operation_id = "bundle_status",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("after" = Option<String>, Query, description = "Begin after this workload: the `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "At most so many workloads: 1,000 if it is not said, at most 10,000."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "How it stands.", body = BundleStanding),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn status(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<BundleStanding>, Refusal> {
    let params = params.only(&["after", "limit", "timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let after = params.parsed("after", str::parse::<WorkloadId>)?;
    let request = BundleStatusRequest { bundle, after, limit: limit(&params)? };
    let status = api.bus.connect(&instance).bundle_status(&context, &request).await?;
    let workloads = status.workloads.into_iter().map(Into::into).collect();
    Ok(Json(BundleStanding { bundle: status.summary.into(), workloads, next: status.next }))
}
