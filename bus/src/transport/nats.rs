//! NATS, through async-nats, with its traps mended. `docs/nats-traps.md` lists them; each has a test on a real server.
//!
//! What this file adds: a publish without a connection fails at once, and none waits without limit; reconnects are spread
//! by full jitter and never come at once; permission violations and drops become events; a server that is about to leave
//! is left in time; closing waits until what is buffered was written.

mod backoff;
mod bulk;
mod config;
mod credentials;
mod link;
mod outbox;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, ServerAddr, StatusCode};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use towline_protocol::limits;

use self::backoff::reconnect_delay;
use self::bulk::{Bulk, Place};
use self::config::{addresses, user_of};
pub(crate) use self::credentials::sign;
use self::credentials::with_credentials;
use self::link::{Link, follow, leave_in_time};
use self::outbox::{Item, Outgoing, hand_over, outbox};
use super::{LinkState, Message, PublishError, SubscribeError, Subscription, Transport, TransportEvent};
use crate::clock;
use crate::task::Tasks;

pub use self::config::{ConnectError, NatsConfig, check};

/// How long a publish may wait for room in the outbox. Beyond that the connection is stuck, and failing fast is
/// better than a message that comes too late.
const PUBLISH_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a large publish may wait for others before it, while they leave. Who waits longer is one of
/// hundreds on a link that does not bear them.
const BULK_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a subscription may wait to be handed to the client.
const SUBSCRIBE_TIME_MAX: Duration = Duration::from_secs(10);

/// How often the server is asked whether it is there; two unanswered end the connection. async-nats' 60 s notice a cut in
/// three minutes.
const PING_EVERY: Duration = Duration::from_secs(15);

/// How long closing may take: everything that is buffered, on a link that is slow.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the client must not have written anything to count as having written everything; see [`settle`].
const SETTLED_AFTER: Duration = Duration::from_millis(50);
/// The same, for a client that was seen to wait for its socket.
const SETTLED_SLOWLY_AFTER: Duration = Duration::from_millis(1_000);

/// How long a server is given to shake hands.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection to NATS. It connects by itself, for ever.
pub struct NatsTransport {
    client: Client,
    link: Arc<Link>,
    outbox: mpsc::Sender<Item>,
    bulk: Bulk,
    /// One subscription at a time, so that the client's numbers are known: it tells of a full queue by number alone.
    subscribing: tokio::sync::Mutex<u64>,
    tasks: Tasks,
}

impl std::fmt::Debug for NatsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsTransport").field("link", &*self.link.state.borrow()).finish_non_exhaustive()
    }
}

impl NatsTransport {
    /// Begins to connect, and returns without waiting for it: hub, agents and NATS may start in any order.
    ///
    /// # Errors
    /// [`ConnectError`] for what will not pass by itself.
    pub async fn connect(config: &NatsConfig) -> Result<Arc<Self>, ConnectError> {
        install_tls_provider();
        check(config)?;
        let servers = addresses(config)?;
        let link = Arc::new(Link::new());
        let client = options(config, &servers, &link).connect(servers).await.map_err(ConnectError::Client)?;
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("nats lame duck", leave_in_time(link.clone(), client.clone(), stopping.clone()));
        tasks.spawn("nats link", follow(link.clone(), client.clone(), stopping.clone()));
        let ((outbox, items), bulk) = (outbox(), Bulk::new(clock::now()));
        tasks.spawn("nats outbox", hand_over(client.clone(), bulk.clone(), items, stopping.clone()));
        let subscribing = tokio::sync::Mutex::new(0);
        Ok(Arc::new(Self { client, link, outbox, bulk, subscribing, tasks }))
    }
}

impl NatsTransport {
    /// The outbox is full; should the connection go meanwhile, it stays so.
    async fn wait_for_room(&self, item: Item) -> Result<(), PublishError> {
        let mut state = self.link();
        tokio::select! {
            sent = self.outbox.send(item) => sent.map_err(|_| PublishError::Disconnected),
            () = super::lost(&mut state) => Err(PublishError::Disconnected),
            () = tokio::time::sleep(PUBLISH_TIME_MAX) => Err(PublishError::TimedOut),
        }
    }

