//! The bus over a real nats-server and links that lose, delay, double and part, and over a client that drops: every call
//! ends, and no answer is short. Not in `bus`: what is under test is that nothing of this depends on how memory behaves.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::{broadcast, mpsc, watch};
use towline_bus::authority::MemoryAuthority;
use towline_bus::event::BusEvent;
use towline_bus::message_bus::{BusConfig, PresenceView};
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::{BATTERY, CallContext, Ends, MockPlatform};
use towline_bus::subscription::ActiveSubscription;
use towline_bus::transport::fault::{Faults, FaultyTransport};
use towline_bus::transport::nats::NatsTransport;
use towline_bus::transport::{LinkState, PublishError, SubscribeError, Subscription, TransportEvent};
use towline_bus::{MessageBus, Platform as _, Remote, Transport, subscribe};
use towline_protocol::platform::{LogLine, LogSource, LogsRequest};
use towline_protocol::subject::{Root, Subject};
use towline_protocol::{AttemptId, CallError, Code, Effect, InstanceId, ReplicaId, limits};
use towline_tests::chain::{instance, mock_config, nats_link};
use towline_tests::nats::NatsServer;
use towline_tests::noise::noise;
use towline_tests::wait::{PATIENCE, until};
use uuid::Uuid;

/// What an export holds: forty frames, none of which shrinks.
const EXPORT_BYTES: usize = 5 << 20;
/// Lines of a log, a kilobyte each: as many frames at least.
const LINES: u32 = 5_000;

/// A bus and an agent with a mock on a nats-server of their own.
struct Site {
    bus: MessageBus,
    mock: MockPlatform,
    metrics: BusMetrics,
    replica: ReplicaId,
    // Held, for with them end what they stand for.
    _subscription: ActiveSubscription,
    _events: mpsc::Receiver<BusEvent>,
}

impl Site {
    /// The agent serves already.
    async fn start(hub: Arc<dyn Transport>, agent: Arc<dyn Transport>) -> Self {
        let (metrics, replica) = (BusMetrics::unregistered(), ReplicaId::new(Uuid::new_v4()));
        let (authority, config) =
            (Arc::new(MemoryAuthority::new()), BusConfig { replica, ..BusConfig::default() });
        let (bus, events) = MessageBus::start(hub, authority, config, metrics.clone()).await.unwrap();
        let mock = MockPlatform::new();
        let serving = mock_config("a", BusMetrics::unregistered());
        let subscription = subscribe(agent, serving, Arc::new(mock.clone())).await.unwrap();
        bus.await_presence(&a(), PATIENCE).await.unwrap();
        Self { bus, mock, metrics, replica, _subscription: subscription, _events: events }
    }

    fn remote(&self) -> Remote {
        self.bus.connect(&a())
    }

    /// Gives the mock something large to say.
    fn fill(&self) -> Large {
        let large = Large { config: noise(EXPORT_BYTES), lines: (0..LINES).map(line).collect() };
        self.mock.set_config(large.config.clone());
        self.mock.set_lines(large.lines.clone());
        large
    }
}

/// The same where both ends publish through faults; none at first.
struct FaultySite {
    site: Site,
    hub: Arc<FaultyTransport>,
    agent: Arc<FaultyTransport>,
    _server: NatsServer,
}

impl FaultySite {
    async fn start() -> Self {
        let server = NatsServer::start("").await;
        let over = async |seed| FaultyTransport::over(nats_link(server.url()).await, Faults::default(), seed);
        let (hub, agent) = (over(42).await, over(43).await);
        let site = Site::start(hub.clone(), agent.clone()).await;
        Self { site, hub, agent, _server: server }
    }

    /// The messages of both meet all of it.
    fn set_faults(&self, faults: Faults) {
        self.agent.set_faults(faults);
        self.hub.set_faults(faults);
    }
}

fn a() -> InstanceId {
    instance("a")
}

fn line(number: u32) -> LogLine {
    let text = format!("{number} {}", "x".repeat(1_000));
    LogLine {
        unit: "web-1".to_owned(),
        at_unix_ns: number.into(),
        source: LogSource::Stdout,
        text,
        partial: false,
    }
}

/// What the mock has to say.
struct Large {
    config: Bytes,
    lines: Vec<LogLine>,
}

impl Large {
    /// Asks for the export. It is exact, or an error.
    async fn export(&self, remote: &Remote) -> Result<(), CallError> {
        let exported = remote.export(&CallContext::new()).await?;
        // Not `assert_eq`: nobody wants to read 5 MiB.
        assert!(exported == self.config, "{} bytes came as the whole", exported.len());
        Ok(())
    }

