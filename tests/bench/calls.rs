//! Calls: against raw NATS requests of the same bytes, and to nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use towline_bus::authority::MemoryAuthority;
use towline_bus::message_bus::BusConfig;
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::CallContext;
use towline_bus::{MessageBus, Platform as _, Remote};
use towline_protocol::Code;
use towline_protocol::platform::Service;
use towline_tests::chain::{HubChain, Wire, instance, nats_link};
use towline_tests::nats::NatsServer;

use super::children::{SERVICES, spawn};
use super::raw::{Raw, RawServices};
use super::report::{Bar, median, millis, percentile, report};

const PAIRS: usize = 5;
const MEASURED: Duration = Duration::from_millis(1_500);
pub(crate) const AWAITED: Duration = Duration::from_secs(30);

/// The hub's half of the bus, on a connection of its own.
pub(crate) async fn bus(server: &NatsServer) -> MessageBus {
    let link = nats_link(server.url()).await;
    let authority = Arc::new(MemoryAuthority::new());
    let metrics = BusMetrics::unregistered();
    let (bus, mut events) = MessageBus::start(link, authority, BusConfig::default(), metrics).await.unwrap();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    bus
}

/// Calls from so many tasks at once, for a while; the rate and the latencies.
pub(crate) async fn load<F, W>(at_once: usize, call: F) -> (f64, Vec<Duration>)
where
    F: Fn() -> W + Clone + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let begun = Instant::now();
    let until = begun + MEASURED;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let call = call.clone();
        tasks.spawn(async move {
            let mut samples = Vec::with_capacity(50_000);
            while Instant::now() < until {
                let sent = Instant::now();
                call().await;
                samples.push(sent.elapsed());
            }
            samples
        });
    }
    let samples: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    (samples.len() as f64 / begun.elapsed().as_secs_f64(), samples)
}

/// Both sides of a pair, one after the other, and the other first every second time: what goes first finds the machine
/// cooler, and what goes second finds it warmed up.
async fn in_turn<A, B>(pair: usize, a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    if pair.is_multiple_of(2) {
        let a = a.await;
        (a, b.await)
    } else {
        let b = b.await;
        (a.await, b)
    }
}

pub(crate) async fn pings(remote: &Remote, at_once: usize) -> (f64, Vec<Duration>) {
    let remote = remote.clone();
    load(at_once, move || {
        let remote = remote.clone();
        async move { remote.ping(&CallContext::new()).await.unwrap() }
    })
    .await
}

pub(crate) async fn run(server: &NatsServer) {
    let bus = bus(server).await;
    let _agent = spawn(&["agents", &server.url(), "call", "1", "0"]);
    bus.await_presence(&instance("call-0"), AWAITED).await.unwrap();
    let remote = bus.connect(&instance("call-0"));
    let raw = Raw::start(server).await;
    for at_once in [1, 64, 256] {
        let (mut rates, mut p50s) = (Vec::new(), Vec::new());
        let mut own = (0.0, Duration::ZERO);
        for pair in 0..PAIRS {
            let ((raw_rate, mut raw_samples), (rate, mut samples)) =
                in_turn(pair, raw.requests(at_once), pings(&remote, at_once)).await;
            let (p50, raw_p50) = (percentile(&mut samples, 0.5), percentile(&mut raw_samples, 0.5));
            rates.push(rate / raw_rate);
            p50s.push(p50.as_secs_f64() / raw_p50.as_secs_f64());
            own = (rate, p50);
        }
        report(&format!("call_rate_ratio_{at_once}"), median(&mut rates), "ratio", Bar::AtLeast(0.85));
        report(&format!("call_p50_ratio_{at_once}"), median(&mut p50s), "ratio", Bar::AtMost(1.2));
        report(&format!("call_rate_{at_once}"), own.0, "calls/s", Bar::None);
        report(&format!("call_p50_{at_once}"), millis(own.1), "ms", Bar::None);
    }
    bus.stop().await;
    http().await;
}

/// A call whose answer is large, and is compressed.
pub(crate) async fn services(server: &NatsServer) {
    let bus = bus(server).await;
    let _agent = spawn(&["agents", &server.url(), "services", "1", "0"]);
    bus.await_presence(&instance("services-0"), AWAITED).await.unwrap();
    let remote = bus.connect(&instance("services-0"));
    let raw = RawServices::start(server).await;
    let (mut samples, mut ratios) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let services =
            async || remote.all_services(&CallContext::new(), None, &Default::default()).await.unwrap();
        let (mut own, mut bare) = in_turn(pair, timed(services), timed(async || raw.ask().await)).await;
        ratios.push(percentile(&mut own, 0.5).as_secs_f64() / percentile(&mut bare, 0.5).as_secs_f64());
        samples.extend(own);
    }
    report("all_services_1000_p50", millis(percentile(&mut samples, 0.5)), "ms", Bar::AtMost(1.5));
    report("all_services_1000_p50_ratio", median(&mut ratios), "ratio", Bar::AtMost(1.2));
    bus.stop().await;
}

/// How long it takes to be given a thousand services, again and again.
async fn timed(ask: impl AsyncFn() -> Vec<Service>) -> Vec<Duration> {
    let mut samples = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        let services = ask().await;
        samples.push(begun.elapsed());
        assert_eq!(services.len(), SERVICES);
    }
    samples
}

/// The same call over the HTTP API, against the bus within.
async fn http() {
    let hub = HubChain::start_over(Wire::nats().await).await;
    let (_mock, subscription) = hub.mock("http").await;
    let remote = hub.bus.connect(&instance("http"));
    let platform = hub.platform("http");
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let near = platform.clone();
        let over_http = load(16, move || {
            let near = near.clone();
            async move { near.ping(&CallContext::new()).await.unwrap() }
        });
        let ((_, mut direct), (_, mut over_http)) = in_turn(pair, pings(&remote, 16), over_http).await;
        let ratio =
            percentile(&mut over_http, 0.5).as_secs_f64() / percentile(&mut direct, 0.5).as_secs_f64();
        ratios.push(ratio);
    }
    report("http_call_p50_ratio_16", median(&mut ratios), "ratio", Bar::None);
    subscription.leave().await;
    hub.stop().await;
}

/// Calls to instances that nobody serves.
pub(crate) async fn absence(server: &NatsServer) {
    let bus = bus(server).await;
    let never = bus.connect(&instance("never-seen"));
    report("absent_never_seen_p99", millis(refusals(&never).await), "ms", Bar::AtMost(5.0));
    let agent = spawn(&["agents", &server.url(), "gone", "1", "0"]);
    bus.await_presence(&instance("gone-0"), AWAITED).await.unwrap();
    let remote = bus.connect(&instance("gone-0"));
    drop(agent);
    // Until presence notices, the bus itself says that nobody listens.
    while remote.ping(&CallContext::new().within(Duration::from_millis(200))).await.is_ok() {}
    tokio::time::sleep(Duration::from_millis(200)).await;
    report("absent_vanished_p99", millis(refusals(&remote).await), "ms", Bar::AtMost(5.0));
    bus.stop().await;
}

async fn refusals(remote: &Remote) -> Duration {
    let mut samples = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        let error = remote.ping(&CallContext::new()).await.unwrap_err();
        samples.push(begun.elapsed());
        assert_eq!(error.code, Code::Unavailable);
    }
    percentile(&mut samples, 0.99)
}
