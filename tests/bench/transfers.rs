//! Large messages, and heartbeats beside them.

use std::collections::HashMap;
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
const MEASURED: Duration = Duration::from_secs(20);

/// Agents on the connection that carries the transfers, of which one exports: with each beating nine times there are enough
/// heartbeats for a p99 that is not the worst of a handful.
const AGENTS: usize = 64;

pub(crate) async fn run(server: &NatsServer) {
    let bus = bus(server).await;
    for mebibytes in [1_usize, 16, 64] {
        let name = format!("export{mebibytes}");
        let bytes = mebibytes << 20;
        let agent = spawn(&["agents", &server.url(), &name, &AGENTS.to_string(), &bytes.to_string()]);
        for number in 0..AGENTS {
            let id = instance(&format!("{name}-{number}"));
            bus.await_presence(&id, Duration::from_secs(30)).await.unwrap();
        }
        let remote = bus.connect(&instance(&format!("{name}-0")));
        let beside = tokio::spawn(heartbeat_delays(server.url(), format!(".{name}-")));
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
        report(&format!("export_{mebibytes}mib_heartbeats"), delays.len() as f64, "heartbeats", Bar::None);
        let p99 = percentile(&mut delays, 0.99);
        report(&format!("export_{mebibytes}mib_heartbeat_delay_p99"), millis(p99), "ms", Bar::AtMost(200.0));
        drop(agent);
    }
    bus.stop().await;
}

/// By how much heartbeats came later than their interval, of all agents whose subjects contain `part`; seen by a connection
/// of its own.
async fn heartbeat_delays(url: String, part: String) -> Vec<Duration> {
    let client = async_nats::connect(url).await.unwrap();
    let mut heartbeats = client.subscribe("tl.e.default.*.heartbeat").await.unwrap();
    let (begun, mut last, mut delays) = (Instant::now(), HashMap::new(), Vec::new());
    while begun.elapsed() < MEASURED {
        let heard = tokio::time::timeout(MEASURED, heartbeats.next()).await;
        if let Ok(Some(heartbeat)) = heard
            && heartbeat.subject.contains(&part)
        {
            let now = Instant::now();
            if let Some(last) = last.insert(heartbeat.subject.to_string(), now) {
                delays.push((now - last).saturating_sub(limits::RENEW_EVERY));
            }
        }
    }
    delays
}
