//! Calls that nobody answers: N-B1, N-B3, N-B17.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use towline_bus::exchange::{Caller, Destination};
use towline_bus::metrics::BusMetrics;
use towline_bus::task::Tasks;
use towline_bus::transport::LinkState;
use towline_bus::transport::nats::NatsTransport;
use towline_bus::{CallContext, Platform as _, Transport};
use towline_protocol::platform::PingRequest;
use towline_protocol::subject::{Pattern, Root};
use towline_protocol::{Code, Effect, Epoch, Method, ReplicaId, limits};
use towline_tests::chain::{HubChain, Wire, instance};
use towline_tests::nats::NatsServer;
use towline_tests::wait::{PATIENCE, until};
use uuid::Uuid;

use super::{await_link, connect, in_time, is_own_process, publish, subscribe};

/// async-nats' own `request` would have kept 355 bytes of each of these calls, for ever: 35 MB.
#[test]
fn n_b1_calls_without_an_answer_leave_nothing_behind() {
    if is_own_process("calls::n_b1_calls_without_an_answer_leave_nothing_behind", &[]) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(call_in_vain());
    }
}

async fn call_in_vain() {
    let server = NatsServer::start("").await;
    let (hub, agent) = (connect(server.url()).await, connect(server.url()).await);
    let to = Destination { instance: instance("a"), epoch: Epoch::new(1).unwrap() };
    let calls = Pattern::Calls { instance: to.instance.clone(), epoch: to.epoch };
    let mut heard = subscribe(&agent, &Root::default().pattern(&calls)).await;
    let tasks = Tasks::new();
    tasks.spawn("silence", async move { while heard.next().await.is_some() {} });
    let metrics = BusMetrics::unregistered();
    let replica = ReplicaId::new(Uuid::new_v4());
    let caller = Caller::start(hub, Root::default(), replica, metrics.clone(), tasks.clone(), |_, _| ());
    let caller = caller.await.unwrap();
    let lost = Arc::new(AtomicUsize::new(0));
    let batch = async |calls: usize| {
        let mut callers = tokio::task::JoinSet::new();
        const AT_ONCE: usize = 200;
        for _ in 0..AT_ONCE {
            let (caller, to, lost) = (caller.clone(), to.clone(), lost.clone());
            callers.spawn(async move {
                for _ in 0..calls / AT_ONCE {
                    let cx = CallContext::new().within(Duration::from_millis(2));
                    let error = caller.call(&to, &cx, &PingRequest {}).await.unwrap_err();
                    lost.fetch_add(usize::from(error.code == Code::UnknownOutcome), Ordering::Relaxed);
                    // Until its subscription stands, nobody is there; and some are not even sent in this time.
                    let is_else = error.effect == Effect::None
                        && matches!(error.code, Code::Unavailable | Code::Expired);
                    assert!(error.code == Code::UnknownOutcome || is_else, "{error:?}");
                }
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
    };
    // Queues and allocator get their size first.
    batch(10_000).await;
    let before = resident_bytes();
    batch(100_000).await;
    let grown = resident_bytes().saturating_sub(before);
    assert_eq!(metrics.in_flight.get(), 0, "every call was forgotten");
    assert!(lost.load(Ordering::Relaxed) > 50_000, "most are sent");
    assert!(grown < 12 << 20, "100,000 calls without an answer left {grown} bytes");
    tasks.stopping().cancel();
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    // Only growth counts, and only roughly: pages have at least this size.
    pages * 4_096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b3_calls_under_way_fail_with_the_connection() {
    let hub = HubChain::start_over(Wire::nats().await).await;
    let (mock, _subscription) = hub.mock("a").await;
    mock.delay(Method::Apply, Duration::from_secs(3_600));
    mock.delay(Method::Export, Duration::from_secs(3_600));
    let remote = hub.bus.connect(&instance("a"));
    let (applying, exporting) = (remote.clone(), remote);
    let applying = tokio::task::spawn(async move { applying.apply(&CallContext::new(), &[]).await });
    let exporting = tokio::task::spawn(async move { exporting.export(&CallContext::new()).await });
    until("the apply to begin", || async { (!mock.executed().is_empty()).then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    hub.wire.server().kill();
    let begun = tokio::time::Instant::now();
    let applied = in_time("the apply", applying).await.unwrap().unwrap_err();
    let exported = in_time("the export", exporting).await.unwrap().unwrap_err();
    assert!(begun.elapsed() < limits::CALL_SILENCE_MAX, "silence told it first: {:?}", begun.elapsed());
    assert_eq!((applied.code, applied.effect), (Code::UnknownOutcome, Effect::Unknown));
    assert_eq!((exported.code, exported.effect), (Code::UnknownOutcome, Effect::None), "it only reads");
}

/// A server that is frozen, or a network that swallows everything: no connection ends, and none is answered. Pings notice
/// that in 45 s; calls do not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b17_calls_through_a_frozen_server_end_by_themselves() {
    let hub = HubChain::start_over(Wire::nats().await).await;
    let (_mock, _subscription) = hub.mock("a").await;
    let remote = hub.bus.connect(&instance("a"));
    hub.wire.server().freeze();
    let begun = tokio::time::Instant::now();
    let cx = CallContext::new().within(Duration::from_secs(60));
    let error = in_time("a call through a frozen server", remote.ping(&cx)).await.unwrap_err();
    let elapsed = begun.elapsed();
    assert_eq!(error.code, Code::UnknownOutcome, "{error:?}");
    assert!(elapsed < 5 * limits::CALL_SILENCE_MAX, "it took {elapsed:?}");
    until("the instance counts as unreachable", || async {
        let begun = tokio::time::Instant::now();
        let error = remote.ping(&CallContext::new().within(Duration::from_secs(1))).await.err()?;
        (error.code == Code::Unavailable && begun.elapsed() < Duration::from_millis(100)).then_some(())
    })
    .await;
    hub.wire.server().thaw();
    hub.bus.await_presence(&instance("a"), PATIENCE).await.unwrap();
    until("it serves again", || async { remote.ping(&CallContext::new()).await.ok() }).await;
    hub.stop().await;
}

/// Publishes so many messages of so many bytes at once, and counts those that are refused. All end in time.
async fn refused_of(link: &Arc<NatsTransport>, messages: usize, bytes: usize) -> usize {
    let mut publishing = tokio::task::JoinSet::new();
    let payload = bytes::Bytes::from(vec![7; bytes]);
    for _ in 0..messages {
        let (link, payload) = (link.clone(), payload.clone());
        publishing.spawn(async move { publish(&link, "frozen", payload).await });
    }
    let mut refused = 0;
    while let Some(published) = in_time("publishing to end", publishing.join_next()).await {
        refused += usize::from(published.unwrap().is_err());
    }
    refused
}

/// What a frozen server does not take fills the socket, then the client's queue; then publishing fails, in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b17_publishing_to_a_frozen_server_ends_in_time() {
    let server = NatsServer::start("").await;
    let link = connect(server.url()).await;
    server.freeze();
    let begun = tokio::time::Instant::now();
    // Large enough to fill everything, and not so large as to wait for a turn before it.
    let refused = refused_of(&link, 3_000, 31 << 10).await;
    assert!(begun.elapsed() < Duration::from_secs(25), "it took {:?}", begun.elapsed());
    assert!(refused > 0, "90 MiB do not fit into a socket and two queues of 1,024 messages");
    let closing = tokio::time::Instant::now();
    link.close().await;
    assert!(closing.elapsed() < Duration::from_secs(25), "closing took {:?}", closing.elapsed());
    server.thaw();
}

/// The connection itself: three intervals of pings, of 15 s. async-nats by itself takes three minutes.
#[tokio::test]
async fn n_b17_pings_notice_a_frozen_server() {
    let server = NatsServer::start("").await;
    let link = connect(server.url()).await;
    server.freeze();
    let mut state = link.link();
    let noticing = state.wait_for(|state| *state == LinkState::Disconnected);
    tokio::time::timeout(Duration::from_secs(90), noticing).await.expect("pings notice it").unwrap();
    server.thaw();
    await_link(&link, LinkState::Connected).await;
}

/// The same for large ones, which wait for their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b17_large_messages_to_a_frozen_server_end_in_time() {
    let server = NatsServer::start("").await;
    let link = connect(server.url()).await;
    server.freeze();
    let refused = refused_of(&link, 300, limits::FRAME_BODY_BYTES_MAX).await;
    assert!(refused > 0, "37 MiB do not fit into a socket and sixteen places");
    server.thaw();
}

/// A handshake that is never answered holds up nothing but itself: the other server is tried.
#[tokio::test]
async fn n_b17_a_frozen_server_is_passed_over() {
    let (frozen, living) = (NatsServer::start("").await, NatsServer::start("").await);
    frozen.freeze();
    let mut config = super::config(frozen.url());
    config.servers.push(living.url());
    let link = super::connect_with(&config).await;
    publish(&link, "anything", "").await.unwrap();
    living.kill();
    await_link(&link, LinkState::Disconnected).await;
    frozen.thaw();
    await_link(&link, LinkState::Connected).await;
    let _: Arc<dyn Transport> = link;
}
