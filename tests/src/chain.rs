//! The whole chain in one process: HTTP API, hub, bus, agent; over the memory transport or over a real nats-server.

use std::path::PathBuf;
use std::sync::Arc;

use prometheus::Registry;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_agent::runtime::RuntimeKind;
use towline_agent::{Agent, AgentConfig};
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::MockPlatform;
use towline_bus::session::Identity;
use towline_bus::subscription::{ActiveSubscription, SubscribeConfig, Vitals};
use towline_bus::task::Tasks;
use towline_bus::transport::memory::{MemoryBroker, Permissions};
use towline_bus::transport::nats::{NatsConfig, NatsTransport};
use towline_bus::{MessageBus, Transport, subscribe};
use towline_hub::{Hub, HubConfig};
use towline_protocol::session::ClaimMode;
use towline_protocol::subject::Root;
use towline_protocol::{BootId, InstanceId, Method, StoreId};
use uuid::Uuid;

use crate::docker::DockerEngine;
use crate::http_platform::HttpPlatform;
use crate::nats::NatsServer;
use crate::permissions;
use crate::wait::PATIENCE;

/// What carries the messages.
#[derive(Debug, Clone)]
pub enum Wire {
    /// The memory transport.
    Memory(MemoryBroker),
    /// A real nats-server.
    Nats(Arc<NatsServer>),
    /// A real nats-server where each side has its own user with its rights and no others.
    Guarded(Arc<NatsServer>),
}

impl Wire {
    /// A nats-server of its own, with defaults.
    pub async fn nats() -> Self {
        Self::Nats(Arc::new(NatsServer::start("").await))
    }

    /// A nats-server of its own, where hub and these instances have exactly the rights that the protocol gives them.
    pub async fn guarded(instances: &[&str]) -> Self {
        Self::Guarded(Arc::new(NatsServer::start(&permissions::users(instances)).await))
    }

    /// The server, where there is one.
    ///
    /// # Panics
    /// On the memory transport.
    #[must_use]
    pub fn server(&self) -> &NatsServer {
        match self {
            Self::Memory(_) => panic!("the memory transport has no server"),
            Self::Nats(server) | Self::Guarded(server) => server,
        }
    }

    /// A connection for a hub.
    pub async fn hub_link(&self) -> Arc<dyn Transport> {
        match self {
            Self::Memory(broker) => broker.connect(),
            Self::Nats(server) => nats_link(server.url()).await,
            Self::Guarded(server) => nats_link(permissions::url(server, permissions::HUB)).await,
        }
    }

    /// A connection for an agent; in memory and where users are guarded it has the permissions of its instance and no others.
    pub async fn agent_link(&self, name: &str) -> Arc<dyn Transport> {
        let (root, instance) = (Root::default(), instance(name));
        match self {
            Self::Memory(broker) => broker.connect_with(Permissions {
                publish: Some(root.agent_may_publish(&instance)),
                subscribe: Some(root.agent_may_subscribe(&instance)),
            }),
            Self::Nats(server) => nats_link(server.url()).await,
            Self::Guarded(server) => nats_link(permissions::url(server, &permissions::user(&instance))).await,
        }
    }
}

/// A connection to a nats-server.
///
/// # Panics
/// When the address is none.
pub async fn nats_link(url: String) -> Arc<NatsTransport> {
    let config = NatsConfig { servers: vec![url], ..NatsConfig::default() };
    NatsTransport::connect(&config).await.expect("the address is well formed")
}

/// A hub with its API.
#[derive(Debug)]
pub struct HubChain {
    /// What carries the messages.
    pub wire: Wire,
    /// The hub's half of the bus.
    pub bus: MessageBus,
    /// `http://address` of the API.
    pub url: String,
    /// `http://address` of the metrics.
    pub metrics_url: String,
    /// The API's token.
    pub token: String,
    data_dir: TempDir,
    tasks: Tasks,
    shutdown: CancellationToken,
}

