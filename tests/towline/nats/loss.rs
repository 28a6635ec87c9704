//! Absence and loss, over a real nats-server.

use std::time::Duration;

use towline_bus::platform::CallContext;
use towline_bus::transport::LinkState;
use towline_bus::{Platform, Transport as _};
use towline_protocol::{Code, Effect};
use towline_tests::chain::{HubChain, Wire, instance, nats_link};
use towline_tests::wait::{PATIENCE, until};

async fn hub() -> HubChain {
    HubChain::start_over(Wire::nats().await).await
}

#[tokio::test]
async fn x_a1_absence_answers_at_once_on_nats() {
    let hub = hub().await;
    let (_, subscription) = hub.mock("a").await;
    // Gone without a goodbye: the server itself says that nobody listens.
    drop(subscription);
    let remote = hub.bus.connect(&instance("a"));
    until("its subscriptions are gone", || async {
        let cx = CallContext::new().within(Duration::from_millis(100));
        remote.ping(&cx).await.err().filter(|error| error.code == Code::Unavailable)
    })
    .await;
    let error = remote.apply(&CallContext::new(), &[]).await.unwrap_err();
    assert!(error.message.contains("nobody serves"), "presence told it: {error:?}");
    assert_eq!((error.code, error.effect), (Code::Unavailable, Effect::None));
    hub.stop().await;
}

/// A name that the hub has never heard, at the bus and at the API.
#[tokio::test]
async fn x_a1_who_was_never_seen_answers_at_once_on_nats() {
    let hub = hub().await;
    let (near, far) = (hub.bus.connect(&instance("never-seen")), hub.platform("never-seen"));
    for platform in [&near as &dyn Platform, &far] {
        until("an answer at once", || async {
            let begun = tokio::time::Instant::now();
            let error = platform.ping(&CallContext::new()).await.unwrap_err();
            assert_eq!((&error.code, &error.effect), (&Code::Unavailable, &Effect::None), "{error:?}");
            (begun.elapsed() < Duration::from_millis(100)).then_some(())
        })
        .await;
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_a3_a_burst_loses_none_on_nats() {
    let hub = hub().await;
    let (mock, subscription) = hub.mock("a").await;
    mock.set_version("1");
    let remote = hub.bus.connect(&instance("a"));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let remote = remote.clone();
        calls.spawn(async move { remote.version(&CallContext::new()).await });
    }
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().as_deref(), Ok("1"));
    }
    subscription.leave().await;
    hub.stop().await;
}

/// The server is killed and started again under load: every call ends, and agents are back by themselves, not all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_a4_a_server_restart_under_load() {
    const AGENTS: usize = 20;
    let hub = hub().await;
    let (mut agents, mut links) = (Vec::new(), Vec::new());
    for number in 0..AGENTS {
        let link = nats_link(hub.wire.server().url()).await;
        agents.push(hub.mock_over(link.clone(), &format!("a{number}")).await);
        links.push(link);
    }
    let mut load = tokio::task::JoinSet::new();
    for number in 0..AGENTS {
        let remote = hub.bus.connect(&instance(&format!("a{number}")));
        load.spawn(async move {
            let (mut answered, mut refused) = (0, 0);
            for _ in 0..500 {
                match tokio::time::timeout(PATIENCE, remote.ping(&CallContext::new())).await {
                    Ok(Ok(())) => answered += 1,
                    Ok(Err(error)) => {
                        let is_typed = matches!(
                            error.code,
                            Code::Unavailable | Code::UnknownOutcome | Code::Busy | Code::Fenced
                        );
                        assert!(is_typed, "{error:?}");
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(_) => panic!("a call hangs"),
                }
            }
            (answered, refused)
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    hub.wire.server().kill();
    let mut returning = tokio::task::JoinSet::new();
    for link in links {
        returning.spawn(async move {
            let mut state = link.link();
            for wanted in [LinkState::Disconnected, LinkState::Connected] {
                state.wait_for(|state| *state == wanted).await.unwrap();
            }
            tokio::time::Instant::now()
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    hub.wire.server().restart().await;
    let back = tokio::time::timeout(PATIENCE, returning.join_all()).await.expect("all agents come back");
    let spread = *back.iter().max().unwrap() - *back.iter().min().unwrap();
    assert!(spread > Duration::from_millis(200), "{AGENTS} agents came back within {spread:?}");
    let mut refused = 0;
    while let Some(ended) = load.join_next().await {
        refused += ended.expect("no call hangs").1;
    }
    assert!(refused > 0, "the restart was felt");
    for number in 0..AGENTS {
        let name = format!("a{number}");
        hub.bus.await_presence(&instance(&name), PATIENCE).await.unwrap();
        until("pings are answered again", || async { hub.bus.ping(&instance(&name)).await.ok() }).await;
    }
    assert_eq!(hub.metric("towline_bus_kicks_total").await, Some(0.0), "nobody was kicked by an outage");
    hub.stop().await;
}

#[tokio::test]
async fn x_a5_a_call_without_a_bus_fails_fast_on_nats() {
    let hub = hub().await;
    let (_, _subscription) = hub.mock("a").await;
    hub.wire.server().kill();
    let remote = hub.bus.connect(&instance("a"));
    until("the loss of the bus is known", || async {
        let begun = tokio::time::Instant::now();
        let error = remote.ping(&CallContext::new()).await.err()?;
        (error.code == Code::Busy && begun.elapsed() < Duration::from_millis(100)).then_some(())
    })
    .await;
}
