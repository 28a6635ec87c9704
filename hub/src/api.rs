//! The HTTP API: JSON under `/v1`, events and logs as server-sent events, errors as `application/problem+json`.
//!
//! Each handler carries its own OpenAPI description, and is routed by it: what is routed is documented, under the same
//! path. Reading calls end with the caller that asked for them; mutating ones run in a task of their own, and a caller
//! that goes away does not take them along.

mod auth;
mod bundle_changes;
mod bundles;
mod bytes;
mod calls;
mod changes;
#[doc(hidden)]
pub mod doors;
mod events;
mod extract;
mod health;
mod instances;
mod jobs;
mod logs;
mod openapi;
mod problem;
mod sse;
pub mod types;

use std::sync::{Arc, OnceLock};

use ::bytes::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::{Router, middleware};
use tokio::sync::Semaphore;
use towline_bus::MessageBus;
use towline_bus::task::Tasks;
use utoipa::openapi::OpenApi;

use crate::events::EventLog;
use crate::limits;
use crate::metrics::HubMetrics;
use crate::registry::Registry;
use crate::store::Store;
use crate::token::Token;

pub use problem::status_of;

/// What the handlers work with.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) bus: MessageBus,
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    pub(crate) log: EventLog,
    pub(crate) token: Token,
    pub(crate) metrics: HubMetrics,
    /// Mutating work, and what ends with the hub.
    pub(crate) tasks: Tasks,
    /// Memory for bodies, in [`BODY_UNIT`]s.
    pub(crate) bodies: Arc<Semaphore>,
    /// The document, once the router is made.
    pub(crate) document: OnceLock<Bytes>,
}

/// A body takes memory in units of this, so that a permit count fits any size.
const BODY_UNIT: usize = 64 << 10;

impl Api {
    pub(crate) fn body_permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(limits::BODIES_BYTES_MAX / BODY_UNIT))
    }
}

type Shared = State<Arc<Api>>;

/// The router with everything around it, and the document that describes it.
pub(crate) fn router(api: Arc<Api>) -> (Router, OpenApi) {
    let (guarded, mut document) = openapi::guarded_routes().split_for_parts();
    let (open, open_document) = openapi::open_routes().split_for_parts();
    document.merge(open_document);
    let guarded = guarded.route_layer(middleware::from_fn_with_state(Arc::clone(&api), auth::require_token));
    let router = guarded
        .merge(open)
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::map_response_with_state(Arc::clone(&api), count_problems))
        .with_state(Arc::clone(&api));
    let text = serde_json::to_vec_pretty(&document).expect("the document is made of maps with text keys");
    api.document.get_or_init(|| text.into());
    (router, document)
}

async fn count_problems(State(api): Shared, response: Response) -> Response {
    if let Some(problem::Refused(code)) = response.extensions().get() {
        api.metrics.api_errors.with_label_values(&[*code]).inc();
    }
    response
}
