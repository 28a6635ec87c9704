//! Whether the hub is up, and whether it can work. Neither needs a token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use towline_bus::transport::LinkState;

use super::problem::{Refusal, door};
use super::types::{Healthy, Problem};
use super::{Api, Shared};

fn healthy() -> Json<Healthy> {
    Json(Healthy { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// The hub is up.
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "healthz", security(()),
    responses((status = 200, description = "The process answers.", body = Healthy)),
)]
pub(super) async fn healthz() -> Json<Healthy> {
    healthy()
}

/// The hub can work: it reaches the bus, and its store takes writes.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz", security(()),
    responses(
        (status = 200, description = "It can.", body = Healthy),
        (status = 503, description = "It cannot; the detail says why.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn readyz(State(api): Shared) -> Result<Json<Healthy>, Refusal> {
    match why_not_ready(&api) {
        None => Ok(healthy()),
        Some(why) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, door::NOT_READY, why)),
    }
}

fn why_not_ready(api: &Arc<Api>) -> Option<&'static str> {
    if api.tasks.stopping().is_cancelled() {
        return Some("the hub stops");
    }
    if !api.store.is_writable() {
        return Some("the hub's store takes no writes");
    }
    match api.bus.link() {
        LinkState::Connected => None,
        LinkState::Disconnected => Some("the hub does not reach the bus"),
    }
}
