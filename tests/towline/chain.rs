//! The battery over the whole chain: HTTP API → hub → bus → agent, with the mock at its end.

use std::time::Duration;

use towline_bus::Platform as _;
use towline_bus::platform::{BATTERY, CallContext, Ends};
use towline_bus::session::EndReason;
use towline_protocol::{CallError, Code, Method};
use towline_tests::chain::{HubChain, Wire};
use towline_tests::wait::{PATIENCE, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b1_to_b18_over_the_whole_chain() {
    battery_over(HubChain::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b1_to_b18_over_the_whole_chain_on_nats() {
    battery_over(HubChain::start_over(Wire::nats().await).await).await;
}

async fn battery_over(hub: HubChain) {
    let (mock, subscription) = hub.mock("battery").await;
    let near = hub.platform("battery");
    for case in BATTERY {
        case.run(Ends { near: &near, far: &mock }).await;
    }
    subscription.leave().await;
    hub.stop().await;
}

#[tokio::test]
async fn x_b13_a_fatal_error_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let (mock, mut subscription) = hub.mock("a").await;
    let fatal = CallError::new(Code::Fatal, "the runtime is gone");
    mock.fail(Method::Ping, Some(fatal.clone()));
    let error = hub.platform("a").ping(&CallContext::new()).await.unwrap_err();
    assert!(error.is_fatal(), "the caller sees that it was fatal: {error:?}");
    let reason = tokio::time::timeout(PATIENCE, subscription.ended()).await.unwrap();
    assert_eq!(reason, EndReason::Fatal(fatal));
    hub.stop().await;
}

#[tokio::test]
async fn x_b14_an_application_error_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let (mock, subscription) = hub.mock("a").await;
    let problem = CallError::new(Code::Cluster, "ping problem");
    mock.fail(Method::Ping, Some(problem.clone()));
    for _ in 0..3 {
        assert_eq!(hub.platform("a").ping(&CallContext::new()).await, Err(problem.clone()));
    }
    mock.fail(Method::Ping, None);
    hub.platform("a").ping(&CallContext::new()).await.unwrap();
    subscription.leave().await;
    hub.stop().await;
}

#[tokio::test]
async fn x_a1_absence_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let begun = tokio::time::Instant::now();
    let error = hub.platform("nobody").ping(&CallContext::new()).await.unwrap_err();
    assert!(matches!(error.code, Code::Unavailable | Code::NotFound), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    let (_, subscription) = hub.mock("a").await;
    subscription.leave().await;
    until("goodbye is believed", || async {
        (!hub.bus.connect(&"a".parse().unwrap()).is_connected()).then_some(())
    })
    .await;
    let error = hub.platform("a").ping(&CallContext::new()).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_a3_a_burst_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let (mock, subscription) = hub.mock("a").await;
    mock.set_version("1");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let platform = hub.platform("a");
        calls.spawn(async move { platform.version(&CallContext::new()).await });
    }
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().as_deref(), Ok("1"));
    }
    subscription.leave().await;
    hub.stop().await;
}

/// A mutating call whose caller went away is not cut off: it is done, once, and a retry with the same key learns so.
#[tokio::test]
async fn a_lost_caller_does_not_cut_off_what_changes_things() {
    let hub = HubChain::start().await;
    let (mock, subscription) = hub.mock("a").await;
    mock.delay(Method::Sync, Duration::from_millis(300));
    let platform = hub.platform("a");
    let cx = CallContext::new();
    let lost = tokio::time::timeout(Duration::from_millis(100), platform.sync(&cx, &[])).await;
    assert!(lost.is_err(), "the caller went away before the answer");
    until("the work is done", || async { (!mock.executed().is_empty()).then_some(()) }).await;
    assert_eq!(mock.executed(), [cx.id]);
    subscription.leave().await;
    hub.stop().await;
}
