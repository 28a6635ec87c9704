//! Large messages, and heartbeats beside them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use towline_bus::message_bus::PresenceView;
use towline_bus::platform::CallContext;
use towline_bus::{MessageBus, Platform as _};
use towline_protocol::{InstanceId, limits};
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

/// An age is told in whole milliseconds: a heartbeat that is seen twice seems to have come at two moments, this close at most.
const SAME_HEARTBEAT: Duration = Duration::from_millis(500);

pub(crate) async fn run(server: &NatsServer) {
    let bus = bus(server).await;
    for mebibytes in [1_usize, 16, 64] {
        let name = format!("export{mebibytes}");
        let bytes = mebibytes << 20;
        let agent = spawn(&["agents", &server.url(), &name, &AGENTS.to_string(), &bytes.to_string()]);
        let mut agents: HashSet<_> =
            (0..AGENTS).map(|number| instance(&format!("{name}-{number}"))).collect();
        for id in &agents {
            bus.await_presence(id, Duration::from_secs(30)).await.unwrap();
        }
        let exporting = instance(&format!("{name}-0"));
        let remote = bus.connect(&exporting);
        // It is heard by each of its frames.
        agents.remove(&exporting);
        let beside = tokio::spawn(heartbeat_delays(bus.clone(), agents));
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

/// By how much heartbeats of these agents came later than their interval, where the hub hears them: behind the transfer that it
/// receives itself.
async fn heartbeat_delays(bus: MessageBus, agents: HashSet<InstanceId>) -> Vec<Duration> {
    // A fraction of an interval: no heartbeat falls between two looks.
    let mut looks = tokio::time::interval(limits::RENEW_EVERY / 20);
    let (begun, mut last, mut delays) = (Instant::now(), HashMap::new(), Vec::new());
    while begun.elapsed() < MEASURED {
        looks.tick().await;
        let now = Instant::now();
        for view in bus.instances() {
            let PresenceView::Connected { last_heard_ms_ago, .. } = view.presence else { continue };
            if !agents.contains(&view.instance) {
                continue;
            }
            let heard = now - Duration::from_millis(last_heard_ms_ago);
            let before = last.entry(view.instance).or_insert(heard);
            if heard > *before + SAME_HEARTBEAT {
                delays.push((heard - *before).saturating_sub(limits::RENEW_EVERY));
                *before = heard;
            }
        }
    }
    delays
}
