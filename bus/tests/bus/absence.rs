//! Nobody there, or nobody any more: the caller learns it fast, and never hangs.

use std::time::{Duration, Instant};

use towline_bus::Platform as _;
use towline_bus::platform::{CallContext, Disconnected, ItemStream};
use towline_protocol::bundle::ListBundlesRequest;
use towline_protocol::job::{CancelJobRequest, WatchJobRequest};
use towline_protocol::platform::{LogLine, LogSource, LogsRequest};
use towline_protocol::{CallError, Code, Effect, JobId, Method};

use super::fixture::{Hub, PATIENCE, eventually};

/// Calls to whom nobody serves answer within 100 ms; a test waits five times as long, because machines stutter.
const AT_ONCE: Duration = Duration::from_millis(500);

async fn assert_unavailable(hub: &Hub, name: &str) {
    let begun = Instant::now();
    let error = hub.connect(name).ping(&CallContext::new()).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Unavailable, &Effect::None), "{error:?}");
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}", begun.elapsed());
    assert!(error.help.is_some());
}

#[tokio::test]
async fn x_a1_an_absent_instance_answers_at_once() {
    let hub = Hub::start().await;
    assert_unavailable(&hub, "never-seen").await;
    let agent = hub.serving("a").await;
    agent.subscription.leave().await;
    eventually("goodbye is believed", || !hub.connect("a").is_connected()).await;
    assert_unavailable(&hub, "a").await;
}

/// Gone without a goodbye: the bus itself says that nobody listens, before presence has noticed.
#[tokio::test]
async fn x_a1_a_vanished_agent_answers_at_once() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    drop(agent);
    // Its tasks end a moment later.
    let cx = CallContext::new().within(Duration::from_millis(100));
    let gone = async {
        let is_gone = |error: CallError| error.code == Code::Unavailable;
        while !hub.connect("a").ping(&cx).await.is_err_and(is_gone) {}
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its subscriptions are gone");
    assert!(hub.connect("a").is_connected(), "presence has not noticed yet");
    assert_unavailable(&hub, "a").await;
}

#[tokio::test]
async fn x_a1_the_disconnected_platform_answers_at_once() {
    let nobody = Disconnected::new("not subscribed");
    let error = nobody.export(&CallContext::new()).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::Unavailable, "not subscribed"));
    let (cx, job) = (CallContext::new(), JobId::new(uuid::Uuid::nil()));
    let watch = nobody.watch_job(&cx, &WatchJobRequest { job, after: 0 }).await.unwrap_err();
    let cancel = nobody.cancel_job(&cx, &CancelJobRequest { job, reason: None }).await.unwrap_err();
    let list = nobody.list_bundles(&cx, &ListBundlesRequest::default()).await.unwrap_err();
    for error in [watch, cancel, list, nobody.capacity(&cx).await.unwrap_err()] {
        assert_eq!((error.code, error.effect), (Code::Unavailable, Effect::None));
    }
}

/// The agent is cut off in the middle of a long sync: the caller learns it within the loss bound, not at its deadline.
#[tokio::test]
async fn x_a2_loss_in_the_middle_of_a_call_is_noticed() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    agent.mock.delay(Method::Sync, Duration::from_secs(3600));
    let remote = hub.connect("a");
    let call = tokio::spawn(async move { remote.sync(&CallContext::new(), &[]).await });
    eventually("the sync has begun", || !agent.mock.executed().is_empty()).await;
    agent.link.cut();
    let begun = Instant::now();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.effect), (Code::UnknownOutcome, Effect::Unknown));
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_a3_a_burst_of_calls_loses_none() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    agent.mock.set_version("1");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let remote = hub.connect("a");
        calls.spawn(async move { remote.version(&CallContext::new()).await });
    }
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().as_deref(), Ok("1"));
    }
    assert_eq!(hub.metrics.in_flight.get(), 0);
}

