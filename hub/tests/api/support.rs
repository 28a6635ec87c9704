//! A hub on free ports over a memory broker, an agent beside it, and a client that says little.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_bus::platform::MockPlatform;
use towline_bus::session::Identity;
use towline_bus::subscription::{ActiveSubscription, SubscribeConfig, Vitals};
use towline_bus::transport::memory::MemoryBroker;
use towline_bus::{MessageBus, Platform, subscribe};
use towline_hub::api::types::Problem;
use towline_hub::{Hub, HubConfig, RunError};
use towline_protocol::session::ClaimMode;
use towline_protocol::subject::Root;
use towline_protocol::{BootId, InstanceId, Method as Call, StoreId};
use uuid::Uuid;

/// How long a test waits for what should come at once: five times as long as the slowest case names.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A running hub.
pub(crate) struct TestHub {
    pub(crate) address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    pub(crate) bus: MessageBus,
    pub(crate) broker: MemoryBroker,
    token: String,
    client: Client,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

pub(crate) fn config(data_dir: &Path) -> HubConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    HubConfig { listen: any, metrics_listen: Some(any), ..HubConfig::new(data_dir) }
}

impl TestHub {
    /// A hub on a new data directory.
    pub(crate) async fn start() -> (Self, TempDir) {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        (Self::start_on(&config(dir.path()), MemoryBroker::new()).await, dir)
    }

    pub(crate) async fn start_on(config: &HubConfig, broker: MemoryBroker) -> Self {
        let hub = Hub::build(config.clone(), broker.connect()).await.expect("the hub starts");
        let token =
            std::fs::read_to_string(hub.token_path()).expect("the token can be read").trim().to_owned();
        let shutdown = CancellationToken::new();
        let (address, metrics_address) = (hub.address(), hub.metrics_address().expect("metrics are served"));
        let bus = hub.bus().clone();
        let running = spawn(hub.run(shutdown.clone()));
        let client = Client::builder().no_proxy().build().expect("a client can be made");
        Self { address, metrics_address, bus, broker, token, client, shutdown, running }
    }

    /// Stops it and waits until all of it is gone.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(SOON, self.running).await.expect("the hub drains in time");
        ended.expect("the hub does not panic").expect("the hub ends well");
    }

    pub(crate) fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    /// A request without a token.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// A request with the token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(&self.token)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post<T: serde::Serialize>(&self, path: &str, body: &T) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    pub(crate) async fn metrics(&self) -> String {
        let response = self.client.get(format!("http://{}/metrics", self.metrics_address)).send().await;
        response.expect("metrics answer").text().await.expect("metrics are text")
    }

    /// An agent that serves a mock under this id.
    pub(crate) async fn agent(&self, instance: &str) -> (ActiveSubscription, MockPlatform) {
        let mock = MockPlatform::new();
        mock.set_version("1.2.3");
        let store = StoreId::new(Uuid::new_v4());
        (self.agent_with(instance, store, mock.clone()).await, mock)
    }

    pub(crate) async fn agent_with(
        &self,
        instance: &str,
        store: StoreId,
        platform: impl Platform,
    ) -> ActiveSubscription {
        self.agent_of(instance, store, Call::names(), platform).await
    }

    /// An agent that has these calls.
    pub(crate) async fn agent_of(
        &self,
        instance: &str,
        store: StoreId,
        calls: Vec<String>,
        platform: impl Platform,
    ) -> ActiveSubscription {
        let instance: InstanceId = instance.parse().expect("the test's id is one");
        let (_vitals, vitals) = watch::channel(Vitals::default());
        let config = SubscribeConfig {
            root: Root::default(),
            instance: instance.clone(),
            identity: Identity {
                boot: BootId::new(Uuid::new_v4()),
                store,
                last_epoch: None,
                version: "1.2.3".to_owned(),
                runtime: "mock".to_owned(),
                calls,
            },
            mode: ClaimMode::Fresh,
            vitals,
            record_epoch: Box::new(|_| {}),
            begin: Box::new(|_, _| {}),
            metrics: towline_bus::metrics::BusMetrics::unregistered(),
        };
        let active =
            subscribe(self.broker.connect(), config, Arc::new(platform)).await.expect("it subscribes");
        self.bus.await_presence(&instance, SOON).await.expect("the instance connects");
        active
    }
}

#[expect(clippy::disallowed_methods, reason = "the test's runtime owns the hub, as main does")]
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

/// Sends, and reads an answer of this status.
pub(crate) async fn expect<T: DeserializeOwned>(request: RequestBuilder, status: u16) -> T {
    let response = request.send().await.expect("the hub answers");
    let found = response.status();
    let text = response.text().await.expect("the answer is text");
    assert_eq!(found.as_u16(), status, "{text}");
    serde_json::from_str(&text).expect("the answer is what was asked for")
}

/// Sends, and reads the problem of this status.
pub(crate) async fn refused(request: RequestBuilder, status: u16) -> Problem {
    let response = request.send().await.expect("the hub answers");
    let found = response.status();
    let kind = response.headers().get("content-type").cloned();
    let text = response.text().await.expect("the answer is text");
    assert_eq!(found.as_u16(), status, "{text}");
    assert_eq!(kind.as_ref().and_then(|kind| kind.to_str().ok()), Some("application/problem+json"), "{text}");
    let problem: Problem = serde_json::from_str(&text).expect("the answer is a problem");
    assert_eq!(problem.status, status);
    assert_eq!(problem.kind, format!("urn:towline:problem:{}", problem.code));
    problem
}

/// Sends, and wants success without a body.
pub(crate) async fn succeeds(request: RequestBuilder, status: StatusCode) {
    let response = request.send().await.expect("the hub answers");
    assert_eq!(response.status(), status, "{:?}", response.text().await);
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SseEvent {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: String,
}

/// Reads a stream of server-sent events.
pub(crate) struct SseReader {
    response: reqwest::Response,
    pending: Vec<u8>,
}

impl SseReader {
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("the hub answers");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self::of(response)
    }

    pub(crate) fn of(response: reqwest::Response) -> Self {
        Self { response, pending: Vec::new() }
    }

    /// The next event; `None` at the stream's end.
    pub(crate) async fn next(&mut self) -> Option<SseEvent> {
        loop {
            while let Some(end) = self.pending.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.pending.drain(..end + 2).collect();
                let event = parse(std::str::from_utf8(&block).expect("events are UTF-8"));
                if !event.data.is_empty() {
                    return Some(event);
                }
            }
            let chunk = tokio::time::timeout(SOON, self.response.chunk()).await;
            let chunk = chunk.expect("the stream goes on in time").expect("the stream is not cut")?;
            self.pending.extend_from_slice(&chunk);
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<SseEvent> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn parse(block: &str) -> SseEvent {
    let mut event = SseEvent::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => event.id = id.parse().ok(),
            Some(("event", name)) => name.clone_into(&mut event.name),
            Some(("data", data)) => event.data.push_str(data),
            _ => {}
        }
    }
    event
}

/// Waits until a condition holds, looking again and again.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, looking).await.is_ok(), "waited in vain: {what}");
}
