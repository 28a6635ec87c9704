//! Calls that only read. They end with the caller that asked for them.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use towline_bus::{CallContext, Platform as _, clock};
use towline_protocol::ResourceId;

use super::Shared;
use super::extract::{Asked, AtInstance, Body, Params};
use super::problem::Refusal;
use super::types::{Lookup, Pong, Problem, Search, ServiceList, Version};
use crate::limits;

impl Asked {
    /// The context of a call that changes nothing.
    pub(super) fn reading(self) -> CallContext {
        let mut context = self.id.map_or_else(CallContext::new, CallContext::with_id);
        context.time = self.time;
        context
    }
}

/// A round trip through the instance's runtime.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/ping", tag = "calls", operation_id = "ping",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `5s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "It answered.", body = Pong),
        (status = "default", description = "It did not.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn ping(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<Pong>, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let begun = clock::now();
    api.bus.connect(&instance).ping(&context).await?;
    let round_trip_us = u64::try_from(clock::now().since(begun).as_micros()).unwrap_or(u64::MAX);
    Ok(Json(Pong { round_trip_us }))
}

/// The build of the instance's agent.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/version", tag = "calls", operation_id = "version",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `5s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "Its version.", body = Version),
        (status = "default", description = "It did not answer.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn version(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<Version>, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let version = api.bus.connect(&instance).version(&context).await?;
    Ok(Json(Version { version }))
}

/// All services of an instance, of one namespace or of all.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/services", tag = "calls", operation_id = "services",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("namespace" = Option<String>, Query, description = "Only those of this namespace."),
        ("ignore" = Option<Vec<String>>, Query, description = "Ids to leave out; may stand more than once, or hold several with commas."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The services, in no promised order.", body = ServiceList),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn services(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<ServiceList>, Refusal> {
    let params = params.only(&["namespace", "ignore", "timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let ignored = params.many("ignore").map(str::parse).collect::<Result<BTreeSet<ResourceId>, _>>();
    let ignored =
        ignored.map_err(|error| Refusal::malformed(format!("the parameter `ignore` is wrong: {error}")))?;
    let namespace = params.one("namespace")?;
    let services = api.bus.connect(&instance).all_services(&context, namespace, &ignored).await?;
    Ok(Json(ServiceList { services: services.into_iter().map(Into::into).collect() }))
}

/// The services named. Ids that do not exist are silently absent; no ids ask for none.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/services:lookup", tag = "calls", operation_id = "lookup_services",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    request_body = Lookup,
    responses(
        (status = 200, description = "The services, in no promised order.", body = ServiceList),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn lookup(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
    body: Body<Lookup, { limits::BODY_IDS_BYTES_MAX }>,
) -> Result<Json<ServiceList>, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let Lookup { ids } = body.value;
    let services = api.bus.connect(&instance).some_services(&context, &ids).await?;
    Ok(Json(ServiceList { services: services.into_iter().map(Into::into).collect() }))
}

/// All services of an instance, as `GET …/services` tells them, for more ids to leave out than a URL holds.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/services:search", tag = "calls", operation_id = "search_services",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    request_body = Search,
    responses(
        (status = 200, description = "The services, in no promised order.", body = ServiceList),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn search(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
    body: Body<Search, { limits::BODY_IDS_BYTES_MAX }>,
) -> Result<Json<ServiceList>, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let Search { namespace, ignored } = body.value;
    let services = api.bus.connect(&instance).all_services(&context, namespace.as_deref(), &ignored).await?;
    Ok(Json(ServiceList { services: services.into_iter().map(Into::into).collect() }))
}

/// Everything the instance holds, in its runtime's own format, byte for byte.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/export", tag = "calls", operation_id = "export",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `5m`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The manifests.", body = [u8], content_type = "application/octet-stream"),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn export(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let config = api.bus.connect(&instance).export(&context).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], config).into_response())
}
