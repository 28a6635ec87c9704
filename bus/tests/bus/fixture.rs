//! A hub's bus and agents in one process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use towline_bus::authority::MemoryAuthority;
use towline_bus::event::BusEvent;
use towline_bus::message_bus::BusConfig;
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::MockPlatform;
use towline_bus::session::{EndReason, Identity};
use towline_bus::subscription::{ActiveSubscription, SubscribeConfig, Vitals};
use towline_bus::transport::memory::{MemoryBroker, MemoryTransport, Permissions};
use towline_bus::{Authority, MessageBus, Platform, Remote, Transport, subscribe};
use towline_protocol::session::ClaimMode;
use towline_protocol::subject::Root;
use towline_protocol::{BootId, InstanceId, Method, StoreId};
use uuid::Uuid;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Hub {
    pub(crate) broker: MemoryBroker,
    pub(crate) authority: Arc<MemoryAuthority>,
    pub(crate) bus: MessageBus,
    pub(crate) link: Arc<MemoryTransport>,
    pub(crate) events: mpsc::Receiver<BusEvent>,
    pub(crate) metrics: BusMetrics,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        Self::start_on(MemoryBroker::new(), Arc::default()).await
    }

    pub(crate) async fn start_on(broker: MemoryBroker, authority: Arc<MemoryAuthority>) -> Self {
        let metrics = BusMetrics::unregistered();
        let link = broker.connect();
        let granted: Arc<dyn Authority> = authority.clone();
        let (bus, events) =
            MessageBus::start(link.clone(), granted, BusConfig::default(), metrics.clone()).await.unwrap();
        Self { broker, authority, bus, link, events, metrics }
    }

    /// An agent with only the permissions of its instance.
    pub(crate) async fn agent(&self, name: &str, mode: ClaimMode) -> Agent {
        Agent::start(&self.broker, name, mode, None).await
    }

    /// An agent that serves.
    pub(crate) async fn serving(&self, name: &str) -> Agent {
        let agent = self.agent(name, ClaimMode::Fresh).await;
        self.bus.await_presence(&id(name), PATIENCE).await.unwrap();
        agent
    }

    pub(crate) fn connect(&self, name: &str) -> Remote {
        self.bus.connect(&id(name))
    }
}

pub(crate) struct Agent {
    pub(crate) mock: MockPlatform,
    pub(crate) link: Arc<MemoryTransport>,
    pub(crate) subscription: ActiveSubscription,
    pub(crate) metrics: BusMetrics,
}

impl Agent {
    pub(crate) async fn start(
        broker: &MemoryBroker,
        name: &str,
        mode: ClaimMode,
        boot: Option<BootId>,
    ) -> Self {
        let mock = MockPlatform::new();
        let platform: Arc<dyn Platform> = Arc::new(mock.clone());
        Self::start_with(broker, name, mode, boot, mock, platform).await
    }

    pub(crate) async fn start_with(
        broker: &MemoryBroker,
        name: &str,
        mode: ClaimMode,
        boot: Option<BootId>,
        mock: MockPlatform,
        platform: Arc<dyn Platform>,
    ) -> Self {
        let (root, instance) = (Root::default(), id(name));
        let link = broker.connect_with(Permissions {
            publish: Some(root.agent_may_publish(&instance)),
            subscribe: Some(root.agent_may_subscribe(&instance)),
        });
        let (subscription, metrics) = subscribe_over(link.clone(), name, mode, boot, platform).await;
        Self { mock, link, subscription, metrics }
    }

    /// An agent over any transport; its memory link is one that nobody uses.
    pub(crate) async fn start_over(transport: Arc<dyn Transport>, name: &str, mode: ClaimMode) -> Self {
        let mock = MockPlatform::new();
        let platform: Arc<dyn Platform> = Arc::new(mock.clone());
        let (subscription, metrics) = subscribe_over(transport, name, mode, None, platform).await;
        Self { mock, link: MemoryBroker::new().connect(), subscription, metrics }
    }

    /// Waits until the subscription ends, and says why.
    pub(crate) async fn ended(&mut self) -> EndReason {
        tokio::time::timeout(PATIENCE, self.subscription.ended())
            .await
            .expect("the subscription ends in time")
    }

    /// Waits until this agent is the one that serves.
    pub(crate) async fn await_serving(&self) {
        let mut serving = self.subscription.serving();
        let waited = tokio::time::timeout(PATIENCE, serving.wait_for(Option::is_some)).await;
        assert!(matches!(waited, Ok(Ok(_))), "the agent never served");
    }
}

pub(crate) fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "not in time: {what}");
}

async fn subscribe_over(
    transport: Arc<dyn Transport>,
    name: &str,
    mode: ClaimMode,
    boot: Option<BootId>,
    platform: Arc<dyn Platform>,
) -> (ActiveSubscription, BusMetrics) {
    let metrics = BusMetrics::unregistered();
    let (_, vitals) = watch::channel(Vitals::default());
    let config = SubscribeConfig {
        root: Root::default(),
        instance: id(name),
        identity: Identity {
            boot: boot.unwrap_or_else(|| BootId::new(Uuid::new_v4())),
            store: StoreId::new(Uuid::new_v4()),
            last_epoch: None,
            version: "0.0.1".to_owned(),
            runtime: "mock".to_owned(),
            calls: Method::names(),
        },
        mode,
        vitals,
        record_epoch: Box::new(|_| ()),
        begin: Box::new(|_, _| {}),
        metrics: metrics.clone(),
    };
    (subscribe(transport, config, platform).await.unwrap(), metrics)
}
