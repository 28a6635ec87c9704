//! Large messages, and heartbeats beside them.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::limits;
use towline_tests::chain::instance;
use towline_tests::nats::NatsServer;

use super::calls::bus;
use super::children::spawn;
use super::report::{Bar, millis, percentile, report};

/// How long each size is transferred over and over: some heartbeats' worth.
const MEASURED: Duration = Duration::from_secs(12);

pub(crate) async fn run(server: &NatsServer) {
    let bus = bus(server).await;
    for mebibytes in [1_usize, 16, 64] {
        let name = format!("export{mebibytes}");
        let bytes = mebibytes << 20;
        let agent = spawn(&["agents", &server.url(), &name, "1", &bytes.to_string()]);
        let id = instance(&format!("{name}-0"));
        bus.await_presence(&id, Duration::from_secs(30)).await.unwrap();
        let remote = bus.connect(&id);
        let beside = tokio::spawn(heartbeat_delays(server.url(), format!("tl.e.default.{name}-0.heartbeat")));
        let (begun, mut samples) = (Instant::now(), Vec::new());
        while begun.elapsed() < MEASURED {
            let sent = Instant::now();
            let config = remote.export(&CallContext::new()).await.unwrap();
            samples.push(sent.elapsed());
            assert_eq!(config.len(), bytes);
        }
        let p50 = percentile(&mut samples, 0.5);
        report(&format!("export_{mebibytes}mib_p50"), millis(p50), "ms", Bar::None);
        let rate = f64::from(u32::try_from(mebibytes).unwrap()) / p50.as_secs_f64();
        report(&format!("export_{mebibytes}mib_rate"), rate, "MiB/s", Bar::None);
        let mut delays = beside.await.unwrap();
        let p99 = percentile(&mut delays, 0.99);
        report(&format!("export_{mebibytes}mib_heartbeat_delay_p99"), millis(p99), "ms", Bar::AtMost(200.0));
        drop(agent);
    }
    bus.stop().await;
}

/// By how much heartbeats came later than their interval, seen by a connection of its own.
async fn heartbeat_delays(url: String, subject: String) -> Vec<Duration> {
    let client = async_nats::connect(url).await.unwrap();
    let mut heartbeats = client.subscribe(subject).await.unwrap();
    let (begun, mut last, mut delays) = (Instant::now(), None::<Instant>, Vec::new());
    while begun.elapsed() < MEASURED {
        if tokio::time::timeout(MEASURED, heartbeats.next()).await.is_ok() {
            if let Some(last) = last {
                delays.push(last.elapsed().saturating_sub(limits::RENEW_EVERY));
            }
            last = Some(Instant::now());
        }
    }
    delays
}
