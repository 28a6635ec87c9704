//! Server-sent events: a stream that ends when its source does, or when the hub stops.

use std::convert::Infallible;

use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;

use super::problem::Refusal;
use crate::limits;

/// The answer that carries a stream of events. Silence is filled, so that proxies do not cut it.
pub(super) fn respond(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    use futures::StreamExt as _;
    let events = events.map(Ok::<_, Infallible>);
    let alive = KeepAlive::new().interval(limits::SSE_KEEP_ALIVE);
    // Nginx buffers answers unless it is told not to.
    let headers = [(header::CACHE_CONTROL, "no-store"), (HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Sse::new(events).keep_alive(alive)).into_response()
}

/// One event with JSON data.
pub(super) fn event<T: Serialize>(name: &str, data: &T) -> Event {
    let data = serde_json::to_string(data).expect("the API's types are made of maps with text keys");
    // JSON escapes line breaks, so the data is one line.
    Event::default().event(name).data(data)
}

/// The sequence after which a stream begins: what a client that lost one sends of itself.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<u64, Refusal> {
    let Some(value) = headers.get("last-event-id") else { return Ok(0) };
    let sequence = value.to_str().ok().and_then(|text| text.parse().ok());
    sequence.ok_or_else(|| {
        Refusal::malformed("the header `Last-Event-ID` is not a sequence, a whole number from 0")
    })
}
