//! What the metrics listener shows.

use towline_bus::transport::memory::MemoryBroker;

use crate::support::{TestHub, config, eventually, refused};

fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn x_m3_the_gauges_are_right_after_a_restart() {
    let (hub, dir) = TestHub::start().await;
    let (agent, _mock) = hub.agent("acme/shop").await;
    let metrics = hub.metrics().await;
    assert_eq!(value(&metrics, "towline_hub_instances{state=\"connected\"}"), Some(1.0), "{metrics}");
    assert_eq!(value(&metrics, "towline_hub_agents{version=\"1.2.3\"}"), Some(1.0), "{metrics}");
    assert!(!metrics.contains("shop"), "an instance id is no label");
    // No goodbye: as a crash of everything would have it.
    drop(agent);
    hub.stop().await;

    let hub = TestHub::start_on(&config(dir.path()), MemoryBroker::new()).await;
    let metrics = hub.metrics().await;
    assert_eq!(value(&metrics, "towline_hub_instances{state=\"connected\"}"), Some(0.0), "{metrics}");
    assert_eq!(value(&metrics, "towline_hub_instances{state=\"unreachable\"}"), Some(1.0), "{metrics}");
    assert!(!metrics.contains("1.2.3"), "a version that is gone leaves no gauge behind: {metrics}");
    hub.stop().await;
}

#[tokio::test]
async fn x_m1_calls_that_found_nobody_are_measured_and_errors_are_counted() {
    let (hub, _dir) = TestHub::start().await;
    refused(hub.get("/v1/instances/default/absent/ping"), 503).await;
    refused(hub.get("/nowhere"), 404).await;
    refused(hub.bare(reqwest::Method::GET, "/v1/instances"), 401).await;
    let metrics = hub.metrics().await;
    let calls = "towline_hub_call_duration_seconds_count{method=\"ping\",outcome=\"unavailable\"}";
    assert_eq!(value(&metrics, calls), Some(1.0), "{metrics}");
    for code in ["unavailable", "not_found", "unauthorized"] {
        assert_eq!(
            value(&metrics, &format!("towline_hub_api_errors_total{{code=\"{code}\"}}")),
            Some(1.0),
            "{metrics}"
        );
    }
    hub.stop().await;
}

#[tokio::test]
async fn versions_are_asked_for_regularly() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.version_ping_every = std::time::Duration::from_millis(40);
    let hub = TestHub::start_on(&config, MemoryBroker::new()).await;
    let (_agent, _mock) = hub.agent("acme/shop").await;
    eventually("three version pings", async || {
        value(&hub.metrics().await, "towline_hub_version_pings_total{outcome=\"ok\"}")
            .is_some_and(|count| count >= 3.0)
    })
    .await;
    hub.stop().await;
}
