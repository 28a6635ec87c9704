//! Many instances at once, and one that is taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_bus::transport::LinkState;
use towline_tests::chain::{HubChain, Wire, binary, instance};
use towline_tests::nats::{NatsServer, free_port};
use towline_tests::wait::until;

use super::calls::bus;
use super::children::{Owned, spawn};
use super::report::{Bar, millis, percentile, report, resident_bytes};

const INSTANCES: usize = 5_000;
const AT_ONCE: usize = 64;

/// Calls round-robin over 5,000 instances, and what each of them costs the real hub in memory.
pub(crate) async fn run(server: &NatsServer) {
    let data_dir = tempfile::tempdir().unwrap();
    let metrics = free_port();
    let hub = std::process::Command::new(binary("towline-hub"))
        .args(["--nats", &server.url(), "--listen", "127.0.0.1:0", "--metrics-listen"])
        .arg(format!("127.0.0.1:{metrics}"))
        .arg("--data-dir")
        .arg(data_dir.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let hub = Owned(hub);
    let connected = async || {
        let url = format!("http://127.0.0.1:{metrics}/metrics");
        let text = reqwest::get(url).await.ok()?.text().await.ok()?;
        let line =
            text.lines().find(|line| line.starts_with("towline_hub_instances{state=\"connected\"}"))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    until("the hub's metrics", &connected).await;
    let before = resident_bytes(hub.0.id());
    let begun = Instant::now();
    let _agents = spawn(&["agents", &server.url(), "fleet", &INSTANCES.to_string(), "0"]);
    let all = INSTANCES as f64;
    while connected().await != Some(all) {
        assert!(begun.elapsed() < Duration::from_secs(120), "{:?} of {all} connected", connected().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    report("fleet_5000_connect", begun.elapsed().as_secs_f64(), "s", Bar::None);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let grown = resident_bytes(hub.0.id()).saturating_sub(before);
    report("hub_memory_per_instance_5000", grown as f64 / all / 1_024.0, "KiB", Bar::AtMost(8.0));
    drop(hub);
    round_robin(server).await;
}

async fn round_robin(server: &NatsServer) {
    // The agents of the hub that is gone claim from this one.
    let bus = bus(server).await;
    let awaited = Instant::now();
    while bus.instances().iter().filter(|view| bus.connect(&view.instance).is_connected()).count() < INSTANCES
    {
        assert!(awaited.elapsed() < Duration::from_secs(120), "the fleet did not come over");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let (begun, mut tasks) = (Instant::now(), tokio::task::JoinSet::new());
    for _ in 0..AT_ONCE {
        let (bus, next) = (bus.clone(), next.clone());
        tasks.spawn(async move {
            let mut samples = Vec::new();
            while begun.elapsed() < Duration::from_secs(5) {
                let number = next.fetch_add(1, Ordering::Relaxed) % INSTANCES;
                let remote = bus.connect(&instance(&format!("fleet-{number}")));
                let sent = Instant::now();
                remote.ping(&CallContext::new()).await.unwrap();
                samples.push(sent.elapsed());
            }
            samples
        });
    }
    let mut samples: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let rate = samples.len() as f64 / begun.elapsed().as_secs_f64();
    report("fleet_5000_round_robin_64_rate", rate, "calls/s", Bar::None);
    report("fleet_5000_round_robin_64_p50", millis(percentile(&mut samples, 0.5)), "ms", Bar::None);
    report("fleet_5000_round_robin_64_p99", millis(percentile(&mut samples, 0.99)), "ms", Bar::None);
    bus.stop().await;
}

/// A newer subscription takes over: from its claim to its go, and of that what follows once the older one has heard its
/// kick. An agent ends with the kick, and says so to the hub; the go comes of that.
pub(crate) async fn takeover(_server: &NatsServer) {
    let hub = HubChain::start_over(Wire::nats().await).await;
    let (mut from_claim, mut from_kick) = (Vec::new(), Vec::new());
    for round in 0..30 {
        let name = format!("takeover-{round}");
        let (_, mut older) = hub.mock(&name).await;
        // Connecting is not what is measured.
        let link = hub.wire.agent_link(&name).await;
        link.link().wait_for(|state| *state == LinkState::Connected).await.unwrap();
        // It may hear its kick before the newer subscription is handed to us.
        let kicked = tokio::spawn(async move {
            older.ended().await;
            Instant::now()
        });
        let begun = Instant::now();
        let (_, newer) = hub.mock_over(link, &name).await;
        let mut serving = newer.serving();
        serving.wait_for(Option::is_some).await.unwrap();
        let gone = Instant::now();
        from_claim.push(gone - begun);
        from_kick.push(gone.saturating_duration_since(kicked.await.unwrap()));
        newer.leave().await;
    }
    for (what, mut samples) in [("kick_to_go", from_kick), ("claim_to_go", from_claim)] {
        report(&format!("takeover_{what}_p50"), millis(percentile(&mut samples, 0.5)), "ms", Bar::None);
    }
    hub.stop().await;
}
