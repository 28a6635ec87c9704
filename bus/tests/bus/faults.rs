//! The bus over transports that lose, delay, double and reorder.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use towline_bus::authority::MemoryAuthority;
use towline_bus::message_bus::BusConfig;
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::{BATTERY, CallContext, Ends};
use towline_bus::transport::battery::{self, Venue};
use towline_bus::transport::fault::{Faults, FaultyTransport};
use towline_bus::transport::memory::{MemoryBroker, MemoryTransport, Permissions};
use towline_bus::{MessageBus, Platform as _, Transport};
use towline_protocol::platform::Definition;
use towline_protocol::session::ClaimMode;
use towline_protocol::{Code, Method};

use super::fixture::{Agent, Hub, PATIENCE, eventually, id};

/// Without faults the wrapper is a transport like the one within.
#[derive(Default)]
struct Wrapped {
    broker: MemoryBroker,
    links: std::sync::Mutex<Vec<(usize, Arc<MemoryTransport>)>>,
}

fn key(connection: &Arc<dyn Transport>) -> usize {
    Arc::as_ptr(connection).cast::<()>().addr()
}

impl Wrapped {
    fn within(&self, connection: &Arc<dyn Transport>) -> Arc<MemoryTransport> {
        let links = self.links.lock().unwrap();
        // The newest: an address may have been used before.
        links.iter().rev().find(|(wrapped, _)| *wrapped == key(connection)).unwrap().1.clone()
    }
}

#[async_trait]
impl Venue for Wrapped {
    async fn connect(
        &self,
        publish: Option<Vec<String>>,
        subscribe: Option<Vec<String>>,
    ) -> Arc<dyn Transport> {
        let link = self.broker.connect_with(Permissions { publish, subscribe });
        let wrapped: Arc<dyn Transport> = FaultyTransport::over(link.clone(), Faults::default(), 1);
        self.links.lock().unwrap().push((key(&wrapped), link));
        wrapped
    }

    async fn cut(&self, connection: &Arc<dyn Transport>) {
        self.within(connection).cut();
    }

    async fn join(&self, connection: &Arc<dyn Transport>) {
        self.within(connection).join();
    }
}

#[tokio::test]
async fn a_wrapper_without_faults_passes_the_transport_battery() {
    battery::battery(&Wrapped::default()).await;
}

async fn faulty_pair(faults: Faults) -> (Hub, Arc<FaultyTransport>, Agent) {
    let hub = Hub::start().await;
    let link = FaultyTransport::over(hub.broker.connect(), faults, 42);
    let agent = Agent::start_over(link.clone(), "a", ClaimMode::Fresh).await;
    hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
    (hub, link, agent)
}

/// Doubling, delay and reordering harm nothing: every call ends as it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_holds_under_doubling_and_delay() {
    let faults = Faults { loss_percent: 0, double_percent: 20, delay_max: Duration::from_millis(3) };
    let (hub, _link, agent) = faulty_pair(faults).await;
    let remote = hub.connect("a");
    for case in BATTERY {
        case.run(Ends { near: &remote, far: &agent.mock }).await;
    }
}

/// Under loss a call may fail, but it ends, says so with a type, and never does a thing twice.
#[tokio::test]
async fn calls_end_under_loss_and_nothing_runs_twice() {
    let (hub, link, agent) = faulty_pair(Faults::default()).await;
    link.set_faults(Faults { loss_percent: 20, double_percent: 20, delay_max: Duration::from_millis(5) });
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let remote = hub.connect("a");
        calls.spawn(async move {
            let cx = CallContext::new().within(Duration::from_secs(2));
            remote.apply(&cx, &[]).await
        });
    }
    let (mut done, mut lost) = (0, 0);
    while let Some(call) = tokio::time::timeout(PATIENCE * 3, calls.join_next()).await.expect("no call hangs")
    {
        match call.unwrap() {
            Ok(()) => done += 1,
            Err(error) => {
                assert!(
                    matches!(error.code, Code::UnknownOutcome | Code::Unavailable | Code::Fenced),
                    "{error:?}"
                );
                lost += 1;
            }
        }
    }
    assert!(done > 0 && lost > 0, "{done} done, {lost} lost");
    let mut executed = agent.mock.executed();
    let all = executed.len();
    executed.sort();
    executed.dedup();
    assert_eq!(executed.len(), all, "a call was executed twice");
}

/// Every frame that the hub sends comes twice, at once or a while later: the agent's own guard is what holds then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_twice_when_the_hubs_frames_are_doubled() {
    let broker = MemoryBroker::new();
    let faults = Faults { double_percent: 100, loss_percent: 0, delay_max: Duration::from_millis(20) };
    let link = FaultyTransport::over(broker.connect(), faults, 42);
    let (authority, metrics) = (Arc::new(MemoryAuthority::default()), BusMetrics::unregistered());
    let bus = MessageBus::start(link, authority, BusConfig::default(), metrics).await.unwrap().0;
    let agent = Agent::start(&broker, "a", ClaimMode::Fresh, None).await;
    bus.await_presence(&id("a"), PATIENCE).await.unwrap();
    let large = Definition {
        id: "default/Large/a".parse().unwrap(),
        definition: (0..600_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect(),
        is_async: false,
    };
    let mut applied = Vec::new();
    for round in 0..100 {
        let cx = CallContext::new();
        // Some end before their double comes, some are under way, some come in parts.
        agent.mock.delay(Method::Apply, Duration::from_millis(10 * (round % 3)));
        let definitions = if round % 10 == 0 { vec![large.clone()] } else { Vec::new() };
        bus.connect(&id("a")).apply(&cx, &definitions).await.unwrap();
        applied.push(cx.id);
    }
    let doubles = || agent.metrics.refusals.with_label_values(&["repeated_attempt"]).get();
    eventually("the last doubles are refused", || doubles() >= 100).await;
    assert_eq!(agent.mock.executed(), applied, "each once, in order");
}

/// A partition that nobody is told of: loss is noticed by silence, and service resumes under the same epoch.
#[tokio::test]
async fn a_silent_partition_is_noticed_and_healed() {
    let (hub, link, agent) = faulty_pair(Faults::default()).await;
    let epoch = *agent.subscription.serving().borrow();
    link.set_partitioned(true);
    eventually("the loss is noticed", || !hub.connect("a").is_connected()).await;
    assert!(hub.bus.ping(&id("a")).await.is_err());
    link.set_partitioned(false);
    hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
    hub.bus.ping(&id("a")).await.unwrap();
    assert_eq!(*agent.subscription.serving().borrow(), epoch);
}