    /// Enough large messages are on their way; should the connection go meanwhile, there is no use in another.
    async fn wait_for_place(&self) -> Result<Place, PublishError> {
        let mut state = self.link();
        tokio::select! {
            place = self.bulk.place(PUBLISH_TIME_MAX) => place.ok_or(PublishError::TimedOut),
            () = super::lost(&mut state) => Err(PublishError::Disconnected),
            () = tokio::time::sleep(BULK_TIME_MAX) => Err(PublishError::TimedOut),
        }
    }

    /// Waits until the client was given all that is published so far.
    async fn empty(&self) {
        let (told, emptied) = oneshot::channel();
        if self.outbox.send(Item::Emptied(told)).await.is_ok() {
            // An error says that nobody hands over any more.
            let _ = emptied.await;
        }
    }
}

impl Drop for NatsTransport {
    fn drop(&mut self) {
        // The tasks hold the client, and with it the connection.
        self.tasks.stopping().cancel();
        self.link.unwanted.store(true, Ordering::Relaxed);
    }
}

fn options(config: &NatsConfig, servers: &[ServerAddr], link: &Arc<Link>) -> ConnectOptions {
    let mut options = match (config.credentials.clone(), user_of(servers)) {
        (Some(path), _) => with_credentials(path),
        (None, Some((user, password))) => ConnectOptions::with_user_and_password(user, password),
        (None, None) => ConnectOptions::new(),
    };
    if let Some(path) = &config.ca_file {
        // A server that offers no TLS, or somebody between who strips it, would else be talked to in the clear.
        let web = servers.iter().any(ServerAddr::is_websocket);
        options = options.add_root_certificates(path.clone()).require_tls(!web);
    }
    let (told, asked) = (link.clone(), link.clone());
    options
        .name(&config.name)
        .retry_on_initial_connect()
        .connection_timeout(HANDSHAKE_TIME_MAX)
        .ping_interval(PING_EVERY)
        .client_capacity(outbox::MESSAGES_MAX)
        // `publish` and `subscribe` check subjects themselves.
        .skip_subject_validation(true)
        .subscription_capacity(limits::SUBSCRIPTION_MESSAGES_MAX)
        .reconnect_delay_callback(reconnect_delay)
        // What servers say of each other are addresses behind their firewall, and always of plain connections.
        .ignore_discovered_servers()
        .event_callback(move |event| {
            told.on_event(&event);
            std::future::ready(())
        })
        .reconnect_to_server_callback(move |servers, _| {
            asked.on_failures(&servers);
            let unwanted = asked.is_unwanted();
            async move {
                if unwanted {
                    // Nothing else ends a client that is not connected.
                    std::future::pending::<()>().await;
                }
                None
            }
        })
}

