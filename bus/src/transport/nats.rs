//! NATS, through async-nats, with its traps mended. `docs/nats-traps.md` lists them; each has a test on a real server.
//!
//! What this file adds: a publish without a connection fails at once, and none waits without limit; reconnects are spread
//! by full jitter and never come at once; permission violations and drops become events; a server that is about to leave
//! is left in time; closing waits until what is buffered was written.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr, ServerError, StatusCode};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use thiserror::Error;
use tokio::sync::{Notify, broadcast, watch};
use towline_protocol::limits;

use super::{LinkState, Message, PublishError, SubscribeError, Subscription, Transport, TransportEvent};
use crate::task::Tasks;

/// How long a publish may wait for room in the client's queue. Beyond that the connection is stuck, and failing fast is
/// better than a message that comes too late.
const PUBLISH_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a subscription may wait to be handed to the client.
const SUBSCRIBE_TIME_MAX: Duration = Duration::from_secs(10);

/// How often the server is asked whether it is there; two unanswered end the connection. async-nats' 60 s notice a cut in
/// three minutes.
const PING_EVERY: Duration = Duration::from_secs(15);

/// Waits between attempts to connect: at random from the floor up to a ceiling that doubles. The floor matters as much as
/// the ceiling: async-nats' first attempt comes at once, and a fleet's first attempts together.
const RECONNECT_FLOOR: Duration = Duration::from_millis(100);
const RECONNECT_FIRST: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// After a server says that it will leave, clients go at a random moment within this time.
const LAME_DUCK_SPREAD: Duration = Duration::from_secs(10);

/// How long closing may take: everything that is buffered, on a link that is slow.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a server is given to shake hands.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// Events that one slow reader may be behind; they are lossy by contract.
const EVENTS_MAX: usize = 256;

/// Where the bus is, and who we are to it.
#[derive(Debug, Clone, Default)]
pub struct NatsConfig {
    /// Servers: `nats://`, `tls://`, `ws://` or `wss://`, all of one kind.
    pub servers: Vec<String>,
    /// The connection's name, shown by the server's monitoring.
    pub name: String,
    /// A file with a user's JWT and key, read again at every connect.
    pub credentials: Option<PathBuf>,
    /// Certificates to trust beside the system's, in PEM.
    pub ca_file: Option<PathBuf>,
}

/// Why a connection cannot be made, ever: what may pass by itself is not an error but waited for.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No server was named.
    #[error("no NATS server was named; give at least one, like `nats://127.0.0.1:4222`")]
    NoServer,
    /// A server's address is none.
    #[error(
        "`{url}` is not the address of a NATS server; it looks like `nats://host:4222` or `wss://host/path`"
    )]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// Web sockets and plain connections were mixed.
    #[error("`ws://` and `nats://` addresses cannot be mixed; name servers of one kind")]
    Mixed,
    /// A file could not be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    File {
        /// What it is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client refused to start.
    #[error("the NATS client did not start: {0}")]
    Client(#[source] async_nats::ConnectError),
}

/// A connection to NATS. It connects by itself, for ever.
pub struct NatsTransport {
    client: Client,
    shared: Arc<Shared>,
    /// One subscription at a time, so that the client's numbers are known: it tells of a full queue by number alone.
    subscribing: tokio::sync::Mutex<u64>,
    tasks: Tasks,
}

/// What the client's event callback writes.
struct Shared {
    link: watch::Sender<LinkState>,
    events: broadcast::Sender<TransportEvent>,
    patterns: Mutex<HashMap<u64, String>>,
    client: OnceLock<Client>,
    closed: Notify,
    lame_duck: Notify,
}

impl std::fmt::Debug for NatsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsTransport").field("link", &*self.shared.link.borrow()).finish_non_exhaustive()
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
        let shared = Arc::new(Shared {
            link: watch::Sender::new(LinkState::Disconnected),
            events: broadcast::Sender::new(EVENTS_MAX),
            patterns: Mutex::default(),
            client: OnceLock::new(),
            closed: Notify::new(),
            lame_duck: Notify::new(),
        });
        let client =
            options(config, &servers, &shared).connect(servers).await.map_err(ConnectError::Client)?;
        // The callback may have run already; it needs the client only for a server that leaves.
        let _ = shared.client.set(client.clone());
        let tasks = Tasks::new();
        tasks.spawn("nats lame duck", leave_in_time(shared.clone(), tasks.stopping().clone()));
        Ok(Arc::new(Self { client, shared, subscribing: tokio::sync::Mutex::new(0), tasks }))
    }
}

/// Looks at addresses and files, and connects nowhere.
///
/// # Errors
/// What [`NatsTransport::connect`] would refuse.
pub fn check(config: &NatsConfig) -> Result<(), ConnectError> {
    let files = [("the credentials file", &config.credentials), ("the CA file", &config.ca_file)];
    for (what, path) in files {
        if let Some(path) = path {
            std::fs::File::open(path).map_err(|source| ConnectError::File {
                what,
                path: path.clone(),
                source,
            })?;
        }
    }
    addresses(config).map(drop)
}

