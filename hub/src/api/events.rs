//! Events as they happen, with history, resumed where a watcher left off.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse;
use futures::stream;
use towline_bus::clock;
use towline_bus::event::EventKind;
use towline_protocol::InstanceId;

use super::Shared;
use super::extract::Params;
use super::problem::Refusal;
use super::sse::{event as sse_event, last_event_id, respond};
use super::types::{Event, Gap, Problem, Time};
use crate::events::{EventTail, Tailed};
use crate::store::{EventFilter, StoredEvent};
use crate::time::parse_since;

/// What happens to instances: history first, then what comes. `event: gap` says that some of it is not kept any more.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "events",
    params(
        ("instance" = Option<String>, Query, description = "Only of this instance: `name` or `tenant/name`."),
        ("kind" = Option<Vec<String>>, Query, description = "Only of these kinds; may stand more than once, or hold several with commas."),
        ("since" = Option<String>, Query, description = "Not older: `2026-11-21T02:34:50Z`, or `10m`."),
        ("follow" = Option<bool>, Query, description = "`false` ends the stream after history."),
        ("Last-Event-ID" = Option<u64>, Header, description = "Begin after this sequence."),
    ),
    responses(
        (status = 200, description = "Each `data` is an Event; `id` is its sequence, `event` its kind.", body = Event, content_type = "text/event-stream"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn events(
    State(api): Shared,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (filter, follow) = asked(params, clock::unix_ms())?;
    let tail = api.log.tail(last_event_id(&headers)?, filter, follow, api.tasks.stopping().clone());
    Ok(respond(stream::unfold(Some(tail), next)))
}

/// Which events are asked for, and whether those to come, too.
pub(super) fn asked(params: Params, now_unix_ms: u64) -> Result<(EventFilter, bool), Refusal> {
    let params = params.only(&["instance", "kind", "since", "follow"])?;
    let filter = EventFilter {
        instance: params.parsed("instance", str::parse::<InstanceId>)?,
        kinds: params.many("kind").map(known_kind).collect::<Result<_, _>>()?,
        since_unix_ms: params.parsed("since", |text| parse_since(text, now_unix_ms))?,
    };
    let follow = params.flag("follow")?.unwrap_or(true);
    Ok((filter, follow))
}

/// A failure of the store is the last thing that a stream tells.
async fn next(tail: Option<EventTail>) -> Option<(sse::Event, Option<EventTail>)> {
    let mut tail = tail?;
    match tail.next().await? {
        Ok(Tailed::Event(event)) => Some((show_event(event), Some(tail))),
        Ok(Tailed::Gap { after }) => Some((sse_event("gap", &Gap { after }), Some(tail))),
        Err(error) => Some((sse_event("error", &Refusal::from(error).0), None)),
    }
}

fn show_event(event: StoredEvent) -> sse::Event {
    let StoredEvent { sequence, instance, epoch, kind, at_unix_ms, detail, .. } = event;
    let at = Time::from_unix_ms(at_unix_ms);
    let shown = Event {
        sequence,
        instance: instance.to_string(),
        epoch: epoch.get(),
        kind: kind.to_string(),
        at,
        detail,
    };
    sse_event(&shown.kind, &shown).id(sequence.to_string())
}

fn known_kind(word: &str) -> Result<EventKind, Refusal> {
    match EventKind::from_word(word) {
        EventKind::Other(word) => {
            let known: Vec<_> = EventKind::KNOWN.iter().map(EventKind::as_str).collect();
            let word: String = word.chars().take(80).collect();
            Err(Refusal::malformed(format!(
                "`{word}` is not a kind of event: the kinds are {}",
                known.join(", ")
            )))
        }
        known => Ok(known),
    }
}
