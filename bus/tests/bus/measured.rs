//! What is counted, and how.

use std::time::Duration;

use prometheus::Registry;
use prometheus::core::Collector as _;
use towline_bus::Platform as _;
use towline_bus::metrics::{BusMetrics, CALL_SECONDS_BUCKETS};
use towline_bus::platform::{CallContext, Instrumented, MockPlatform, PlatformMetrics};
use towline_protocol::session::ClaimMode;
use towline_protocol::{CallError, Code, Method, limits};

use super::fixture::{Hub, eventually};

fn count(metrics: &BusMetrics, method: &str, outcome: &str) -> u64 {
    metrics.call_seconds.all.with_label_values(&[method, outcome]).get_sample_count()
}

#[tokio::test]
async fn x_m1_calls_are_measured_at_the_caller() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    hub.connect("a").ping(&CallContext::new()).await.unwrap();
    hub.connect("nobody").ping(&CallContext::new()).await.unwrap_err();
    agent.mock.delay(Method::Export, Duration::from_secs(3600));
    let cx = CallContext::new().within(Duration::from_millis(20));
    hub.connect("a").export(&cx).await.unwrap_err();
    agent.mock.fail(Method::Sync, Some(CallError::new(Code::Other("from_the_future".into()), "x")));
    hub.connect("a").sync(&CallContext::new(), &[]).await.unwrap_err();
    assert_eq!(count(&hub.metrics, "ping", "ok"), 1);
    assert_eq!(count(&hub.metrics, "ping", "unavailable"), 1);
    assert_eq!(count(&hub.metrics, "export", "unknown_outcome"), 1);
    assert_eq!(count(&hub.metrics, "sync", "other"), 1, "a newer peer's code does not grow the label");
    for family in hub.metrics.call_seconds.all.collect() {
        for metric in family.get_metric() {
            let names: Vec<_> = metric.get_label().iter().map(|label| label.name().to_owned()).collect();
            assert_eq!(names, ["method", "outcome"], "never an instance id");
        }
    }
}

#[test]
fn x_m2_buckets_reach_the_longest_call() {
    assert!(CALL_SECONDS_BUCKETS.is_sorted());
    assert!(CALL_SECONDS_BUCKETS.last().copied() >= Some(limits::CALL_TIME_MAX.as_secs_f64()));
    assert!(CALL_SECONDS_BUCKETS.first().copied() <= Some(0.001));
}

#[tokio::test]
async fn the_agents_side_is_measured_too() {
    let registry = Registry::new();
    let mock = MockPlatform::new();
    let platform =
        Instrumented::new(std::sync::Arc::new(mock.clone()), PlatformMetrics::register(&registry).unwrap());
    platform.ping(&CallContext::new()).await.unwrap();
    mock.fail(Method::Ping, Some(CallError::new(Code::Cluster, "no")));
    platform.ping(&CallContext::new()).await.unwrap_err();
    let families = registry.gather();
    assert_eq!(families.len(), 1);
    assert_eq!(families[0].name(), "towline_platform_call_duration_seconds");
    assert_eq!(families[0].get_metric().len(), 2);
}

/// That none goes back is x_m4 over the whole chain; here, that each counts what it is named after, once.
#[tokio::test]
async fn x_m4_disturbances_are_counted_once() {
    let hub = Hub::start().await;
    let first = hub.serving("a").await;
    hub.connect("a").ping(&CallContext::new()).await.unwrap();
    let second = hub.agent("a", ClaimMode::Fresh).await;
    second.await_serving().await;
    eventually("the first is kicked", || hub.metrics.kicks.get() == 1).await;
    drop(first);
    hub.link.cut();
    hub.link.join();
    eventually("the hub is back", || hub.metrics.reconnects.get() == 1).await;
    hub.connect("a").ping(&CallContext::new()).await.unwrap();
    assert_eq!((hub.metrics.kicks.get(), hub.metrics.reconnects.get()), (1, 1));
    assert_eq!(count(&hub.metrics, "ping", "ok"), 2);
}