fn addresses(config: &NatsConfig) -> Result<Vec<ServerAddr>, ConnectError> {
    if config.servers.is_empty() {
        return Err(ConnectError::NoServer);
    }
    let parse =
        |url: &String| url.parse().map_err(|source| ConnectError::Address { url: url.clone(), source });
    let servers: Vec<ServerAddr> = config.servers.iter().map(parse).collect::<Result<_, _>>()?;
    let web = servers.iter().filter(|server| server.is_websocket()).count();
    if web != 0 && web != servers.len() {
        return Err(ConnectError::Mixed);
    }
    Ok(servers)
}

fn options(config: &NatsConfig, servers: &[ServerAddr], shared: &Arc<Shared>) -> ConnectOptions {
    let mut options = match (config.credentials.clone(), user_of(servers)) {
        (Some(path), _) => with_credentials(path),
        (None, Some((user, password))) => ConnectOptions::with_user_and_password(user, password),
        (None, None) => ConnectOptions::new(),
    };
    if let Some(path) = &config.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    let told = shared.clone();
    options
        .name(&config.name)
        .retry_on_initial_connect()
        .connection_timeout(HANDSHAKE_TIME_MAX)
        .ping_interval(PING_EVERY)
        .subscription_capacity(limits::SUBSCRIPTION_MESSAGES_MAX)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            // Nothing slow here: the client drops events that are not taken.
            told.on_event(&event);
            std::future::ready(())
        })
}

/// User and password of the first address that names one. The client itself passes over what stands in an address.
fn user_of(servers: &[ServerAddr]) -> Option<(String, String)> {
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let server = servers.iter().find(|server| server.has_user_pass())?;
    Some((plain(server.username()?), plain(server.password().unwrap_or_default())))
}

/// Credentials that are read again at every connect: the file may have been renewed meanwhile.
fn with_credentials(path: PathBuf) -> ConnectOptions {
    ConnectOptions::with_auth_callback(move |nonce| {
        let path = path.clone();
        async move {
            let text = tokio::fs::read_to_string(&path).await.map_err(async_nats::AuthError::new)?;
            sign(&text, &nonce).map_err(async_nats::AuthError::new)
        }
    })
}

/// What a `.creds` file says to a nonce.
fn sign(credentials: &str, nonce: &[u8]) -> Result<async_nats::Auth, String> {
    let block = |name: &str| {
        let begin = credentials.find(&format!("-----BEGIN {name}-----"))?;
        let inside = credentials.get(begin..)?.split_once("-----\n")?.1;
        Some(inside.split_once("\n-")?.0.trim().to_owned())
    };
    let jwt = block("NATS USER JWT").ok_or("the credentials file holds no user JWT")?;
    let seed = block("USER NKEY SEED").ok_or("the credentials file holds no user key")?;
    let key =
        nkeys::KeyPair::from_seed(&seed).map_err(|error| format!("the user key is malformed: {error}"))?;
    let signature = key.sign(nonce).map_err(|error| format!("the user key cannot sign: {error}"))?;
    let mut auth = async_nats::Auth::new();
    auth.jwt = Some(jwt);
    auth.signature = Some(signature);
    Ok(auth)
}

/// Full jitter (Brooker: "Exponential backoff and jitter", 2015), above a floor.
fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = RECONNECT_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let fraction = f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX);
    RECONNECT_FLOOR + doubled.min(RECONNECT_MAX).mul_f64(fraction)
}

/// rustls needs one provider for the whole process, and panics where two crates bring one each.
fn install_tls_provider() {
    // Somebody else installed one first: then that is the one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Shared {
    fn on_event(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.link.send_replace(LinkState::Connected);
                tracing::info!("connected to NATS");
            }
            Event::Disconnected | Event::Closed => {
                if self.link.send_replace(LinkState::Disconnected) == LinkState::Connected {
                    tracing::warn!("the connection to NATS was lost");
                }
                if *event == Event::Closed {
                    self.closed.notify_waiters();
                    self.closed.notify_one();
                }
            }
            Event::LameDuckMode => self.lame_duck.notify_one(),
            Event::SlowConsumer(number) | Event::ServerError(ServerError::SlowConsumer(number)) => {
                let patterns = self.patterns.lock().expect("no holder of this lock panics");
                let pattern = patterns.get(number).cloned().unwrap_or_default();
                self.tell(TransportEvent::SlowConsumer { pattern });
            }
            Event::ServerError(ServerError::Other(text)) if is_permission_violation(text) => {
                tracing::error!(%text, "NATS refused a subject to this connection");
                self.tell(TransportEvent::PermissionDenied { what: text.clone() });
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                tracing::error!("NATS refused the credentials of this connection; trying again");
            }
            other => tracing::warn!(event = %other, "the NATS client says"),
        }
    }

    fn tell(&self, event: TransportEvent) {
        // Nobody listens: then nobody wants to know.
        let _ = self.events.send(event);
    }
}

/// The server says it in words alone.
fn is_permission_violation(text: &str) -> bool {
    text.to_ascii_lowercase().contains("permissions violation")
}

