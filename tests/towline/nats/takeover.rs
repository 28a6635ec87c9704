//! Who serves, over a real nats-server.

use std::sync::Arc;
use std::time::Duration;

use towline_bus::Platform as _;
use towline_bus::platform::{CallContext, MockPlatform};
use towline_bus::session::EndReason;
use towline_bus::subscription::ActiveSubscription;
use towline_protocol::{Code, Method};
use towline_tests::chain::{HubChain, Wire};
use towline_tests::wait::{PATIENCE, until};

/// How long a kicked subscription may take to end. Waited for five times as long, for machines stutter.
const KICKED_WITHIN: Duration = Duration::from_secs(1);

async fn hub() -> HubChain {
    HubChain::start_over(Wire::nats().await).await
}

async fn await_serving(subscription: &ActiveSubscription) {
    let mut serving = subscription.serving();
    let waited = tokio::time::timeout(PATIENCE, serving.wait_for(Option::is_some)).await;
    assert!(matches!(waited, Ok(Ok(_))), "it never served");
}

#[tokio::test]
async fn x_k1_x_k5_the_newer_subscription_serves_on_nats() {
    let hub = hub().await;
    let (_, mut first) = hub.mock("a").await;
    let (mock, second) = hub.mock("a").await;
    let ended = tokio::time::timeout(KICKED_WITHIN * 5, first.ended()).await;
    await_serving(&second).await;
    let by = *second.serving().borrow();
    assert_eq!(ended, Ok(EndReason::Kicked { by }), "it ends in time, and names the newer one");
    mock.set_version("second");
    assert_eq!(hub.platform("a").version(&CallContext::new()).await.as_deref(), Ok("second"));
    assert_eq!(hub.metric("towline_bus_kicks_total").await, Some(1.0), "kicks are counted once each");
    second.leave().await;
    hub.stop().await;
}

/// Races of simultaneous subscribers: exactly one is left, and nothing runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_k2_real_races_leave_exactly_one() {
    let hub = Arc::new(hub().await);
    // Each race has an instance of its own, so that they can run side by side.
    const RACES: usize = 300;
    const AT_ONCE: usize = 50;
    let mut left = 0;
    for batch in 0..RACES / AT_ONCE {
        let mut races = tokio::task::JoinSet::new();
        for race in 0..AT_ONCE {
            let hub = hub.clone();
            races.spawn(async move { run_race(&hub, &format!("race-{batch}-{race}")).await });
        }
        while let Some(race) = races.join_next().await {
            race.expect("no race fails");
            left += 1;
        }
    }
    assert_eq!(left, RACES);
}

async fn run_race(hub: &HubChain, name: &str) {
    let mut agents = futures::future::join_all((0..2).map(|_| hub.mock(name))).await;
    let (mut a, mut b) = (agents.remove(0), agents.remove(0));
    // One of them ends, and the other one serves.
    let ended = async {
        tokio::select! { reason = a.1.ended() => (reason, true), reason = b.1.ended() => (reason, false) }
    };
    let (reason, first_ended) = tokio::time::timeout(PATIENCE, ended).await.expect("one of them is kicked");
    assert!(matches!(reason, EndReason::Kicked { .. }), "{name}: {reason:?}");
    let (winner, loser) = if first_ended { (b, a) } else { (a, b) };
    await_serving(&winner.1).await;
    let platform = hub.platform(name);
    until("an apply is taken", || async {
        match platform.apply(&CallContext::new(), &[]).await {
            Ok(()) => Some(()),
            // It was being taken over: nothing was done, so another try is sound.
            Err(error) if matches!(error.code, Code::Unavailable | Code::Fenced) => None,
            Err(error) => panic!("{name}: {error:?}"),
        }
    })
    .await;
    let executed = |agent: &(MockPlatform, ActiveSubscription)| agent.0.executed().len();
    assert_eq!((executed(&winner), executed(&loser)), (1, 0), "{name}: nothing runs twice");
    assert!(winner.1.serving().borrow().is_some(), "{name}: it still serves");
}

#[tokio::test]
async fn x_k6_a_slow_call_does_not_delay_a_ping_on_nats() {
    let hub = hub().await;
    let (mock, subscription) = hub.mock("a").await;
    mock.delay(Method::Apply, Duration::from_secs(3600));
    let slow = hub.platform("a");
    let slow = tokio::task::spawn(async move { slow.apply(&CallContext::new(), &[]).await });
    until("the apply has begun", || async { (!mock.executed().is_empty()).then_some(()) }).await;
    for _ in 0..50 {
        hub.platform("a").ping(&CallContext::new().within(Duration::from_secs(1))).await.unwrap();
    }
    assert!(!slow.is_finished());
    slow.abort();
    drop(subscription);
}
