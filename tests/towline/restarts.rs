//! A hub that stops and starts again, under agents that do not.

use std::collections::BTreeMap;

use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_tests::chain::{HubChain, Wire, instance};
use towline_tests::wait::{PATIENCE, until};

const CONNECTED: &str = "towline_hub_instances{state=\"connected\"}";
const UNREACHABLE: &str = "towline_hub_instances{state=\"unreachable\"}";

#[tokio::test]
async fn x_m3_the_gauge_is_right_after_a_restart() {
    let hub = HubChain::start().await;
    let (_, first) = hub.mock("a").await;
    let (_, _second) = hub.mock("b").await;
    assert_eq!(hub.metric(CONNECTED).await, Some(2.0));
    let epochs = |hub: &HubChain| {
        [hub.bus.instance(&instance("a")), hub.bus.instance(&instance("b"))].map(|view| view.unwrap().epoch)
    };
    let before = epochs(&hub);
    let (wire, data_dir) = hub.stop().await;
    first.leave().await;
    let hub = HubChain::start_on(wire, data_dir).await;
    hub.bus.await_presence(&instance("b"), PATIENCE).await.unwrap();
    assert_eq!((hub.metric(CONNECTED).await, hub.metric(UNREACHABLE).await), (Some(1.0), Some(1.0)));
    assert_eq!(epochs(&hub), before, "whoever stayed keeps its epoch");
    hub.platform("b").ping(&CallContext::new()).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn epochs_never_go_back_over_restarts() {
    let mut hub = HubChain::start().await;
    let mut last = None;
    for _ in 0..3 {
        let (_, subscription) = hub.mock("a").await;
        let epoch = hub.bus.instance(&instance("a")).unwrap().epoch;
        assert!(epoch > last, "{epoch:?} after {last:?}");
        last = epoch;
        subscription.leave().await;
        let (wire, data_dir) = hub.stop().await;
        hub = HubChain::start_on(wire, data_dir).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn x_m1_metrics_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let (_, subscription) = hub.mock("a").await;
    hub.platform("a").ping(&CallContext::new()).await.unwrap();
    let _ = hub.platform("a").ping(&CallContext::new()).await;
    subscription.leave().await;
    until("it is gone", || async { (hub.metric(UNREACHABLE).await == Some(1.0)).then_some(()) }).await;
    hub.platform("a").ping(&CallContext::new()).await.unwrap_err();
    let text = hub.metrics().await;
    assert!(
        text.contains("towline_hub_call_duration_seconds_count{method=\"ping\",outcome=\"unavailable\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("towline_hub_call_duration_seconds_bucket{method=\"ping\",outcome=\"ok\",le=\"1200\"}"),
        "{text}"
    );
    assert!(!text.contains("default/a") && !text.contains("instance="), "no label names an instance: {text}");
    hub.stop().await;
}

/// Every series of one process that only counts up: counters, and the counts and buckets of histograms.
async fn counters(hub: &HubChain) -> BTreeMap<String, u64> {
    let text = hub.metrics().await;
    let counts = |name: &str| ["_total", "_count", "_bucket", "_bytes"].iter().any(|end| name.ends_with(end));
    let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        counts(series.split('{').next()?).then_some((series.to_owned(), value))
    });
    series.map(|(series, value)| (series, value.parse().expect("it counts in whole numbers"))).collect()
}

#[tokio::test]
async fn x_m4_no_counter_goes_back() {
    let hub = HubChain::start_over(Wire::nats().await).await;
    let mut before = counters(&hub).await;
    for round in 1..=2 {
        let (_, _first) = hub.mock("a").await;
        let (_, second) = hub.mock("a").await;
        until("the newest wins", || async {
            (hub.metric("towline_bus_kicks_total").await >= Some(f64::from(round))).then_some(())
        })
        .await;
        hub.wire.server().restart().await;
        until("calls pass again", || async { hub.platform("a").ping(&CallContext::new()).await.ok() }).await;
        second.leave().await;
        until("it is gone", || async { hub.platform("a").ping(&CallContext::new()).await.err() }).await;
        let after = counters(&hub).await;
        for (series, value) in &before {
            let now = after.get(series);
            assert!(now >= Some(value), "{series} was {value}, and is {now:?}");
        }
        assert!(after["towline_bus_reconnects_total"] > before["towline_bus_reconnects_total"]);
        before = after;
    }
    hub.stop().await;
}
