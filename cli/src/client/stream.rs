//! A stream of events from a hub.

use std::collections::VecDeque;
use std::time::Duration;

use super::sse::{Parser, SseEvent};
use super::{ClientError, root_cause};

/// A hub fills silence every 15 s; after three times that, the connection is dead and nobody has told us.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Events as they come.
#[derive(Debug)]
pub(crate) struct EventStream {
    response: reqwest::Response,
    hub: String,
    parser: Parser,
    ready: VecDeque<SseEvent>,
}

impl EventStream {
    pub(super) fn new(response: reqwest::Response, hub: String) -> Self {
        Self { response, hub, parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The next event; `None` when the hub ended the stream. Cancel safe.
    ///
    /// # Errors
    /// When the connection was cut or carries no events.
    pub(crate) async fn next(&mut self) -> Result<Option<SseEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let cut = |reason: String| ClientError::Cut { hub: self.hub.clone(), reason, attempt: None };
            let piece = match tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(cut(root_cause(&error))),
                Err(_) => return Err(cut(format!("nothing was heard for {} s", SILENCE_MAX.as_secs()))),
            };
            let events = self.parser.push(&piece);
            let garbled = |error| ClientError::Garbled { hub: self.hub.clone(), reason: format!("{error}") };
            self.ready.extend(events.map_err(garbled)?);
        }
    }
}
