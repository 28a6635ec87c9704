//! What the client tells late, in words, or not at all: N-B5, N-B6, N-B7.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use towline_bus::authority::MemoryAuthority;
use towline_bus::message_bus::BusConfig;
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::MockPlatform;
use towline_bus::transport::{LinkState, TransportEvent};
use towline_bus::{MessageBus, Transport as _};
use towline_protocol::limits;
use towline_tests::chain::mock_config;
use towline_tests::nats::{NatsServer, Proxy};

use super::{await_link, connect, counted, hear, in_time, next, publish, subscribe, told};

/// Fifty thousand drops come as at most 128 events, and whatever else the client had to say is lost among them. The
/// state of the link is not.
#[tokio::test]
async fn n_b5_a_flood_of_drops_does_not_hide_the_link() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let (slow, fast) = (connect(proxy.url()).await, connect(server.url()).await);
    let metrics = BusMetrics::unregistered();
    let authority = Arc::new(MemoryAuthority::new());
    let bus =
        MessageBus::start(slow.clone(), authority, BusConfig::default(), metrics.clone()).await.unwrap();
    let _unread = hear(&slow, "other.>", "other.barrier").await;
    let flooded = hear(&slow, "flood.>", "flood.barrier").await;
    for round in 0..3 {
        for _ in 0..20_000 {
            publish(&fast, "flood.1", Bytes::from_static(b"drop")).await.unwrap();
        }
        // In the middle of the flood, on one thread: nobody takes events meanwhile.
        proxy.cut();
        await_link(&slow, LinkState::Disconnected).await;
        proxy.join();
        await_link(&slow, LinkState::Connected).await;
        let published = publish(&slow, "other.1", "through").await;
        assert_eq!(published, Ok(()), "round {round}: the link tells the truth");
    }
    assert!(counted(&metrics.refusals, "slow_consumer").await > 0);
    drop(flooded);
    bus.0.stop().await;
}

/// The pattern that is told is the one that was full, also after a subscription that was given up half way. The client
/// names its subscriptions by number alone.
#[tokio::test]
async fn n_b5_a_drop_names_its_subscription() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let (slow, fast) = (connect(proxy.url()).await, connect(server.url()).await);
    proxy.cut();
    await_link(&slow, LinkState::Disconnected).await;
    let mut waiting = Vec::new();
    loop {
        // The client's queue has an end: there a subscription has its number already, and waits.
        let mut subscribing = slow.subscribe("waiting".to_owned(), None);
        match futures::poll!(&mut subscribing) {
            Poll::Ready(subscription) => waiting.push(subscription.unwrap()),
            Poll::Pending => break,
        }
    }
    proxy.join();
    await_link(&slow, LinkState::Connected).await;
    let _first = subscribe(&slow, "first").await;
    let _full = hear(&slow, "full.>", "full.barrier").await;
    let _last = subscribe(&slow, "last").await;
    let mut events = slow.events();
    let flood = async {
        for _ in 0..limits::SUBSCRIPTION_MESSAGES_MAX + 2_000 {
            publish(&fast, "full.1", Bytes::new()).await.unwrap();
        }
    };
    let is_drop = |event: &TransportEvent| matches!(event, TransportEvent::SlowConsumer { .. });
    let (event, ()) = tokio::join!(told(&mut events, is_drop), flood);
    assert_eq!(event, TransportEvent::SlowConsumer { pattern: "full.>".to_owned() });
}

/// Users with the rights of a hub and of an agent, each with one right short.
const SHORT_OF_A_RIGHT: &str = r#"authorization { users: [
    { user: hub, password: hub, permissions: { publish: [">"], subscribe: { allow: [">"], deny: ["tl.q.>"] } } }
    { user: agent, password: agent, permissions: {
        publish: ["tl.r.default.a.>", "tl.e.default.a.>"],
        subscribe: ["tl.c.default.a.>", "tl.k.default.a.>", "tl.i.default.a.>", "tl.b.>"]
    } }
] }"#;

#[tokio::test]
async fn n_b6_a_missing_right_is_told_and_counted() {
    let server = NatsServer::start(SHORT_OF_A_RIGHT).await;
    let as_user = |user: &str| format!("nats://{user}:{user}@{}", server.address());
    let hub = connect(as_user("hub")).await;
    let (metrics, mut events) = (BusMetrics::unregistered(), hub.events());
    let authority = Arc::new(MemoryAuthority::new());
    let bus = MessageBus::start(hub.clone(), authority, BusConfig::default(), metrics.clone()).await.unwrap();
    let is_denied = |event: &TransportEvent| matches!(event, TransportEvent::PermissionDenied { .. });
    let TransportEvent::PermissionDenied { what } = told(&mut events, is_denied).await else {
        unreachable!()
    };
    assert!(what.contains("tl.q.>") || what.contains("tl.q.*"), "{what}");
    assert!(counted(&metrics.refusals, "permission_denied").await > 0);

    let agent = connect(as_user("agent")).await;
    let metrics = BusMetrics::unregistered();
    let config = mock_config("a", metrics.clone());
    let platform = Arc::new(MockPlatform::new());
    let subscription = towline_bus::subscribe(agent.clone(), config, platform).await.unwrap();
    assert!(counted(&metrics.refusals, "permission_denied").await > 0, "its claim is refused");
    drop(subscription);
    bus.0.stop().await;
}

/// No `flush` proves anything; order does. On one connection the subscription is there before the question that follows
/// it, also right after a reconnect. So whoever has an answer knows that its subscriptions stand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b7_a_subscription_stands_before_the_question_after_it() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let (asking, answering) = (connect(proxy.url()).await, connect(server.url()).await);
    let mut questions = hear(&answering, "question.>", "question.barrier").await;
    let tasks = towline_bus::task::Tasks::new();
    tasks.spawn("answers", async move {
        while let Some(question) = questions.next().await {
            let Some(reply) = question.reply else { continue };
            let _ = answering.publish(reply.to_string(), None, question.payload).await;
        }
    });
    let ask = async |number: u32| {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        let reply = Some(format!("answer.{number}"));
        asking.publish("question.1".to_owned(), reply, payload).await.expect("connected");
    };
    for number in 0..500 {
        let mut answer = subscribe(&asking, &format!("answer.{number}")).await;
        ask(number).await;
        let heard = in_time("the answer", answer.next()).await.unwrap();
        assert_eq!(heard.payload.as_ref(), number.to_be_bytes());
    }
    let mut answers = subscribe(&asking, "answer.>").await;
    for number in 0..3 {
        proxy.cut();
        await_link(&asking, LinkState::Disconnected).await;
        proxy.join();
        await_link(&asking, LinkState::Connected).await;
        ask(number).await;
        assert_eq!(next(&mut answers).await.payload.as_ref(), number.to_be_bytes());
    }
    tokio::time::timeout(Duration::from_secs(1), tasks.stop(Duration::ZERO)).await.unwrap();
}