/// A server that is about to leave asks its clients to go. They do, each at a moment of its own.
async fn leave_in_time(shared: Arc<Shared>, stopping: tokio_util::sync::CancellationToken) {
    while stopping.run_until_cancelled(shared.lame_duck.notified()).await.is_some() {
        let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
        let fraction = f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        let pause = tokio::time::sleep(LAME_DUCK_SPREAD.mul_f64(fraction));
        if stopping.run_until_cancelled(pause).await.is_none() {
            return;
        }
        if let Some(client) = shared.client.get() {
            tracing::info!("the NATS server is leaving; connecting elsewhere");
            // The client is gone: then so is the connection.
            let _ = client.force_reconnect().await;
        }
    }
}

#[async_trait]
impl Transport for NatsTransport {
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        // The client's own word: its events are lossy, and come a moment later.
        if self.client.connection_state() != async_nats::connection::State::Connected {
            return Err(PublishError::Disconnected);
        }
        let limit = self.max_payload();
        if payload.len() > limit {
            return Err(PublishError::TooLarge { found: payload.len(), limit });
        }
        let published = async {
            match reply {
                Some(reply) => self.client.publish_with_reply(subject, reply, payload).await,
                None => self.client.publish(subject, payload).await,
            }
        };
        match tokio::time::timeout(PUBLISH_TIME_MAX, published).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(PublishError::Disconnected),
            Err(_) => Err(PublishError::TimedOut),
        }
    }

    async fn subscribe(
        &self,
        pattern: String,
        queue: Option<String>,
    ) -> Result<Subscription, SubscribeError> {
        let failed = |reason: String| SubscribeError { pattern: pattern.clone(), reason };
        if !super::is_pattern(&pattern) {
            return Err(failed("it is not a pattern".to_owned()));
        }
        let subscribed = async {
            let mut last = self.subscribing.lock().await;
            let subscriber = match queue {
                Some(queue) => self.client.queue_subscribe(pattern.clone(), queue).await,
                None => self.client.subscribe(pattern.clone()).await,
            };
            let subscriber = subscriber.map_err(|error| error.to_string())?;
            *last += 1;
            Ok::<_, String>((subscriber, *last))
        };
        let subscribed = tokio::time::timeout(SUBSCRIBE_TIME_MAX, subscribed).await;
        let (subscriber, number) = subscribed
            .map_err(|_| failed("the client did not take it in time".to_owned()))?
            .map_err(failed)?;
        self.shared.patterns.lock().expect("no holder of this lock panics").insert(number, pattern);
        let named = Named { shared: self.shared.clone(), number };
        Ok(Subscription::new(subscriber.map(move |message| {
            let _held_as_long_as_the_stream = &named;
            read(message)
        })))
    }

    fn link(&self) -> watch::Receiver<LinkState> {
        self.shared.link.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<TransportEvent> {
        self.shared.events.subscribe()
    }

    fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    async fn close(&self) {
        self.tasks.stop(CLOSE_TIME_MAX).await;
        let closed = self.shared.closed.notified();
        // `drain` returns at once; only the event says that what was buffered is written.
        let drained = async {
            if self.client.drain().await.is_ok() {
                closed.await;
            }
        };
        if tokio::time::timeout(CLOSE_TIME_MAX, drained).await.is_err() {
            tracing::warn!("the connection to NATS did not close in time");
        }
        self.shared.link.send_replace(LinkState::Disconnected);
    }
}

/// A subscription's entry in the list of names; dropped with its stream.
struct Named {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Named {
    fn drop(&mut self) {
        self.shared.patterns.lock().expect("no holder of this lock panics").remove(&self.number);
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

    /// N-B8: no attempt at once, none together.
    #[test]
    fn n_b8_reconnects_are_spread_above_a_floor() {
        for attempts in 0..40 {
            let delays: Vec<_> = (0..200).map(|_| reconnect_delay(attempts)).collect();
            assert!(
                delays
                    .iter()
                    .all(|delay| (RECONNECT_FLOOR..=RECONNECT_FLOOR + RECONNECT_MAX).contains(delay))
            );
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(*most - *least > RECONNECT_FIRST / 2, "attempt {attempts} is not spread");
        }
    }

    #[test]
    fn addresses_are_checked() {
        let with = |servers: &[&str]| {
            let servers = servers.iter().map(|&server| server.to_owned()).collect();
            addresses(&NatsConfig { servers, ..NatsConfig::default() })
        };
        assert!(matches!(with(&[]), Err(ConnectError::NoServer)));
        assert!(matches!(with(&["nats://a:1", "ws://b:2"]), Err(ConnectError::Mixed)));
        assert!(matches!(with(&["http://a:1"]), Err(ConnectError::Address { .. })));
        assert_eq!(with(&["nats://a:1", "tls://b:2", "c:3"]).unwrap().len(), 3);
        assert_eq!(with(&["wss://a/path"]).unwrap().len(), 1);
        let user = user_of(&with(&["nats://a:1", "nats://us%40er:pa%2Fss@b:2"]).unwrap());
        assert_eq!(user, Some(("us@er".to_owned(), "pa/ss".to_owned())));
    }
}
