//! What becomes of the client's events: the state of the link, and alarms.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ClientError, Event, Server, ServerError};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use towline_protocol::limits;

use super::backoff::jitter;
use crate::transport::{LinkState, TransportEvent};

/// Events that one slow reader may be behind; they are lossy by contract.
const EVENTS_MAX: usize = 256;

/// How often the client's own word is looked at. Its events are lossy: a flood of drops may swallow the one that says that
/// the connection is there again, and a hub that believes itself cut off does nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After a server says that it will leave, clients go at a random moment within this time.
const LAME_DUCK_SPREAD: Duration = Duration::from_secs(10);

/// The largest frame: what a server should take.
const FRAME_BYTES_MAX: usize = limits::FRAME_BODY_BYTES_MAX + limits::FRAME_EXTENSION_BYTES_MAX + 64;

/// What the client's callbacks write.
pub(super) struct Link {
    pub(super) state: watch::Sender<LinkState>,
    pub(super) events: broadcast::Sender<TransportEvent>,
    /// The pattern of each of the client's subscriptions: it tells of a full queue by number alone.
    pub(super) patterns: Mutex<HashMap<u64, String>>,
    pub(super) closed: Notify,
    /// Set when nobody wants the connection any more: the client itself would try for ever.
    pub(super) unwanted: AtomicBool,
    lame_duck: Notify,
    /// How often each server has failed in a row, as last told.
    failures: Mutex<HashMap<String, usize>>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(LinkState::Disconnected),
            events: broadcast::Sender::new(EVENTS_MAX),
            patterns: Mutex::default(),
            closed: Notify::new(),
            unwanted: AtomicBool::new(false),
            lame_duck: Notify::new(),
            failures: Mutex::default(),
        }
    }

    /// Takes an event of the client. Nothing slow here: the client drops events that are not taken.
    pub(super) fn on_event(&self, event: &Event) {
        match event {
            Event::Connected => self.set(LinkState::Connected),
            Event::Disconnected => self.set(LinkState::Disconnected),
            Event::Closed => {
                self.set(LinkState::Disconnected);
                self.closed.notify_one();
            }
            Event::LameDuckMode => self.lame_duck.notify_one(),
            Event::SlowConsumer(number) | Event::ServerError(ServerError::SlowConsumer(number)) => {
                let patterns = self.patterns.lock().expect("no holder of this lock panics");
                let pattern = patterns.get(number).cloned().unwrap_or_default();
                self.tell(TransportEvent::SlowConsumer { pattern });
            }
            Event::ServerError(error) => self.on_server_error(&error.to_string()),
            // Told with its reason by `on_failures`; the client itself names the kind alone.
            Event::ClientError(ClientError::Other(kind)) => tracing::debug!(kind, "not connected to NATS"),
            other => tracing::debug!(event = %other, "the NATS client says"),
        }
    }

    /// The server says it in words alone.
    fn on_server_error(&self, text: &str) {
        let lower = text.to_ascii_lowercase();
        if lower.contains("permissions violation") {
            tracing::error!(text, "NATS refused a subject to this connection");
            self.tell(TransportEvent::PermissionDenied { what: text.to_owned() });
        } else if lower.contains("maximum payload") {
            tracing::error!(
                text,
                "NATS refused a message and ended the connection: this user's or account's payload limit is below the \
                 {FRAME_BYTES_MAX} bytes that a frame may have; raise it"
            );
            self.tell(TransportEvent::PayloadRefused);
        } else if lower.contains("authentication") || lower.contains("authorization") {
            tracing::error!(text, "NATS refused the credentials of this connection; trying again");
            self.tell(TransportEvent::CredentialsRefused { what: text.to_owned() });
        } else {
            tracing::warn!(text, "NATS says");
        }
    }

    /// Takes the client's list of servers before each round of attempts: it alone says why the last one failed.
    pub(super) fn on_failures(&self, servers: &[Server]) {
        let mut failures = self.failures.lock().expect("no holder of this lock panics");
        for server in servers {
            // Host and port alone: an address may hold a password.
            let address = format!("{}:{}", server.addr.host(), server.addr.port());
            let told = failures.insert(address.clone(), server.failed_attempts).unwrap_or(0);
            let Some(error) = server.last_error.as_deref().filter(|_| server.failed_attempts > told) else {
                continue;
            };
            let lower = error.to_ascii_lowercase();
            if lower.contains("authorization") || lower.contains("authentication") || lower.contains("nonce")
            {
                tracing::error!(server = address, error, "NATS refuses our credentials; trying again");
                self.tell(TransportEvent::CredentialsRefused { what: error.to_owned() });
            } else {
                tracing::warn!(server = address, error, "could not connect to NATS; trying again");
            }
        }
    }

    pub(super) fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, state: LinkState) {
        let before = self.state.send_replace(state);
        match (before, state) {
            (LinkState::Disconnected, LinkState::Connected) => tracing::info!("connected to NATS"),
            (LinkState::Connected, LinkState::Disconnected) => {
                tracing::warn!("the connection to NATS was lost");
            }
            _ => {}
        }
    }

    fn tell(&self, event: TransportEvent) {
        // Nobody listens: then nobody wants to know.
        let _ = self.events.send(event);
    }
}

/// Keeps the link's state true whatever events are lost, and looks at what each server takes.
pub(super) async fn follow(link: std::sync::Arc<Link>, client: Client, stopping: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let (mut doubted, mut connects) = (false, 0);
    while stopping.run_until_cancelled(looks.tick()).await.is_some() {
        let state = match client.connection_state() {
            State::Connected => LinkState::Connected,
            State::Pending | State::Disconnected => LinkState::Disconnected,
        };
        let differs = *link.state.borrow() != state;
        // An event may be on its way just now; what differs twice was lost.
        if differs && doubted {
            link.set(state);
        }
        doubted = differs;
        let connected = client.statistics().connects.load(Ordering::Relaxed);
        if connected != std::mem::replace(&mut connects, connected) && client.max_payload() < FRAME_BYTES_MAX
        {
            let limit = client.max_payload();
            tracing::warn!(
                limit,
                "the NATS server's max_payload is below the {FRAME_BYTES_MAX} bytes that a frame may have: large messages \
                 are cut smaller, and are slower; raise it"
            );
        }
    }
}

/// A server that is about to leave asks its clients to go. They do, each at a moment of its own.
pub(super) async fn leave_in_time(link: std::sync::Arc<Link>, client: Client, stopping: CancellationToken) {
    while stopping.run_until_cancelled(link.lame_duck.notified()).await.is_some() {
        let pause = tokio::time::sleep(jitter(LAME_DUCK_SPREAD));
        if stopping.run_until_cancelled(pause).await.is_none() {
            return;
        }
        tracing::info!("the NATS server is leaving; connecting elsewhere");
        // The client is gone: then so is the connection.
        let _ = client.force_reconnect().await;
    }
}