/// All answers come at the same moment, and whoever hands them out comes last. (On one thread: many more would take it six seconds
/// on a busy machine, after which a caller is right to call an agent silent.)
#[tokio::test]
async fn x_a3_six_thousand_calls_at_once_lose_none() {
    let hub = Hub::start().await;
    let mut calls = tokio::task::JoinSet::new();
    let mut agents = Vec::new();
    for number in 0..10 {
        let name = format!("a{number}");
        let agent = hub.serving(&name).await;
        agent.mock.set_version("1");
        agent.mock.delay(Method::Version, Duration::from_millis(700));
        agents.push(agent);
    }
    for number in 0..6_000 {
        let remote = hub.connect(&format!("a{}", number % 10));
        let cx = CallContext::new().within(Duration::from_secs(60));
        calls.spawn(async move { remote.version(&cx).await });
    }
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().as_deref(), Ok("1"));
    }
    assert_eq!(hub.metrics.in_flight.get(), 0);
}

#[tokio::test]
async fn x_a5_a_call_without_a_bus_fails_fast() {
    let hub = Hub::start().await;
    let _agent = hub.serving("a").await;
    hub.link.cut();
    let begun = Instant::now();
    let error = hub.connect("a").ping(&CallContext::new()).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Busy, &Effect::None), "the hub's own loss: {error:?}");
    assert!(error.message.contains("the hub does not reach the bus"), "{error}");
    assert!(begun.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_call_under_way_ends_when_the_hub_loses_the_bus() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    agent.mock.delay(Method::Apply, Duration::from_secs(3600));
    let remote = hub.connect("a");
    let call = tokio::spawn(async move { remote.apply(&CallContext::new(), &[]).await });
    eventually("the apply has begun", || !agent.mock.executed().is_empty()).await;
    hub.link.cut();
    let error = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.code, error.effect), (Code::UnknownOutcome, Effect::Unknown));
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_reads_without_effect() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    agent.mock.delay(Method::Export, Duration::from_secs(3600));
    let cx = CallContext::new().within(Duration::from_millis(50));
    let error = hub.connect("a").export(&cx).await.unwrap_err();
    assert_eq!((error.code, error.effect), (Code::UnknownOutcome, Effect::None));
    assert!(error.message.contains("50ms"), "{}", error.message);
}

#[tokio::test]
async fn an_explicit_cancel_is_answered() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    agent.mock.delay(Method::Export, Duration::from_secs(3600));
    let (remote, cx) = (hub.connect("a"), CallContext::new());
    let cancelled = cx.cancelled.clone();
    let call = tokio::spawn(async move { remote.export(&cx).await });
    eventually("the export has begun", || !agent.mock.take_seen().is_empty()).await;
    cancelled.cancel();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.effect), (Code::Cancelled, Effect::None));
}

#[tokio::test]
async fn a_stream_without_a_reader_ends_at_its_sender() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    agent.mock.set_lines(vec![line_of(10_000); 10_000]);
    let stream = followed(&hub).await;
    assert_eq!(hub.metrics.in_flight.get(), 1);
    drop(stream);
    eventually("the call is taken back", || hub.metrics.in_flight.get() == 0).await;
}

#[tokio::test]
async fn a_stream_ends_with_an_error_when_its_agent_is_lost() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    // More than the window holds, so that the stream is still open when the link is cut.
    agent.mock.set_lines(vec![line_of(60_000); 1_000]);
    let mut stream = followed(&hub).await;
    agent.link.cut();
    let mut last = None;
    while let Some(item) = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.unwrap() {
        last = Some(item);
    }
    let error: CallError = last.unwrap().unwrap_err();
    assert_eq!((error.code, error.effect), (Code::UnknownOutcome, Effect::None));
}

fn line_of(length: usize) -> LogLine {
    let text = "x".repeat(length);
    LogLine { unit: "u".into(), at_unix_ns: 1, source: LogSource::Stdout, text, partial: false }
}

/// A stream of which the first line has come.
async fn followed(hub: &Hub) -> ItemStream<LogLine> {
    let request =
        LogsRequest { app: "a".parse().unwrap(), unit: None, follow: true, since_unix_ms: None, tail: None };
    let mut stream = hub.connect("a").logs(&CallContext::new(), &request).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    stream
}
