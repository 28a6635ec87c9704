//! Who serves: the newest, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use towline_bus::Platform as _;
use towline_bus::authority::MemoryAuthority;
use towline_bus::platform::CallContext;
use towline_bus::session::EndReason;
use towline_bus::transport::memory::MemoryBroker;
use towline_protocol::session::ClaimMode;
use towline_protocol::{BootId, CallError, Code, Method, StoreId, limits};
use uuid::Uuid;

use super::fixture::{Agent, Hub, PATIENCE, eventually, id};

fn events_of(hub: &mut Hub, kind: &str) -> usize {
    let mut found = 0;
    while let Ok(event) = hub.events.try_recv() {
        found += usize::from(event.kind.as_str() == kind);
    }
    found
}

#[tokio::test]
async fn x_k1_the_newer_subscription_serves() {
    let hub = Hub::start().await;
    let mut first = hub.serving("a").await;
    let second = hub.agent("a", ClaimMode::Fresh).await;
    second.await_serving().await;
    let by = *second.subscription.serving().borrow();
    assert_eq!(first.ended().await, EndReason::Kicked { by }, "it names the newer one");
    second.mock.set_version("second");
    assert_eq!(hub.connect("a").version(&CallContext::new()).await.unwrap(), "second");
    assert!(first.mock.take_seen().is_empty());
}

#[tokio::test]
async fn x_k3_a_kicked_agent_stands_by() {
    let hub = Hub::start().await;
    let mut first = hub.serving("a").await;
    let second = hub.agent("a", ClaimMode::Fresh).await;
    second.await_serving().await;
    first.ended().await;
    // It comes back by itself, as a standby: the second is never kicked.
    let standby = hub.agent("a", ClaimMode::Standby).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(second.subscription.serving().borrow().is_some());
    assert!(standby.subscription.serving().borrow().is_none());
    assert_eq!(hub.metrics.kicks.get(), 1);
    // Once the holder is gone, the standby serves.
    second.subscription.leave().await;
    standby.await_serving().await;
    hub.connect("a").ping(&CallContext::new()).await.unwrap();
}

#[tokio::test]
async fn x_k5_kicks_are_counted_once_each() {
    let mut hub = Hub::start().await;
    let mut last = hub.serving("a").await;
    for kicks in 1..=3 {
        let next = hub.agent("a", ClaimMode::Fresh).await;
        next.await_serving().await;
        assert!(matches!(last.ended().await, EndReason::Kicked { .. }));
        assert_eq!(hub.metrics.kicks.get(), kicks);
        last = next;
    }
    assert_eq!(events_of(&mut hub, "kicked"), 3);
    // The fourth finds an instance that is being fought for, and stands by.
    let fourth = hub.agent("a", ClaimMode::Fresh).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(fourth.subscription.serving().borrow().is_none());
    assert!(last.subscription.serving().borrow().is_some());
    assert_eq!((hub.metrics.kicks.get(), events_of(&mut hub, "duplicate")), (3, 1));
}

#[tokio::test]
async fn x_k6_a_slow_call_does_not_delay_a_ping() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    agent.mock.delay(Method::Apply, Duration::from_secs(3600));
    let remote = hub.connect("a");
    let slow = tokio::spawn({
        let remote = remote.clone();
        async move { remote.apply(&CallContext::new(), &[]).await }
    });
    eventually("the apply has begun", || !agent.mock.executed().is_empty()).await;
    for _ in 0..100 {
        let cx = CallContext::new().within(Duration::from_secs(1));
        remote.ping(&cx).await.unwrap();
    }
    assert!(!slow.is_finished());
    slow.abort();
}

#[tokio::test]
async fn x_k2_simultaneous_subscribers_leave_one() {
    for round in 0..20 {
        let hub = Hub::start().await;
        let mut agents = Vec::new();
        for _ in 0..4 {
            agents.push(hub.agent("a", ClaimMode::Fresh).await);
        }
        let serving = |agents: &[Agent]| {
            agents.iter().filter(|agent| agent.subscription.serving().borrow().is_some()).count()
        };
        hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
        let remote = hub.connect("a");
        eventually(&format!("one is left in round {round}"), || serving(&agents) == 1).await;
        let applying = async {
            loop {
                match remote.apply(&CallContext::new(), &[]).await {
                    // Nothing was done: it was being taken over.
                    Err(error) if error.code == Code::Unavailable => tokio::task::yield_now().await,
                    applied => return applied,
                }
            }
        };
        tokio::time::timeout(PATIENCE, applying).await.expect("an apply is taken").unwrap();
        let executed: usize = agents.iter().map(|agent| agent.mock.executed().len()).sum();
        assert_eq!(executed, 1, "in round {round}");
    }
}

#[tokio::test]
async fn x_b13_a_fatal_error_ends_the_subscription() {
    let hub = Hub::start().await;
    let mut agent = hub.serving("a").await;
    let fatal = CallError::new(Code::Fatal, "the runtime is gone");
    agent.mock.fail(Method::SomeServices, Some(fatal.clone()));
    let error = hub.connect("a").some_services(&CallContext::new(), &[]).await.unwrap_err();
    assert!(error.is_fatal(), "the caller sees that it was fatal: {error:?}");
    assert_eq!(agent.ended().await, EndReason::Fatal(fatal));
    eventually("the instance is not there any more", || !hub.connect("a").is_connected()).await;
}

