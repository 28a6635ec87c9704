//! A hub that stops and starts again, under agents that do not.

use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_tests::chain::{HubChain, instance};
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
async fn x_m1_m4_metrics_over_the_whole_chain() {
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
