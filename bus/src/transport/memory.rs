//! A bus in memory with the semantics of NATS: wildcards, queue groups, *no responders*, bounded delivery that drops,
//! permissions, payload limit, disconnection. `towline dev` runs on it, and tests.

mod trie;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, watch};
use towline_protocol::limits;

use self::trie::Trie;
use super::{
    LinkState, Message, PublishError, SubscribeError, Subscription, Transport, TransportEvent, is_pattern,
    is_subject, shortened,
};

/// What NATS allows by default.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// Events that one slow reader may be behind; they are lossy by contract.
const EVENTS_MAX: usize = 64;

type ConnectionId = u64;
type SubscriptionId = u64;

/// What a connection may do. `None` allows everything.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// Patterns that it may publish to.
    pub publish: Option<Vec<String>>,
    /// Patterns that it may subscribe to.
    pub subscribe: Option<Vec<String>>,
}

/// The server in memory. Clones are the same server.
#[derive(Debug, Clone, Default)]
pub struct MemoryBroker {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    connections: HashMap<ConnectionId, Connection>,
    subscriptions: HashMap<SubscriptionId, Subscriber>,
    patterns: Trie,
}

#[derive(Debug)]
struct Connection {
    link: watch::Sender<LinkState>,
    events: broadcast::Sender<TransportEvent>,
    permissions: Permissions,
    cut: bool,
}

#[derive(Debug)]
struct Subscriber {
    connection: ConnectionId,
    pattern: String,
    queue: Option<String>,
    messages: mpsc::Sender<Message>,
}

impl MemoryBroker {
    /// A server without connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects with all permissions.
    #[must_use]
    pub fn connect(&self) -> Arc<MemoryTransport> {
        self.connect_with(Permissions::default())
    }