impl HubChain {
    /// A new hub on the memory transport.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::start_over(Wire::Memory(MemoryBroker::new())).await
    }

    /// A new hub.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_over(wire: Wire) -> Self {
        let data_dir = tempfile::tempdir().expect("a place for the hub's data");
        Self::start_on(wire, data_dir).await
    }

    /// A hub on a bus and a data directory that were there before.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_on(wire: Wire, data_dir: TempDir) -> Self {
        let mut config = HubConfig::new(data_dir.path());
        config.listen = ([127, 0, 0, 1], 0).into();
        config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
        let hub = Hub::build(config, wire.hub_link().await).await.expect("the hub starts");
        let token = std::fs::read_to_string(hub.token_path()).expect("the token is there").trim().to_owned();
        let url = format!("http://{}", hub.address());
        let metrics_url = format!("http://{}", hub.metrics_address().expect("it was asked for"));
        let (bus, tasks, shutdown) = (hub.bus().clone(), Tasks::new(), CancellationToken::new());
        let until = shutdown.clone();
        tasks.spawn("hub", async move { hub.run(until).await.expect("the hub runs") });
        Self { wire, bus, url, metrics_url, token, data_dir, tasks, shutdown }
    }

    /// Stops the hub in order, and returns what outlives it.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(self) -> (Wire, TempDir) {
        self.shutdown.cancel();
        assert!(self.tasks.stop(PATIENCE).await, "the hub drains in time");
        (self.wire, self.data_dir)
    }

    /// An instance, through the API.
    #[must_use]
    pub fn platform(&self, name: &str) -> HttpPlatform {
        HttpPlatform::new(&self.url, &self.token, &instance(name))
    }

    /// What the metrics listener shows.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self) -> String {
        let answer = reqwest::get(format!("{}/metrics", self.metrics_url)).await.expect("it answers");
        answer.text().await.expect("it answers with text")
    }

    /// The value of one series, as `/metrics` shows it.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics().await;
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// An agent with a mock, which serves.
    ///
    /// # Panics
    /// When it does not come to serve.
    pub async fn mock(&self, name: &str) -> (MockPlatform, ActiveSubscription) {
        let link = self.wire.agent_link(name).await;
        self.mock_over(link, name).await
    }

    /// The same over a connection that is there already.
    ///
    /// # Panics
    /// When it does not come to serve.
    pub async fn mock_over(
        &self,
        link: Arc<dyn Transport>,
        name: &str,
    ) -> (MockPlatform, ActiveSubscription) {
        let mock = MockPlatform::new();
        let config = mock_config(name, BusMetrics::unregistered());
        let subscription = subscribe(link, config, Arc::new(mock.clone())).await.expect("the bus takes it");
        self.bus.await_presence(&instance(name), PATIENCE).await.expect("it comes to serve");
        (mock, subscription)
    }

    /// An agent with the process runtime, which serves.
    ///
    /// # Panics
    /// When it does not come to serve.
    pub async fn process(&self, name: &str) -> RealAgent {
        let data_dir = tempfile::tempdir().expect("a place for the agent's data");
        let mut config = AgentConfig::new(instance(name), data_dir.path());
        config.shim = vec![binary("towline-agent").into(), "shim".into()];
        self.agent(name, config, data_dir).await
    }

    /// An agent with the docker runtime, which serves.
    ///
    /// # Panics
    /// When it does not come to serve.
    pub async fn docker(&self, name: &str, engine: &DockerEngine) -> RealAgent {
        let data_dir = tempfile::tempdir().expect("a place for the agent's data");
        let mut config = AgentConfig::new(instance(name), data_dir.path());
        config.runtime = RuntimeKind::Docker;
        config.docker_socket.clone_from(&engine.socket);
        self.agent(name, config, data_dir).await
    }

    async fn agent(&self, name: &str, config: AgentConfig, data_dir: TempDir) -> RealAgent {
        let agent = Arc::new(Agent::open(config, Registry::new()).await.expect("the agent opens"));
        let (tasks, stopping, link) =
            (Tasks::new(), CancellationToken::new(), self.wire.agent_link(name).await);
        let (serving, until) = (agent.clone(), stopping.clone());
        tasks.spawn("agent", async move { serving.serve(link, until).await.expect("the agent serves") });
        self.bus.await_presence(&instance(name), PATIENCE).await.expect("it comes to serve");
        RealAgent { agent, data_dir, tasks, stopping }
    }
}

/// An agent with a real runtime.
#[derive(Debug)]
pub struct RealAgent {
    agent: Arc<Agent>,
    /// Where its store and its units live.
    pub data_dir: TempDir,
    tasks: Tasks,
    stopping: CancellationToken,
}

impl RealAgent {
    /// Ends the agent and removes its units.
    ///
    /// # Panics
    /// When units stay, or it does not end in time.
    pub async fn end(self) {
        self.stopping.cancel();
        assert!(self.tasks.stop(PATIENCE).await, "the agent ends in time");
        self.agent.remove_units().await.expect("its units can be removed");
        let agent = Arc::into_inner(self.agent).expect("nobody else holds the agent");
        agent.close().await;
    }
}

/// How an agent with a mock subscribes: as a fresh process with a fresh store, and with every call.
///
/// # Panics
/// When the name is none of an instance.
#[must_use]
pub fn mock_config(name: &str, metrics: BusMetrics) -> SubscribeConfig {
    let (_, vitals) = watch::channel(Vitals::default());
    SubscribeConfig {
        root: Root::default(),
        instance: instance(name),
        identity: Identity {
            boot: BootId::new(Uuid::new_v4()),
            store: StoreId::new(Uuid::new_v4()),
            last_epoch: None,
            version: "0.0.1".to_owned(),
            runtime: "mock".to_owned(),
            calls: Method::names(),
        },
        mode: ClaimMode::Fresh,
        vitals,
        record_epoch: Box::new(|_| ()),
        begin: Box::new(|_, _| {}),
        metrics,
    }
}

/// A name as an instance.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn instance(name: &str) -> InstanceId {
    name.parse().expect("tests name instances well")
}

/// A binary of this workspace, beside the test that runs.
///
/// # Panics
/// When it was not built; the message says how.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a program knows its own path");
    // A test lies in target/<profile>/deps; the bench one folder above, where the binaries are.
    let mut beside = this.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let path = beside.find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name));
    assert!(
        path.exists(),
        "{} is not built; run `cargo build --workspace --bins`, or `make test`",
        path.display()
    );
    path
}
