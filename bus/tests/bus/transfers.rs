//! What is larger than a frame: whoever sends it badly, or reads it not at all, harms nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use towline_bus::exchange::{Caller, Destination};
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::{CallContext, ItemStream};
use towline_bus::task::Tasks;
use towline_bus::transport::{LinkState, PublishError, SubscribeError, Subscription, TransportEvent};
use towline_bus::{Platform as _, Transport};
use towline_protocol::frame::{Encoding, Frame, Header, Kind, Total};
use towline_protocol::platform::{ExportRequest, LogLine, LogSource, LogsRequest};
use towline_protocol::session::ClaimMode;
use towline_protocol::subject::Root;
use towline_protocol::{CallError, Code, Effect, Epoch, Method, ReplicaId, limits};
use uuid::Uuid;

use super::fixture::{Agent, Hub, PATIENCE, eventually, id};

/// Bytes that do not shrink.
fn noise(length: usize) -> Bytes {
    let mut state = 1_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    bytes.take(length).collect()
}

fn noisy_text(length: usize) -> String {
    noise(length / 2).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Somebody with an agent's permissions who answers each call with the beginning of the largest message that there may be,
/// and from then on says that he is at work.
async fn announce_and_dawdle(hub: &Hub, name: &str) -> Destination {
    let transport: Arc<dyn Transport> = hub.broker.connect();
    let mut calls = transport.subscribe(format!("tl.c.default.{name}.>"), None).await.unwrap();
    let to = Destination { instance: id(name), epoch: Epoch::new(1).unwrap() };
    let frame = |kind, body: &'static [u8]| {
        let mut header = Header::new(kind, Encoding::MessagePack);
        header.epoch = Some(Epoch::new(1).unwrap());
        Frame { header, body: Bytes::from_static(body) }
    };
    let mut first = frame(Kind::Reply, b"the beginning");
    let bytes = limits::MESSAGE_BYTES_MAX as u64;
    first.header.total = Some(Total { sent_bytes: bytes, full_bytes: bytes, digest: [0; 32] });
    let alive = frame(Kind::KeepAlive, b"");
    tokio::spawn(async move {
        let mut dawdling = JoinSet::new();
        while let Some(call) = calls.next().await {
            let reply = call.reply.unwrap().to_string();
            transport.publish(reply.clone(), None, first.encode()).await.unwrap();
            let (transport, alive) = (transport.clone(), alive.encode());
            dawdling.spawn(async move {
                while transport.publish(reply.clone(), None, alive.clone()).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    });
    to
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_announces_much_and_sends_nothing_delays_no_other_instance() {
    let hub = Hub::start().await;
    let (tasks, replica) = (Tasks::new(), ReplicaId::new(Uuid::new_v4()));
    let (root, metrics) = (Root::default(), BusMetrics::unregistered());
    let link = hub.broker.connect();
    let caller = Caller::start(link.clone(), root, replica, metrics.clone(), tasks.clone(), |_, _| ());
    let caller = caller.await.unwrap();
    let hostile = announce_and_dawdle(&hub, "a").await;
    let mut dawdling = JoinSet::new();
    for _ in 0..5 {
        let (caller, hostile) = (caller.clone(), hostile.clone());
        dawdling.spawn(async move {
            caller.call(&hostile, &CallContext::new(), &ExportRequest::default()).await.unwrap_err()
        });
    }
    // One more than there is room for, so it waits for the others.
    let waiting = CallContext::new();
    let (cancel, another, to) = (waiting.cancelled.clone(), caller.clone(), hostile.clone());
    let taken_back =
        tokio::spawn(
            async move { another.call(&to, &waiting, &ExportRequest::default()).await.unwrap_err() },
        );
    eventually("all are under way", || metrics.in_flight.get() == 6).await;
    tokio::time::sleep(Duration::from_millis(200)).await;

    let honest = hub.serving("b").await;
    let large = noise(3 << 20);
    honest.mock.set_config(large.clone());
    let to = Destination { instance: id("b"), epoch: honest.subscription.serving().borrow().unwrap() };
    let (cx, request) = (CallContext::new(), ExportRequest::default());
    let answer = tokio::time::timeout(PATIENCE, caller.call(&to, &cx, &request));
    assert!(answer.await.expect("nobody waits for the hostile one").unwrap().config == large);

    cancel.cancel();
    let error = tokio::time::timeout(PATIENCE, taken_back).await.expect("it waits no more").unwrap();
    assert_eq!((&error.code, &error.effect), (&Code::UnknownOutcome, &Effect::None), "{error}");
    // Nor are they listened to for as long as a call may take.
    let first = tokio::time::timeout(limits::STREAM_SILENCE_MAX * 5, dawdling.join_next()).await;
    let error = first.expect("an answer that does not come on is given up").unwrap().unwrap();
    assert_eq!((&error.code, &error.effect), (&Code::UnknownOutcome, &Effect::None), "{error}");
    assert!(error.message.contains("did not come"), "{error}");
    link.cut();
    let rest = tokio::time::timeout(PATIENCE, dawdling.join_all()).await;
    assert!(rest.is_ok(), "who waits for room notices that the link is lost");
}

fn line_of(text: String) -> LogLine {
    LogLine { unit: "u".into(), at_unix_ns: 1, source: LogSource::Stdout, text, partial: false }
}

fn follow() -> LogsRequest {
    LogsRequest { app: "a".parse().unwrap(), unit: None, follow: true, since_unix_ms: None, tail: None }
}

/// A stream that nobody reads, of more lines than wait anywhere.
async fn unread(hub: &Hub, agent: &Agent, cx: &CallContext) -> ItemStream<LogLine> {
    agent.mock.set_lines(vec![line_of("x".repeat(10_000)); 10_000]);
    let stream = hub.connect("a").logs(cx, &follow()).await.unwrap();
    // The first window has come, and waits at the hub.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(hub.metrics.in_flight.get(), 1);
    stream
}

/// What a stream ends with, once somebody reads it.
async fn end_of(mut stream: ItemStream<LogLine>) -> CallError {
    let reading = async {
        let mut lines = 0;
        loop {
            match stream.next().await.expect("it says why it ends") {
                Ok(_) => lines += 1,
                Err(error) => return (lines, error),
            }
        }
    };
    let (lines, error) = tokio::time::timeout(PATIENCE, reading).await.expect("it ends");
    assert!(lines > 0, "what came before is handed on");
    error
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_at_its_own_time() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let stream = unread(&hub, &agent, &CallContext::new().within(Duration::from_secs(1))).await;
    eventually("its time is over", || hub.metrics.in_flight.get() == 0).await;
    assert_eq!(end_of(stream).await.code, Code::Expired);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_can_be_taken_back() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let cx = CallContext::new();
    let stream = unread(&hub, &agent, &cx).await;
    cx.cancelled.cancel();
    eventually("it is taken back", || hub.metrics.in_flight.get() == 0).await;
    assert_eq!(end_of(stream).await.code, Code::Cancelled);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_with_the_link() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let stream = unread(&hub, &agent, &CallContext::new()).await;
    hub.link.cut();
    eventually("the loss is noticed", || hub.metrics.in_flight.get() == 0).await;
    assert_eq!(end_of(stream).await.code, Code::UnknownOutcome);
}

/// A transport whose server takes less than it says: as when its limit was lowered a moment ago.
#[derive(Debug)]
struct Narrow {
    inner: Arc<dyn Transport>,
    /// Messages above the limit that pass before.
    passes: AtomicUsize,
}

impl Narrow {
    const LIMIT: usize = 8 << 10;

    fn over(hub: &Hub, passes: usize) -> Arc<Self> {
        Arc::new(Self { inner: hub.broker.connect(), passes: AtomicUsize::new(passes) })
    }
}

#[async_trait]
impl Transport for Narrow {
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let pass = |left: usize| left.checked_sub(1);
        if payload.len() > Self::LIMIT
            && self.passes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pass).is_err()
        {
            return Err(PublishError::TooLarge { found: payload.len(), limit: Self::LIMIT });
        }
        self.inner.publish(subject, reply, payload).await
    }

    async fn subscribe(
        &self,
        pattern: String,
        queue: Option<String>,
    ) -> Result<Subscription, SubscribeError> {
        self.inner.subscribe(pattern, queue).await
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

/// Silence would look like a loss: the caller is told, before it would give the call up.
#[tokio::test]
async fn an_answer_that_the_bus_does_not_take_is_told() {
    let hub = Hub::start().await;
    let link = Narrow::over(&hub, 0);
    let agent = Agent::start_over(link.clone(), "a", ClaimMode::Fresh).await;
    hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
    let (remote, cx) = (hub.connect("a"), CallContext::new());

    agent.mock.set_config(noise(100 << 10));
    let error = remote.export(&cx).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::TooLarge, &Effect::None), "{error}");
    assert!(error.help.is_some());

    // In the middle of a message.
    agent.mock.set_config(noise(500 << 10));
    link.passes.store(2, Ordering::Relaxed);
    let error = remote.export(&cx).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::TooLarge, &Effect::None), "{error}");

    // What was done cannot be told, so its effect is not known.
    agent.mock.fail(Method::Apply, Some(CallError::new(Code::Cluster, noisy_text(64 << 10))));
    let error = remote.apply(&cx, &[]).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::TooLarge, &Effect::Unknown), "{error}");

    agent.mock.set_lines(vec![line_of(noisy_text(12 << 10))]);
    let mut lines = remote.logs(&cx, &follow()).await.unwrap();
    let error = lines.next().await.unwrap().unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::TooLarge, &Effect::None), "{error}");
}
