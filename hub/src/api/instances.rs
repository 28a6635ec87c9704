//! Instances: who they are, and how they stand.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use towline_bus::clock;
use towline_bus::message_bus::{InstanceView, PresenceView};
use towline_bus::transport::LinkState;
use towline_protocol::{Code, InstanceId, Name};

use super::Shared;
use super::extract::{AtInstance, Body, Params};
use super::problem::Refusal;
use super::types::{CreateInstance, Health, Instance, InstanceList, Presence, Problem, Session, Time};
use crate::limits;
use crate::registry::Entry;

/// All instances.
#[utoipa::path(
    get, path = "/v1/instances", tag = "instances", operation_id = "list_instances",
    params(
        ("tenant" = Option<String>, Query, description = "Only those of this tenant."),
        ("state" = Option<String>, Query, description = "Only those that are `connected`, `unreachable` or `never_seen`."),
    ),
    responses(
        (status = 200, description = "The instances, by id.", body = InstanceList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(api): Shared, params: Params) -> Result<Json<InstanceList>, Refusal> {
    let params = params.only(&["tenant", "state"])?;
    let tenant = params.parsed("tenant", str::parse::<Name>)?;
    let state = params.parsed("state", |state| {
        let known = ["connected", "unreachable", "never_seen"];
        known
            .into_iter()
            .find(|known| *known == state)
            .ok_or("it is `connected`, `unreachable` or `never_seen`")
    })?;
    let now_unix_ms = clock::unix_ms();
    let wanted = |entry: &Entry| {
        tenant.as_ref().is_none_or(|tenant| entry.record.id.tenant == *tenant)
            && state.is_none_or(|state| entry.state() == state)
    };
    let entries = api.registry.list().into_iter().filter(wanted);
    let instances = entries.map(|entry| show_entry(entry, now_unix_ms)).collect();
    let bus = match api.registry.link() {
        LinkState::Connected => "connected",
        LinkState::Disconnected => "disconnected",
    };
    Ok(Json(InstanceList { instances, bus: bus.to_owned(), as_of: Time::from_unix_ms(now_unix_ms) }))
}

/// Puts an instance on record. One that was merely seen becomes a created one.
#[utoipa::path(
    post, path = "/v1/instances", tag = "instances", operation_id = "create_instance",
    request_body = CreateInstance,
    responses(
        (status = 201, description = "It is on record.", body = Instance),
        (status = 409, description = "It was there before.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(
    State(api): Shared,
    params: Params,
    body: Body<CreateInstance, { limits::BODY_SMALL_BYTES_MAX }>,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let CreateInstance { id, labels } = body.value;
    let id: InstanceId =
        id.parse().map_err(|error| Refusal::malformed(format!("the body is wrong at `id`: {error}")))?;
    check_labels(&labels)?;
    let now_unix_ms = clock::unix_ms();
    let entry = api.registry.create(id, labels, now_unix_ms).await?;
    let location = format!("/v1/instances/{}", entry.record.id);
    let body = Json(show_entry(entry, now_unix_ms));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], body).into_response())
}

/// One instance.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}", tag = "instances", operation_id = "show_instance",
    params(("tenant" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "How it stands.", body = Instance),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
) -> Result<Json<Instance>, Refusal> {
    params.only(&[])?;
    let entry = api.registry.get(&instance).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            Code::NotFound.as_str(),
            format!("there is no instance `{instance}`"),
        )
        .with_help("`GET /v1/instances` lists all of them")
    })?;
    Ok(Json(show_entry(entry, clock::unix_ms())))
}

/// Takes an instance off the record. What runs there goes on running.
#[utoipa::path(
    delete, path = "/v1/instances/{tenant}/{name}", tag = "instances", operation_id = "delete_instance",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("force" = Option<bool>, Query, description = "Also while it is connected."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 409, description = "It is connected.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
) -> Result<StatusCode, Refusal> {
    let force = params.only(&["force"])?.flag("force")?.unwrap_or(false);
    api.registry.delete(&instance, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let refuse = |detail: String| {
        Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid.as_str(), detail).with_help(format!(
            "an instance has at most {} labels; keys and values have at most {} bytes and no control characters",
            limits::LABELS_MAX,
            limits::LABEL_BYTES_MAX
        )))
    };
    if labels.len() > limits::LABELS_MAX {
        return refuse(format!("there are {} labels", labels.len()));
    }
    let good = |text: &str| text.len() <= limits::LABEL_BYTES_MAX && !text.chars().any(char::is_control);
    match labels.iter().find(|(key, value)| key.is_empty() || !good(key) || !good(value)) {
        None => Ok(()),
        Some((key, _)) => {
            refuse(format!("the label `{}` is not one", key.escape_debug().take(80).collect::<String>()))
        }
    }
}

/// Nothing is shown as well from stale data: what an instance said of its health counts while it is connected.
fn show_entry(entry: Entry, now_unix_ms: u64) -> Instance {
    let state = entry.state().to_owned();
    let since_record = entry.record.created_unix_ms;
    let (since_unix_ms, last_heard_ms_ago) = match entry.view.as_ref().map(|view| &view.presence) {
        Some(PresenceView::Connected { since_unix_ms, last_heard_ms_ago }) => {
            (*since_unix_ms, Some(*last_heard_ms_ago))
        }
        Some(PresenceView::Unreachable { since_unix_ms }) => (*since_unix_ms, None),
        Some(PresenceView::NeverSeen) | None => (since_record, None),
    };
    let presence = Presence {
        state,
        since: Time::from_unix_ms(since_unix_ms),
        age_ms: now_unix_ms.saturating_sub(since_unix_ms),
        last_heard_ms_ago,
    };
    let health = match &entry.view {
        Some(view) if entry.is_connected() => {
            Health { state: view.health.state.to_string(), detail: view.health.detail.clone() }
        }
        _ => Health { state: "unknown".to_owned(), detail: None },
    };
    Instance {
        id: entry.record.id.to_string(),
        labels: entry.record.labels,
        created_at: Time::from_unix_ms(since_record),
        origin: entry.record.origin.to_string(),
        presence,
        health,
        session: entry.view.filter(|view| view.epoch.is_some()).map(show_session),
    }
}

fn show_session(view: InstanceView) -> Session {
    Session {
        epoch: view.epoch.map(towline_protocol::Epoch::get),
        boot: view.boot.map(|boot| boot.to_string()),
        store: view.store.map(|store| store.to_string()),
        version: view.version,
        runtime: view.runtime,
        calls: view.calls,
        applied: view.applied.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
