//! The agent on a bus: it serves, is kicked, stands by, and serves again.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use std::{sync::Arc, time::Duration};

use prometheus::Registry;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use towline_agent::{Agent, AgentConfig};
use towline_bus::{
    CallContext, MessageBus, Platform as _, authority::MemoryAuthority, message_bus::BusConfig,
    metrics::BusMetrics, transport::memory::MemoryBroker,
};
use towline_protocol::{Code, InstanceId, platform::Definition};

struct Served {
    _dir: TempDir,
    agent: Arc<Agent>,
    stopping: CancellationToken,
    done: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(broker: &MemoryBroker, instance: &InstanceId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = AgentConfig::new(instance.clone(), dir.path());
        config.shim = vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()];
        let agent = Arc::new(Agent::open(config, Registry::new()).await.unwrap());
        let stopping = CancellationToken::new();
        let (serving, transport, until) = (Arc::clone(&agent), broker.connect(), stopping.clone());
        let tracker = tokio_util::task::TaskTracker::new();
        let done = tracker.spawn(async move { serving.serve(transport, until).await.unwrap() });
        Self { _dir: dir, agent, stopping, done }
    }

    async fn until_serving(&self, wanted: bool) {
        let mut serving = self.agent.serving();
        let reached = serving.wait_for(|epoch| epoch.is_some() == wanted);
        tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap().unwrap();
    }

    async fn end(self) {
        self.stopping.cancel();
        self.done.await.unwrap();
        self.agent.remove_units().await.unwrap();
        Arc::into_inner(self.agent).unwrap().close().await;
    }
}

async fn bus(broker: &MemoryBroker) -> MessageBus {
    let authority = Arc::new(MemoryAuthority::new());
    let started =
        MessageBus::start(broker.connect(), authority, BusConfig::default(), BusMetrics::unregistered())
            .await;
    let (bus, mut events) = started.unwrap();
    tokio_util::task::TaskTracker::new().spawn(async move { while events.recv().await.is_some() {} });
    bus
}

fn definition() -> Definition {
    let yaml =
        "apiVersion: towline/v1\nkind: App\nmetadata: {name: web}\nspec: {command: [sleep, \"1000\"]}\n";
    Definition { id: "default/App/web".parse().unwrap(), definition: yaml.into(), is_async: false }
}

#[tokio::test]
async fn an_agent_serves_its_instance() {
    let broker = MemoryBroker::new();
    let bus = bus(&broker).await;
    let instance: InstanceId = "acme/site-1".parse().unwrap();
    let served = Served::start(&broker, &instance).await;
    bus.await_presence(&instance, Duration::from_secs(10)).await.unwrap();
    let far = bus.connect(&instance);
    far.apply(&CallContext::new(), &[definition()]).await.unwrap();
    let services = far.some_services(&CallContext::new(), &[definition().id]).await.unwrap();
    assert_eq!(services[0].units.len(), 1);
    assert_eq!(far.version(&CallContext::new()).await.unwrap(), towline_agent::VERSION);
    served.end().await;
    let error = far.ping(&CallContext::new()).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    bus.stop().await;
}

#[tokio::test]
async fn x_k3_a_kicked_agent_stands_by_and_does_not_kick_back() {
    let broker = MemoryBroker::new();
    let bus = bus(&broker).await;
    let instance: InstanceId = "acme/site-1".parse().unwrap();
    let first = Served::start(&broker, &instance).await;
    first.until_serving(true).await;
    let second = Served::start(&broker, &instance).await;
    second.until_serving(true).await;
    first.until_serving(false).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(first.agent.serving().borrow().is_none() && second.agent.serving().borrow().is_some());
    let epoch = *second.agent.serving().borrow();
    second.end().await;
    first.until_serving(true).await;
    assert!(*first.agent.serving().borrow() > epoch);
    assert_eq!(first.agent.store().last_epoch(), *first.agent.serving().borrow());
    first.end().await;
    bus.stop().await;
}
