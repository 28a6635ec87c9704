//! The list of all routes, and the document that describes them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::types::{Event, Gap, JobRecordInfo, LogLineInfo, Problem};
use super::{Api, Shared, bundle_changes, bundles, calls, changes, events, health, instances, jobs, logs};

/// The document's head, and the schemas that only server-sent events carry.
#[derive(OpenApi)]
#[openapi(
    info(title = "Towline", description = "Run anything on places you cannot reach, and always know how they stand."),
    components(schemas(Event, Gap, JobRecordInfo, LogLineInfo, Problem)),
    modifiers(&Bearer),
    security(("token" = [])),
)]
struct Head;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("The token in the hub's token file."))
                .build(),
        );
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Routes that need the token.
pub(super) fn guarded_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(instances::list, instances::create))
        .routes(routes!(instances::show, instances::delete))
        .routes(routes!(calls::ping))
        .routes(routes!(calls::version))
        .routes(routes!(calls::services))
        .routes(routes!(calls::lookup))
        .routes(routes!(calls::search))
        .routes(routes!(calls::export))
        .routes(routes!(changes::apply))
        .routes(routes!(changes::sync))
        .routes(routes!(logs::logs))
        .routes(routes!(bundles::list))
        .routes(routes!(bundles::get, bundle_changes::put, bundle_changes::delete))
        .routes(routes!(bundles::changes))
        .routes(routes!(bundles::status))
        .routes(routes!(bundle_changes::pause))
        .routes(routes!(bundle_changes::resume))
        .routes(routes!(bundle_changes::retry))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::watch))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::capacity))
        .routes(routes!(jobs::addresses))
        .routes(routes!(events::events))
}

/// Routes that anybody may ask.
pub(super) fn open_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(document))
        .routes(routes!(document_under_v1))
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "health", operation_id = "openapi", security(()),
    responses((status = 200, description = "The API's description.", content_type = "application/json")),
)]
pub(super) async fn document(State(api): Shared) -> impl IntoResponse {
    let text = api.document.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text)
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "health", operation_id = "openapi_v1", security(()),
    responses((status = 200, description = "The API's description.", content_type = "application/json")),
)]
pub(super) async fn document_under_v1(state: Shared) -> impl IntoResponse {
    document(state).await
}