    /// Connects with these permissions.
    #[must_use]
    pub fn connect_with(&self, permissions: Permissions) -> Arc<MemoryTransport> {
        let (link, _) = watch::channel(LinkState::Connected);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let mut state = self.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.connections.insert(id, Connection { link, events, permissions, cut: false });
        drop(state);
        Arc::new(MemoryTransport { broker: self.clone(), id, turn: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    /// The subscriptions that hear a subject: all plain ones, and one of each queue group.
    fn listeners(&self, subject: &str, turn: u64) -> Vec<SubscriptionId> {
        let mut found = Vec::new();
        let mut groups: HashMap<&str, Vec<SubscriptionId>> = HashMap::new();
        for id in self.patterns.matching(subject) {
            let Some(subscriber) = self.subscriptions.get(&id) else { continue };
            if self.connections.get(&subscriber.connection).is_none_or(|connection| connection.cut) {
                continue;
            }
            match &subscriber.queue {
                None => found.push(id),
                Some(queue) => groups.entry(queue).or_default().push(id),
            }
        }
        for members in groups.into_values() {
            let chosen = usize::try_from(turn).unwrap_or(0) % members.len();
            found.extend(members.get(chosen));
        }
        found
    }

    fn deliver(&self, id: SubscriptionId, message: Message) {
        let Some(subscriber) = self.subscriptions.get(&id) else { return };
        if subscriber.messages.try_send(message).is_err() {
            let event = TransportEvent::SlowConsumer { pattern: subscriber.pattern.clone() };
            self.tell(subscriber.connection, event);
        }
    }

    fn tell(&self, connection: ConnectionId, event: TransportEvent) {
        if let Some(connection) = self.connections.get(&connection) {
            // Nobody listens: then nobody wants to know.
            let _ = connection.events.send(event);
        }
    }

    fn unsubscribe(&mut self, id: SubscriptionId) {
        if let Some(subscriber) = self.subscriptions.remove(&id) {
            self.patterns.remove(&subscriber.pattern, id);
        }
    }
}

/// One connection to a [`MemoryBroker`].
#[derive(Debug)]
pub struct MemoryTransport {
    broker: MemoryBroker,
    id: ConnectionId,
    turn: AtomicU64,
}

impl MemoryTransport {
    /// Cuts the connection: nothing is sent or received until [`MemoryTransport::join`]. What is on its way is lost.
    pub fn cut(&self) {
        self.set_cut(true);
    }

    /// Joins a connection that was cut. Its subscriptions are there again.
    pub fn join(&self) {
        self.set_cut(false);
    }

    fn set_cut(&self, cut: bool) {
        let mut state = self.broker.lock();
        if let Some(connection) = state.connections.get_mut(&self.id) {
            connection.cut = cut;
            let link = if cut { LinkState::Disconnected } else { LinkState::Connected };
            connection.link.send_replace(link);
        }
    }
}

/// Unsubscribes when dropped.
struct Unsubscribe {
    broker: MemoryBroker,
    id: SubscriptionId,
}

impl Drop for Unsubscribe {
    fn drop(&mut self) {
        self.broker.lock().unsubscribe(self.id);
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        for subject in reply.iter().chain([&subject]) {
            if !is_subject(subject) {
                return Err(PublishError::Malformed { subject: shortened(subject) });
            }
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PublishError::TooLarge { found: payload.len(), limit: MAX_PAYLOAD_BYTES });
        }
        let state = self.broker.lock();
        let connection = state.connections.get(&self.id).filter(|connection| !connection.cut);
        let Some(connection) = connection else { return Err(PublishError::Disconnected) };
        if !allows(connection.permissions.publish.as_deref(), &subject) {
            state.tell(self.id, TransportEvent::PermissionDenied { what: format!("publish to `{subject}`") });
            return Ok(());
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let listeners = state.listeners(&subject, turn);
        if let (true, Some(reply)) = (listeners.is_empty(), &reply) {
            let subject: Arc<str> = reply.as_str().into();
            let nobody = Message { subject, reply: None, payload: Bytes::new(), no_responders: true };
            // The server answers the asking connection alone, as NATS does.
            for id in state.listeners(reply, turn) {
                if state.subscriptions.get(&id).is_some_and(|subscriber| subscriber.connection == self.id) {
                    state.deliver(id, nobody.clone());
                }
            }
            return Ok(());
        }
        let subject: Arc<str> = subject.into();
        let reply: Option<Arc<str>> = reply.map(Into::into);
        for id in listeners {
            let (subject, reply) = (subject.clone(), reply.clone());
            state.deliver(id, Message { subject, reply, payload: payload.clone(), no_responders: false });
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        pattern: String,
        queue: Option<String>,
    ) -> Result<Subscription, SubscribeError> {
        let failed = |reason: &str| SubscribeError { pattern: pattern.clone(), reason: reason.to_owned() };
        if !is_pattern(&pattern) || queue.as_ref().is_some_and(|queue| !is_subject(queue)) {
            return Err(failed("it is not a pattern"));
        }
        let (sender, receiver) = mpsc::channel(limits::SUBSCRIPTION_MESSAGES_MAX);
        let mut state = self.broker.lock();
        let Some(connection) = state.connections.get(&self.id) else {
            return Err(failed("the bus was closed"));
        };
        let allowed = allows(connection.permissions.subscribe.as_deref(), &pattern);
        state.last_id += 1;
        let id = state.last_id;
        if allowed {
            state.patterns.insert(&pattern, id);
            let subscriber = Subscriber { connection: self.id, pattern, queue, messages: sender };
            state.subscriptions.insert(id, subscriber);
        } else {
            // As NATS does: the subscription exists, stays silent, and the refusal comes as an event.
            let event = TransportEvent::PermissionDenied { what: format!("subscribe to `{pattern}`") };
            state.tell(self.id, event);
            let subscriber = Subscriber { connection: self.id, pattern, queue, messages: sender };
            state.subscriptions.insert(id, subscriber);
        }
        drop(state);
        let own = (receiver, Unsubscribe { broker: self.broker.clone(), id });
        Ok(Subscription::new(futures::stream::unfold(own, |(mut receiver, unsubscribe)| async {
            let message = receiver.recv().await?;
            Some((message, (receiver, unsubscribe)))
        })))
    }

    fn link(&self) -> watch::Receiver<LinkState> {
        self.broker.lock().connections.get(&self.id).map_or_else(
            || watch::channel(LinkState::Disconnected).1,
            |connection| connection.link.subscribe(),
        )
    }

    fn events(&self) -> broadcast::Receiver<TransportEvent> {
        self.broker
            .lock()
            .connections
            .get(&self.id)
            .map_or_else(|| broadcast::channel(EVENTS_MAX).1, |connection| connection.events.subscribe())
    }

    fn max_payload(&self) -> usize {
        MAX_PAYLOAD_BYTES
    }

    async fn close(&self) {
        let mut state = self.broker.lock();
        let own: HashSet<SubscriptionId> = state
            .subscriptions
            .iter()
            .filter(|(_, subscriber)| subscriber.connection == self.id)
            .map(|(id, _)| *id)
            .collect();
        own.into_iter().for_each(|id| state.unsubscribe(id));
        if let Some(connection) = state.connections.remove(&self.id) {
            connection.link.send_replace(LinkState::Disconnected);
        }
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.broker.lock().connections.remove(&self.id);
    }
}

/// Whether one of the patterns covers the subject, or the pattern, that is asked for.
fn allows(patterns: Option<&[String]>, wanted: &str) -> bool {
    patterns.is_none_or(|patterns| patterns.iter().any(|pattern| covers(pattern, wanted)))
}

fn covers(pattern: &str, wanted: &str) -> bool {
    let mut wanted = wanted.split('.');
    for token in pattern.split('.') {
        match (token, wanted.next()) {
            (">", Some(_)) => return true,
            (_, None) | ("*", Some(">")) => return false,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_nats_says() {
        for (pattern, wanted, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*", "a.>", false),
            ("a.>", "a.*.>", true),
            (">", "a", true),
        ] {
            assert_eq!(covers(pattern, wanted), expected, "{pattern} and {wanted}");
        }
    }
}
