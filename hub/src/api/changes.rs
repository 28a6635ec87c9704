//! Calls that change things. Each runs in a task of its own, which a caller that goes away does not take along; with an
//! `Idempotency-Key` it is pinned to the store that saw its first attempt, so that a retry is never done twice.

use std::future::Future;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use towline_bus::{CallContext, Platform as _, Remote, clock};
use towline_protocol::platform::{Definition, SyncAction};
use towline_protocol::{CallError, Code, Effect, InstanceId, RequestId, StoreId};
use uuid::Uuid;

use super::extract::{Asked, AtInstance, Body, Params};
use super::problem::{Refusal, door};
use super::types::{ActionInfo, Apply, DefinitionInfo, Done, Problem, Sync};
use super::{Api, Shared};
use crate::limits;
use crate::store::Pin;

/// A body that holds definitions.
type Large<T> = Body<T, { limits::BODY_DEFINITIONS_BYTES_MAX }>;

/// Applies definitions. What fails is told by id; the rest is done.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/apply", tag = "changes", operation_id = "apply",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    request_body = Apply,
    responses(
        (status = 200, description = "All of it is applied.", body = Done),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn apply(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
    body: Large<Apply>,
) -> Result<Response, Refusal> {
    let asked = Asked::from(&headers, &params.only(&["timeout"])?)?;
    let Body { value: Apply { definitions }, memory } = body;
    let definitions: Vec<_> = definitions
        .into_iter()
        .map(|DefinitionInfo { id, definition, is_async }| Definition {
            id,
            definition: definition.into(),
            is_async,
        })
        .collect();
    change(api, instance, asked, done, |remote, context| async move {
        let outcome = remote.apply(&context, &definitions).await;
        drop(memory);
        outcome
    })
    .await
}

/// Runs actions in order, each delete-then-apply. A failed delete skips its own apply; the rest goes on.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/sync", tag = "changes", operation_id = "sync",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    request_body = Sync,
    responses(
        (status = 200, description = "All of it is done.", body = Done),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn sync(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
    body: Large<Sync>,
) -> Result<Response, Refusal> {
    let asked = Asked::from(&headers, &params.only(&["timeout"])?)?;
    let Body { value: Sync { actions }, memory } = body;
    let actions: Vec<_> = actions
        .into_iter()
        .map(|ActionInfo { id, delete, apply }| SyncAction {
            id,
            delete: delete.map(Into::into),
            apply: apply.map(Into::into),
        })
        .collect();
    change(api, instance, asked, done, |remote, context| async move {
        let outcome = remote.sync(&context, &actions).await;
        drop(memory);
        outcome
    })
    .await
}

fn done(id: &RequestId, (): ()) -> Response {
    Json(Done { request_id: id.to_string() }).into_response()
}

/// Runs mutating work to its end, whatever becomes of the caller, and tells what came of it. The answer bears the call's id
/// in any case.
pub(super) async fn change<T, W, F>(
    api: Arc<Api>,
    instance: InstanceId,
    asked: Asked,
    tell: impl FnOnce(&RequestId, T) -> Response + Send + 'static,
    work: W,
) -> Result<Response, Refusal>
where
    T: Send,
    W: FnOnce(Remote, CallContext) -> F + Send + 'static,
    F: Future<Output = Result<T, CallError>> + Send,
{
    let tasks = api.tasks.clone();
    let running = tasks.spawn_isolated("change", async move {
        let Pinned { remote, context, made } = match asked.id {
            Some(id) => pinned(&api, &instance, id).await?,
            None => Pinned { remote: api.bus.connect(&instance), context: CallContext::new(), made: None },
        };
        let context = CallContext { time: asked.time, ..context };
        let id = context.id.clone();
        let outcome = work(remote, context).await;
        if let (Some(made), Err(CallError { effect: Effect::None, .. })) = (made, &outcome)
            && let Err(error) = api.store.unpin(&instance, &id, made).await
        {
            tracing::warn!(%instance, %id, %error, "the pin of an attempt that did nothing stays");
        }
        Ok(answer(&id, outcome, tell))
    });
    running.await.unwrap_or_else(|_| {
        let detail = "the work was lost in the hub; nobody knows what came of it";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, door::INTERNAL, detail)
            .with_effect(Effect::Unknown))
    })
}

fn answer<T>(
    id: &RequestId,
    outcome: Result<T, CallError>,
    tell: impl FnOnce(&RequestId, T) -> Response,
) -> Response {
    let mut response = match outcome {
        Ok(told) => tell(id, told),
        Err(error) => Refusal::from(error).into_response(),
    };
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(HeaderName::from_static("idempotency-key"), id);
    }
    response
}

/// A call whose id its caller chose.
struct Pinned {
    remote: Remote,
    context: CallContext,
    /// The pin, if this attempt made it. An attempt that did nothing takes it back: nothing is done twice by a retry, and
    /// elsewhere it would be refused for two days.
    made: Option<Pin>,
}

/// The pin is durable before the call is sent.
async fn pinned(api: &Api, instance: &InstanceId, id: RequestId) -> Result<Pinned, Refusal> {
    let at_unix_ms = clock::unix_ms();
    let remote = api.bus.connect(instance);
    let store = match remote.store() {
        Some(store) => Some(store),
        None => api.store.pin(instance, &id).await?.map(|pin| pin.store),
    };
    let Some(store) = store else {
        // Nobody serves, and the bus will say so. Should somebody come up just now, they must not do what has no pin.
        let remote = remote.only_at(StoreId::new(Uuid::nil()));
        return Ok(Pinned { remote, context: CallContext::with_id(id), made: None });
    };
    let (pin, is_first) = api.store.pin_first(instance, &id, Pin { store, at_unix_ms }).await?;
    check_age(&id, pin, at_unix_ms)?;
    let context = CallContext::with_id(id).pinned_to(Some(pin.store));
    // Whoever takes over just now would refuse the pin without knowing that nobody has done anything yet.
    let remote = if is_first { remote.only_at(pin.store) } else { remote };
    Ok(Pinned { remote, context, made: is_first.then_some(pin) })
}

/// An agent remembers outcomes for 48 hours by its own clock. A key that comes near that would be done again.
fn check_age(id: &RequestId, pin: Pin, now_unix_ms: u64) -> Result<(), CallError> {
    let age_ms = u128::from(now_unix_ms.saturating_sub(pin.at_unix_ms));
    if age_ms <= limits::REQUEST_ID_VALID.as_millis() {
        return Ok(());
    }
    let message = format!("the Idempotency-Key `{id}` was used first more than 24 hours ago");
    Err(CallError::new(Code::Expired, message).with_help("look at what the instance runs, and use a new key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_a_day() {
        let id: RequestId = "deploy-1".parse().unwrap();
        let pin = Pin { store: StoreId::new(Uuid::nil()), at_unix_ms: 1_000 };
        let day_ms = 24 * 3_600 * 1_000;
        assert!(check_age(&id, pin, 1_000 + day_ms).is_ok());
        assert_eq!(check_age(&id, pin, 1_001 + day_ms).unwrap_err().code, Code::Expired);
        assert!(check_age(&id, pin, 0).is_ok(), "a clock that went back is no reason to refuse");
    }
}
