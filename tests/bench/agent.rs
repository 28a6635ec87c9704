//! What an agent costs where it runs.

use std::process::{Command, Stdio};
use std::time::Duration;

use towline_tests::chain::{binary, instance};
use towline_tests::nats::{NatsServer, Proxy, free_port};

use super::calls::bus;
use super::children::Owned;
use super::report::{Bar, report, resident_bytes};

/// How long an idle agent is watched: thirty heartbeats, and four times the connection's own PING.
const WATCHED: Duration = Duration::from_secs(60);

const MEBIBYTE: f64 = 1_048_576.0;

pub(crate) async fn run(server: &NatsServer) {
    let program = binary("towline-agent");
    let size = std::fs::metadata(&program).unwrap().len();
    report("agent_binary", size as f64 / MEBIBYTE, "MiB", Bar::AtMost(15.0));
    let (data_dir, metrics) = (tempfile::tempdir().unwrap(), free_port());
    let wire = Proxy::before(server.address()).await;
    let agent = Command::new(program)
        .args(["--nats", &wire.url(), "--instance", "idle", "--metrics-listen"])
        .arg(format!("127.0.0.1:{metrics}"))
        .arg("--data-dir")
        .arg(data_dir.path())
        .arg("--mark-dir")
        .arg(data_dir.path().join("marks"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let agent = Owned(agent);
    let bus = bus(server).await;
    bus.await_presence(&instance("idle"), Duration::from_secs(30)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let wire_bytes = || wire.passed().iter().sum::<u64>() as f64;
    let before = [wire_bytes(), payload_bytes(metrics).await];
    tokio::time::sleep(WATCHED).await;
    let after = [wire_bytes(), payload_bytes(metrics).await];
    for (what, (before, after)) in ["wire", "payload"].iter().zip(before.into_iter().zip(after)) {
        let an_hour = (after - before) / WATCHED.as_secs_f64() * 3_600.0;
        report(&format!("agent_idle_{what}_per_hour"), an_hour / 1_024.0, "KiB", Bar::None);
    }
    report("agent_idle_resident", resident_bytes(agent.0.id()) as f64 / MEBIBYTE, "MiB", Bar::AtMost(25.0));
    bus.stop().await;
}

async fn payload_bytes(port: u16) -> f64 {
    let text = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with("towline_bus_payload_bytes{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
