//! Who serves, over a real nats-server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use towline_bus::platform::{CallContext, MockPlatform};
use towline_bus::session::EndReason;
use towline_bus::subscription::ActiveSubscription;
use towline_bus::{Platform as _, Remote};
use towline_protocol::{CallError, Effect, Method, RequestId, limits};
use towline_tests::chain::{HubChain, Wire, instance};
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

/// Races of simultaneous subscribers, of calls all the while: exactly one is left, and nothing runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_k2_real_races_leave_exactly_one() {
    let hub = Arc::new(hub().await);
    // Each race has an instance of its own, so that they can run side by side.
    const RACES: usize = 300;
    const AT_ONCE: usize = 25;
    let mut left = 0;
    for batch in 0..RACES / AT_ONCE {
        let mut races = tokio::task::JoinSet::new();
        for race in 0..AT_ONCE {
            let (hub, seed) = (hub.clone(), batch * AT_ONCE + race);
            races.spawn(async move { run_race(&hub, &format!("race-{seed}"), 2 + seed % 4).await });
        }
        while let Some(race) = races.join_next().await {
            race.expect("no race fails");
            left += 1;
        }
    }
    assert_eq!(left, RACES);
}

/// What became of each apply, by its request id.
type Outcomes = HashMap<RequestId, Result<(), CallError>>;

/// Applies one thing after the other until it is told to stop, and has had one answered since.
async fn apply_all_the_while(remote: Remote, mut over: watch::Receiver<bool>) -> Outcomes {
    let mut outcomes = HashMap::new();
    loop {
        let was_over = *over.borrow_and_update();
        let cx = CallContext::new();
        let outcome = remote.apply(&cx, &[]).await;
        let is_done = was_over && outcome.is_ok();
        outcomes.insert(cx.id, outcome);
        if is_done {
            return outcomes;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn serves(agent: &(MockPlatform, ActiveSubscription)) -> bool {
    agent.1.serving().borrow().is_some()
}

async fn run_race(hub: &HubChain, name: &str, subscribers: usize) {
    let (tell, over) = watch::channel(false);
    let applying = tokio::spawn(apply_all_the_while(hub.bus.connect(&instance(name)), over));
    let mut agents = futures::future::join_all((0..subscribers).map(|_| hub.mock(name))).await;
    // After three takeovers the others stand by, and do not end.
    let gone = limits::TAKEOVERS_MAX.min(subscribers - 1);
    until(&format!("{name}: one of {subscribers} to be left"), || {
        let ended = agents.iter_mut().filter_map(|agent| agent.1.ended().now_or_never()).count();
        let is_settled = ended >= gone && agents.iter().filter(|agent| serves(agent)).count() == 1;
        async move { is_settled.then_some(()) }
    })
    .await;
    tell.send_replace(true);
    let outcomes = tokio::time::timeout(PATIENCE * 2, applying).await.expect("an apply is taken").unwrap();
    until(&format!("{name}: one to serve, and nobody beside it"), || {
        let serving = agents.iter().filter(|agent| serves(agent)).count();
        async move { (serving == 1).then_some(()) }
    })
    .await;

    let mut executed: HashMap<RequestId, usize> = HashMap::new();
    for id in agents.iter().flat_map(|agent| agent.0.executed()) {
        *executed.entry(id).or_default() += 1;
    }
    for (id, outcome) in &outcomes {
        let times = executed.remove(id).unwrap_or(0);
        let holds = match outcome {
            Ok(()) => times == 1,
            Err(error) if error.effect == Effect::None => times == 0,
            Err(_) => times <= 1,
        };
        assert!(holds, "{name}: {id} was executed {times} times, and is said to be {outcome:?}");
    }
    assert!(executed.is_empty(), "{name}: nobody asked for {executed:?}");
    for mut agent in agents {
        if !serves(&agent) {
            let ended = agent.1.ended().now_or_never();
            assert!(matches!(ended, None | Some(EndReason::Kicked { .. })), "{name}: {ended:?}");
        }
    }
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