    /// Asks for the log. It is exact, or ends with an error after some lines of its beginning.
    async fn logs(&self, remote: &Remote) -> Result<(), CallError> {
        let app = "default/App/web".parse().unwrap();
        let request = LogsRequest { app, unit: None, follow: false, since_unix_ms: None, tail: None };
        let mut stream = remote.logs(&CallContext::new(), &request).await?;
        let mut lines = Vec::new();
        while let Some(item) = stream.next().await {
            match item {
                Ok(line) => lines.push(line),
                Err(error) => {
                    assert!(
                        self.lines.starts_with(&lines),
                        "{} lines, not those of the beginning",
                        lines.len()
                    );
                    return Err(error);
                }
            }
        }
        assert!(lines == self.lines, "{} lines came as the whole", lines.len());
        Ok(())
    }
}

/// Waits for the end of something that has to have one.
async fn ends<T>(what: &str, future: impl Future<Output = T>) -> T {
    // Whoever hears nothing gives up after its silence; a credit that is lost may take another keep-alive.
    let patience = 3 * PATIENCE;
    tokio::time::timeout(patience, future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// Whether an error says what a caller has to know when the bus failed.
fn is_loss(error: &CallError) -> bool {
    matches!(error.code, Code::UnknownOutcome | Code::Unavailable | Code::Fenced | Code::Expired)
}

/// Doubling, delay and reordering harm nothing: every call ends as it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_holds_under_doubling_and_delay_on_nats() {
    let FaultySite { site, hub, agent, _server } = FaultySite::start().await;
    let faults = Faults { loss_percent: 0, double_percent: 20, delay_max: Duration::from_millis(3) };
    agent.set_faults(faults);
    hub.set_faults(faults);
    let remote = site.remote();
    for case in BATTERY {
        case.run(Ends { near: &remote, far: &site.mock }).await;
    }
}

/// Under loss a call may fail, but it ends, says so with a type, and never does a thing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_under_loss_and_nothing_runs_twice_on_nats() {
    let faulty = FaultySite::start().await;
    let delay_max = Duration::from_millis(5);
    faulty.set_faults(Faults { loss_percent: 10, double_percent: 20, delay_max });
    let remote = faulty.site.remote();
    let calls = (0..100).map(|_| async {
        let cx = CallContext::new().within(Duration::from_secs(2));
        (remote.apply(&cx, &[]).await, cx.id)
    });
    let (mut done, mut lost) = (HashSet::new(), 0);
    for (result, id) in ends("a call", join_all(calls)).await {
        match result {
            Ok(()) => assert!(done.insert(id)),
            Err(error) => {
                assert!(is_loss(&error), "{error:?}");
                lost += 1;
            }
        }
    }
    assert!(!done.is_empty() && lost > 0, "{} done, {lost} lost", done.len());
    let all = faulty.site.mock.executed();
    let executed: HashSet<_> = all.iter().cloned().collect();
    assert_eq!(executed.len(), all.len(), "a call was executed twice");
    assert!(done.is_subset(&executed), "a call was answered that was never executed");
}

/// Whatever is lost of it: an export and a log are exact, or fail. Without loss they are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_large_is_exact_or_fails_under_loss_on_nats() {
    let faulty = FaultySite::start().await;
    let (large, remote) = (faulty.site.fill(), faulty.site.remote());
    let (mut exact, mut lost) = ([0; 2], [0; 2]);
    for loss_percent in [0, 1, 3] {
        faulty.set_faults(Faults { loss_percent, double_percent: 10, delay_max: Duration::from_millis(2) });
        let exports = join_all((0..6).map(|_| large.export(&remote)));
        let logs = join_all((0..6).map(|_| large.logs(&remote)));
        let (exports, logs) = ends("a transfer", futures::future::join(exports, logs)).await;
        for (kind, results) in [exports, logs].into_iter().enumerate() {
            for result in results {
                match result {
                    Ok(()) => exact[kind] += 1,
                    Err(error) => {
                        assert!(loss_percent > 0, "nothing was lost: {error:?}");
                        assert!(is_loss(&error) && error.effect == Effect::None, "{error:?}");
                        lost[kind] += 1;
                    }
                }
            }
        }
    }
    let counted = format!("exports and logs: {exact:?} exact, {lost:?} lost");
    assert!(exact.iter().all(|exact| *exact >= 6) && lost.iter().all(|lost| *lost > 0), "{counted}");
}