/// rustls needs one provider for the whole process, and panics where two crates bring one each.
fn install_tls_provider() {
    // Somebody else installed one first: then that is the one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[async_trait]
impl Transport for NatsTransport {
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        for subject in reply.iter().chain([&subject]) {
            if !super::is_subject(subject) {
                return Err(PublishError::Malformed { subject: super::shortened(subject) });
            }
        }
        // The client's own word: its events are lossy, and come a moment later.
        if self.client.connection_state() != State::Connected {
            return Err(PublishError::Disconnected);
        }
        let limit = self.max_payload();
        if payload.len() > limit {
            return Err(PublishError::TooLarge { found: payload.len(), limit });
        }
        let place = match self.bulk.try_place(payload.len()) {
            Some(place) => place,
            None => Box::pin(self.wait_for_place()).await?,
        };
        let item = Item::Message(Outgoing { subject, reply, payload, place });
        match self.outbox.try_send(item) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(PublishError::Disconnected),
            // Boxed: it is rare, and every publish would be the larger for it.
            Err(TrySendError::Full(item)) => Box::pin(self.wait_for_room(item)).await,
        }
    }

    async fn subscribe(
        &self,
        pattern: String,
        queue: Option<String>,
    ) -> Result<Subscription, SubscribeError> {
        let failed = |reason: String| SubscribeError { pattern: pattern.clone(), reason };
        if !super::is_pattern(&pattern) || queue.as_ref().is_some_and(|queue| !super::is_subject(queue)) {
            return Err(failed("it is not a pattern".to_owned()));
        }
        let subscribed = async {
            let mut last = self.subscribing.lock().await;
            // Counted first: the client takes its number before it waits, and keeps it when this is given up.
            *last += 1;
            let number = *last;
            let subscriber = match queue {
                Some(queue) => self.client.queue_subscribe(pattern.clone(), queue).await,
                None => self.client.subscribe(pattern.clone()).await,
            };
            let subscriber = subscriber.map_err(|error| error.to_string())?;
            Ok::<_, String>((subscriber, number))
        };
        let subscribed = tokio::time::timeout(SUBSCRIBE_TIME_MAX, subscribed).await;
        let (subscriber, number) = subscribed
            .map_err(|_| failed("the client did not take it in time".to_owned()))?
            .map_err(failed)?;
        self.link.patterns.lock().expect("no holder of this lock panics").insert(number, pattern);
        let named = Named { link: self.link.clone(), number };
        Ok(Subscription::new(subscriber.map(move |message| {
            let _held_as_long_as_the_stream = &named;
            read(message)
        })))
    }

    fn link(&self) -> watch::Receiver<LinkState> {
        self.link.state.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<TransportEvent> {
        self.link.events.subscribe()
    }

    fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    async fn close(&self) {
        let until = tokio::time::Instant::now() + CLOSE_TIME_MAX;
        // What is not taken in time is lost with the connection, and told below.
        let _ = tokio::time::timeout_at(until, self.empty()).await;
        self.tasks.stop(CLOSE_TIME_MAX).await;
        self.link.unwanted.store(true, Ordering::Relaxed);
        let is_connected = self.client.connection_state() == State::Connected;
        let drained = async {
            settle(&self.client).await;
            if self.client.drain().await.is_ok() {
                self.link.closed.notified().await;
            }
        };
        if !is_connected {
            // Nothing is buffered that could be written; a client that connects just now still takes this.
            let _ = tokio::time::timeout(SETTLED_AFTER, self.client.drain()).await;
        } else if tokio::time::timeout_at(until, drained).await.is_err() {
            tracing::warn!("the connection to NATS did not close in time");
        }
        self.link.set(LinkState::Disconnected);
    }
}

/// Waits until the client has written what it was given. Its `flush` and `drain` do not: both answer although its socket
/// is full, and what is left then is dropped. What does tell is its count of bytes, which no longer moves.
async fn settle(client: &Client) {
    let written = || client.statistics().out_bytes.load(Ordering::Relaxed);
    let (mut last, mut still) = (written(), SETTLED_AFTER);
    // The queue is in order: after this all commands before it are in the client's buffer.
    while client.flush().await.is_ok() {
        tokio::time::sleep(still).await;
        let now = written();
        if now == last {
            return;
        }
        (last, still) = (now, SETTLED_SLOWLY_AFTER);
    }
}

/// A subscription's entry in the list of names; dropped with its stream.
struct Named {
    link: Arc<Link>,
    number: u64,
}

impl Drop for Named {
    fn drop(&mut self) {
        self.link.patterns.lock().expect("no holder of this lock panics").remove(&self.number);
    }
}

fn read(message: async_nats::Message) -> Message {
    Message {
        subject: message.subject.as_str().into(),
        reply: message.reply.map(|reply| reply.as_str().into()),
        no_responders: message.status == Some(StatusCode::NO_RESPONDERS),
        payload: message.payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-B14: a client that has reached its maximum of attempts ends without a word; so there is none.
    #[test]
    fn n_b14_attempts_have_no_end() {
        let options = options(&NatsConfig::default(), &[], &Arc::new(Link::new()));
        assert!(format!("{options:?}").contains("\"max_reconnects\": None"), "{options:?}");
    }
}