#[tokio::test]
async fn x_b14_an_application_error_does_not() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let problem = CallError::new(Code::Cluster, "ping problem");
    agent.mock.fail(Method::Ping, Some(problem.clone()));
    for _ in 0..10 {
        assert_eq!(hub.bus.ping(&id("a")).await, Err(problem.clone()));
    }
    agent.mock.fail(Method::Ping, None);
    hub.bus.ping(&id("a")).await.unwrap();
    assert!(agent.subscription.serving().borrow().is_some());
}

#[tokio::test]
async fn an_agent_resumes_after_a_cut() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let epoch = *agent.subscription.serving().borrow();
    agent.link.cut();
    eventually("the loss is noticed", || !hub.connect("a").is_connected()).await;
    agent.link.join();
    hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
    assert_eq!(*agent.subscription.serving().borrow(), epoch, "the epoch is kept");
    assert_eq!(hub.metrics.kicks.get(), 0);
}

#[tokio::test]
async fn a_restarted_hub_is_told_who_serves() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let epoch = *agent.subscription.serving().borrow();
    let Hub { broker, authority, bus, .. } = hub;
    bus.stop().await;
    drop(bus);
    let hub = Hub::start_on(broker, authority).await;
    let before = hub.bus.instance(&id("a")).unwrap();
    assert_eq!(before.epoch, epoch, "its store knows");
    hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
    hub.bus.ping(&id("a")).await.unwrap();
    assert_eq!(hub.bus.instance(&id("a")).unwrap().epoch, epoch, "and nothing was written");
    assert_eq!(hub.bus.instance(&id("a")).unwrap().version.as_deref(), Some("0.0.1"));
}

/// Two replicas over one authority, each of which answers every question (decision 0011).
#[tokio::test]
async fn x_k1_two_hubs_share_an_authority() {
    let one = Hub::start_on(MemoryBroker::new(), Arc::new(MemoryAuthority::shared())).await;
    let other = Hub::start_on(one.broker.clone(), one.authority.clone()).await;
    let hubs = [&one, &other];
    let mut first = one.serving("a").await;
    first.mock.set_version("first");
    for hub in hubs {
        hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
        assert_eq!(hub.connect("a").version(&CallContext::new()).await.unwrap(), "first");
    }
    let second = one.agent("a", ClaimMode::Fresh).await;
    second.mock.set_version("second");
    second.await_serving().await;
    let by = *second.subscription.serving().borrow();
    assert_eq!(first.ended().await, EndReason::Kicked { by });
    assert_eq!(one.metrics.kicks.get() + other.metrics.kicks.get(), 1, "one of them counts it");
    for hub in hubs {
        eventually("both call the second", || hub.bus.instance(&id("a")).unwrap().epoch == by).await;
        hub.bus.await_presence(&id("a"), PATIENCE).await.unwrap();
        assert_eq!(hub.connect("a").version(&CallContext::new()).await.unwrap(), "second");
    }
    // What one of them said ends with it; the other answers for both.
    one.bus.stop().await;
    tokio::time::sleep(limits::LEASE_HUB).await;
    assert_eq!(other.connect("a").version(&CallContext::new()).await.unwrap(), "second");
    assert_eq!(*second.subscription.serving().borrow(), by);
}

#[tokio::test]
async fn a_stolen_boot_id_of_another_instance_gains_nothing() {
    let hub = Hub::start().await;
    let boot = BootId::new(Uuid::new_v4());
    let first = Agent::start(&hub.broker, "a", ClaimMode::Fresh, Some(boot)).await;
    let second = Agent::start(&hub.broker, "b", ClaimMode::Fresh, Some(boot)).await;
    first.await_serving().await;
    second.await_serving().await;
    first.mock.set_version("a");
    second.mock.set_version("b");
    assert_eq!(hub.connect("a").version(&CallContext::new()).await.unwrap(), "a");
    assert_eq!(hub.connect("b").version(&CallContext::new()).await.unwrap(), "b");
}

/// A hub that was away while another one let somebody begin calls that one at once, instead of waiting to hear of it.
#[tokio::test]
async fn a_hub_that_missed_a_takeover_asks_who_serves() {
    let (broker, authority) = (MemoryBroker::new(), Arc::new(MemoryAuthority::shared()));
    let away = Hub::start_on(broker.clone(), authority.clone()).await;
    let there = Hub::start_on(broker, authority).await;
    let mut older = away.serving("a").await;
    away.link.cut();
    let newer = there.agent("a", ClaimMode::Fresh).await;
    assert!(matches!(older.ended().await, EndReason::Kicked { .. }));
    newer.await_serving().await;
    away.link.join();
    away.connect("a").apply(&CallContext::new(), &[]).await.unwrap();
    assert_eq!((older.mock.executed().len(), newer.mock.executed().len()), (0, 1));

    away.link.cut();
    let other = there.serving("b").await;
    away.link.join();
    let remote = away.connect("b");
    assert_eq!(away.bus.instance(&id("b")), None, "it never heard of it");
    remote.apply(&CallContext::new(), &[]).await.unwrap();
    let not_its_store = remote.only_at(StoreId::new(Uuid::new_v4()));
    let error = not_its_store.ping(&CallContext::new()).await.unwrap_err();
    assert_eq!((error.code, other.mock.executed().len()), (Code::Unavailable, 1));
}
