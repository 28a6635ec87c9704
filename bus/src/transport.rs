//! What carries the bytes.
//!
//! The semantics are those of NATS, traps included: delivery is at most once, in order per subject and connection; a
//! queue that is full drops what comes; a publish with a reply subject that nobody hears is answered at once with a
//! *no responders* message; permission violations come later, as events. [`memory`] behaves the same, and one battery of
//! tests holds for both.

pub mod battery;
pub mod fault;
pub mod memory;
pub mod nats;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use thiserror::Error;
use tokio::sync::{broadcast, watch};

/// A message as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The subject that it was published on.
    pub subject: Arc<str>,
    /// Where the publisher expects an answer. Untrusted: see `Responder` for what may be published to it.
    pub reply: Option<Arc<str>>,
    /// The payload, empty for *no responders*.
    pub payload: Bytes,
    /// The server says that nobody heard the message that this answers (NATS status 503).
    pub no_responders: bool,
}

/// Whether the transport reaches its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// It does.
    Connected,
    /// It does not; it tries again by itself.
    Disconnected,
}

/// Waits until the server is not reached, if it is. Cancel safe.
pub(crate) async fn lost(link: &mut watch::Receiver<LinkState>) {
    // An error says that the transport is gone, and its server with it.
    let _ = link.wait_for(|state| *state == LinkState::Disconnected).await;
}

/// What a transport has to tell beside messages. Lossy: whoever reads too slowly misses some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportEvent {
    /// The server refused a subject to this connection.
    PermissionDenied {
        /// What was tried: publish or subscribe, and the subject.
        what: String,
    },
    /// A subscription's queue was full, and a message was dropped.
    SlowConsumer {
        /// The subscription's pattern.
        pattern: String,
    },
    /// The server does not take who we say we are: not now, or no more. It is asked again, ever more seldom.
    CredentialsRefused {
        /// What the server said.
        what: String,
    },
    /// The server found a message too large, although it fits what it announced, and ended the connection.
    PayloadRefused,
}

/// Why a message was not handed to the server. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// There is no connection now. Failing fast is the point: what a client buffers comes too late.
    #[error("the bus is not connected")]
    Disconnected,
    /// A subject, or the reply's, is none that can be published to.
    #[error("`{subject}` is not a subject that can be published to")]
    Malformed {
        /// The subject, shortened.
        subject: String,
    },
    /// The payload exceeds what the server takes.
    #[error("a payload of {found} bytes exceeds the bus's limit of {limit}")]
    TooLarge {
        /// The payload's size.
        found: usize,
        /// The server's limit.
        limit: usize,
    },
    /// The transport could not take it within its time.
    #[error("the bus did not take a message in time")]
    TimedOut,
}

/// Why a subscription was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("could not subscribe to `{pattern}`: {reason}")]
pub struct SubscribeError {
    /// The pattern.
    pub pattern: String,
    /// What went wrong.
    pub reason: String,
}

/// Messages of one pattern, in the order of their publication per publisher. Dropping it unsubscribes.
pub struct Subscription {
    messages: Pin<Box<dyn Stream<Item = Message> + Send>>,
}

impl Subscription {
    /// Made by transports: a stream that unsubscribes when it is dropped.
    pub fn new(messages: impl Stream<Item = Message> + Send + 'static) -> Self {
        Self { messages: Box::pin(messages) }
    }

    /// The next message; `None` once the transport was closed. A subscription outlives reconnects. Cancel safe.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.next().await
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// A connection to the bus, shared by whoever holds it.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Publishes a message; a reply subject asks for an answer, or for *no responders*. `Ok` says that the message is on
    /// its way, never that it arrived.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was sent then. Cancel safe: a dropped call may have sent the message.
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError>;

    /// Subscribes to a pattern; members of a queue group share its messages. When it returns, the subscription is on its
    /// way to the server, not proven there: that takes a round trip.
    ///
    /// # Errors
    /// When the pattern is malformed or the transport is closed.
    async fn subscribe(&self, pattern: String, queue: Option<String>)
    -> Result<Subscription, SubscribeError>;

    /// Whether the server is reached, and each change of it.
    fn link(&self) -> watch::Receiver<LinkState>;

    /// What there is to tell beside messages.
    fn events(&self) -> broadcast::Receiver<TransportEvent>;

    /// The largest payload that the server takes, in bytes.
    fn max_payload(&self) -> usize;

    /// Sends what is buffered, then closes. Subscriptions end.
    async fn close(&self);
}

/// The longest subject or pattern in bytes. Ours have at most about 250; NATS ends a connection for a line of 4,096.
const SUBJECT_BYTES_MAX: usize = 1_024;

/// Whether a message may be published to this: a pattern without wildcards. NATS would take those, literally, and what it
/// delivers then would look like a pattern to whoever hears it.
fn is_subject(subject: &str) -> bool {
    let bytes = subject.as_bytes();
    // Ours are plain, and each message comes by here. Folds, for a compiler makes them wide steps, unlike `all`.
    let is_plain = |byte: &u8| byte.is_ascii_graphic() & (*byte != b'*') & (*byte != b'>');
    let all_plain = bytes.iter().fold(true, |all, byte| all & is_plain(byte));
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    let no_empty_token = pairs.fold(true, |none, pair| none & (pair != (&b'.', &b'.')));
    let framed = bytes.first().is_some_and(|byte| *byte != b'.') && bytes.last() != Some(&b'.');
    if all_plain && no_empty_token && framed {
        return bytes.len() <= SUBJECT_BYTES_MAX;
    }
    is_pattern(subject) && !subject.split('.').any(|token| matches!(token, "*" | ">"))
}

/// The beginning of a subject, for an error.
fn shortened(subject: &str) -> String {
    subject.chars().take(200).collect()
}

/// Whether a pattern is well formed: tokens without white space, `>` only at the end.
fn is_pattern(pattern: &str) -> bool {
    if pattern.len() > SUBJECT_BYTES_MAX {
        return false;
    }
    let mut tokens = pattern.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty()
            || token.contains(|c: char| c.is_whitespace() || c.is_control())
            || (token == ">" && tokens.peek().is_some())
        {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_patterns_are_refused() {
        for (pattern, expected) in
            [("a.>", true), ("*.b", true), ("a..b", false), ("", false), (">.a", false), ("a b", false)]
        {
            assert_eq!(is_pattern(pattern), expected, "{pattern:?}");
        }
        assert!(!is_pattern(&"a".repeat(SUBJECT_BYTES_MAX + 1)));
    }
}