/// A partition that nobody is told of, on either side: it is noticed by silence, calls are answered meanwhile, and the
/// agent serves again under its epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_partition_is_noticed_and_healed_on_nats() {
    let faulty = FaultySite::start().await;
    let (site, remote) = (&faulty.site, faulty.site.remote());
    let view = || site.bus.instance(&a()).unwrap();
    let epoch = view().epoch;
    assert!(epoch.is_some());
    for parted in [&faulty.agent, &faulty.hub] {
        parted.set_partitioned(true);
        // Presence has not noticed yet: the call is sent, and its fate unknown.
        let error = ends("a call", remote.apply(&CallContext::new(), &[])).await.unwrap_err();
        assert_eq!((&error.code, &error.effect), (&Code::UnknownOutcome, &Effect::Unknown), "{error:?}");
        until("it to be unreachable", || async {
            matches!(view().presence, PresenceView::Unreachable { .. }).then_some(())
        })
        .await;
        let error = remote.apply(&CallContext::new(), &[]).await.unwrap_err();
        assert_eq!((&error.code, &error.effect), (&Code::Unavailable, &Effect::None), "{error:?}");
        parted.set_partitioned(false);
        site.bus.await_presence(&a(), PATIENCE).await.unwrap();
        until("a ping", || async { remote.ping(&CallContext::new()).await.ok() }).await;
        assert_eq!(view().epoch, epoch, "the same session goes on");
    }
    assert!(site.mock.executed().is_empty(), "what was lost in a partition is not done after it");
    assert_eq!(site.metrics.kicks.get(), 0);
}

/// A real connection whose reply subscription can be left unread, as by a hub that gets no time: its queue fills up, and
/// the client drops what comes then.
#[derive(Debug)]
struct Unread {
    inner: Arc<NatsTransport>,
    reads: watch::Sender<bool>,
}

#[async_trait]
impl Transport for Unread {
    async fn publish(&self, to: String, reply: Option<String>, payload: Bytes) -> Result<(), PublishError> {
        self.inner.publish(to, reply, payload).await
    }

    async fn subscribe(
        &self,
        pattern: String,
        queue: Option<String>,
    ) -> Result<Subscription, SubscribeError> {
        let is_replies = pattern.starts_with("tl.r.");
        let inner = self.inner.subscribe(pattern, queue).await?;
        if !is_replies {
            return Ok(inner);
        }
        let messages =
            futures::stream::unfold((inner, self.reads.subscribe()), |(mut inner, mut reads)| async {
                reads.wait_for(|reads| *reads).await.ok()?;
                Some((inner.next().await?, (inner, reads)))
            });
        Ok(Subscription::new(messages))
    }

    fn link(&self) -> watch::Receiver<LinkState> {
        self.inner.link()
    }

    fn events(&self) -> broadcast::Receiver<TransportEvent> {
        self.inner.events()
    }

    fn max_payload(&self) -> usize {
        self.inner.max_payload()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// The rest of a queue that holds a part of what is sent at once (a window of 16 frames), and enough of it (half a window)
/// that the sender is asked for more: what comes then shows the gap.
const ROOM: usize = 12;

/// The client itself drops frames in the middle of a stream: the caller is told, and is never given what is left. Of an answer
/// nothing comes that was not asked for, so nothing is dropped of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b5_what_the_client_drops_is_never_a_short_answer() {
    let server = NatsServer::start("").await;
    let hub = Arc::new(Unread { inner: nats_link(server.url()).await, reads: watch::Sender::new(true) });
    let (agent, fast) = (nats_link(server.url()).await, nats_link(server.url()).await);
    let site = Site::start(hub.clone(), agent).await;
    let (large, remote) = (site.fill(), site.remote());
    let dropped = || site.metrics.refusals.with_label_values(&["slow_consumer"]).get();
    let mut barrier = hub.subscribe("barrier".to_owned(), None).await.unwrap();
    fast.link().wait_for(|state| *state == LinkState::Connected).await.unwrap();
    for is_stream in [false, true] {
        hub.reads.send_replace(false);
        let nobodys = Subject::Reply { instance: a(), replica: site.replica, attempt: AttemptId(0) };
        let nobodys = Root::default().subject(&nobodys);
        for _ in 0..limits::SUBSCRIPTION_MESSAGES_MAX - ROOM {
            fast.publish(nobodys.clone(), None, Bytes::new()).await.unwrap();
        }
        fast.publish("barrier".to_owned(), None, Bytes::new()).await.unwrap();
        ends("the flood", barrier.next()).await.unwrap();
        let before = dropped();
        let call = async { if is_stream { large.logs(&remote).await } else { large.export(&remote).await } };
        let reads_on = async {
            if is_stream {
                until("the client to drop", || async { (dropped() > before).then_some(()) }).await;
            } else {
                // As long as it takes to send all that the agent has, if it were to.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            hub.reads.send_replace(true);
        };
        let (result, ()) = ends("the call", futures::future::join(call, reads_on)).await;
        if is_stream {
            let error = result.unwrap_err();
            assert_eq!((&error.code, &error.effect), (&Code::UnknownOutcome, &Effect::None), "{error:?}");
            let is_gap = error.message.contains("a part of the stream was lost");
            assert!(is_gap, "it is noticed at once, by the gap: {error:?}");
        } else {
            result.unwrap();
            assert_eq!(dropped(), before);
        }
        // The next one is whole again.
        large.export(&remote).await.unwrap();
        large.logs(&remote).await.unwrap();
    }
}
