//! What is published, and what becomes of it: N-B2, N-B4, N-B12, N-B15, N-B20.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use towline_bus::exchange::{Caller, Destination};
use towline_bus::metrics::BusMetrics;
use towline_bus::task::Tasks;
use towline_bus::transport::{LinkState, PublishError, Subscription, TransportEvent};
use towline_bus::{CallContext, Platform as _, Transport as _};
use towline_protocol::platform::ApplyRequest;
use towline_protocol::subject::{Pattern, Root};
use towline_protocol::{Code, Epoch, ReplicaId, limits};
use towline_tests::chain::{HubChain, Wire, instance};
use towline_tests::jwt::{Operator, User};
use towline_tests::nats::{NatsServer, Proxy};
use towline_tests::noise::noise;
use towline_tests::wait::until;
use uuid::Uuid;

use super::{await_link, config, connect, connect_with, hear, in_time, next, publish, subscribe, told};

/// More than the client's queue of 2,048 takes: there async-nats waits without limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b2_publishing_without_a_connection_fails_at_once() {
    let server = NatsServer::start("").await;
    let link = connect(server.url()).await;
    server.kill();
    await_link(&link, LinkState::Disconnected).await;
    let begun = tokio::time::Instant::now();
    let all = (0..10_000).map(|_| publish(&link, "any", "lost"));
    let published = in_time("publishing to fail", futures::future::join_all(all)).await;
    assert!(published.iter().all(|one| *one == Err(PublishError::Disconnected)));
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    // A subscription waits in the client, and stands with the next connection.
    let mut heard = in_time("subscribing", subscribe(&link, "later")).await;
    server.restart().await;
    await_link(&link, LinkState::Connected).await;
    publish(&link, "later", "heard").await.unwrap();
    assert_eq!(next(&mut heard).await.payload, "heard");
}

/// The moment in between: the client does not know yet that its connection is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b2_no_publish_hangs_while_the_server_dies() {
    let server = NatsServer::start("").await;
    let link = connect(server.url()).await;
    let mut publishing = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let link = link.clone();
        publishing.spawn(async move {
            let mut state = link.link();
            while *state.borrow_and_update() == LinkState::Connected {
                // Its result is either way; that it comes is the point.
                let _ = publish(&link, "load", Bytes::from_static(&[7; 1_024])).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.kill();
    let begun = tokio::time::Instant::now();
    while let Some(ended) = in_time("publishing to end", publishing.join_next()).await {
        ended.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
}

/// At most once: `Ok` is no promise, but `Err` is one, and nothing comes twice or out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b4_what_was_refused_never_arrives() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let (from, to) = (connect(proxy.url()).await, connect(server.url()).await);
    let heard = hear(&to, "count.>", "count.barrier").await;
    let collecting = tokio::task::spawn(collect(heard));
    let publisher = from.clone();
    let publishing = tokio::task::spawn(async move {
        let mut refused = HashSet::new();
        for number in 0..20_000_u32 {
            let payload = Bytes::copy_from_slice(&number.to_be_bytes());
            if publish(&publisher, "count.up", payload).await.is_err() {
                refused.insert(number);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if number % 64 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        refused
    });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.cut();
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.join();
    }
    let refused = publishing.await.unwrap();
    // The end may be lost like everything else.
    until("the end to arrive", || async {
        let _ = publish(&from, "count.end", "").await;
        collecting.is_finished().then_some(())
    })
    .await;
    let arrived = collecting.await.unwrap();
    assert!(!refused.is_empty(), "the cuts were felt");
    assert!(arrived.is_sorted_by(|a, b| a < b), "something came twice, or late");
    assert!(arrived.iter().all(|number| !refused.contains(number)), "something came that was refused");
    assert!(arrived.len() > 1_000, "only {} arrived", arrived.len());
}

async fn collect(mut heard: Subscription) -> Vec<u32> {
    let mut arrived = Vec::new();
    loop {
        let message = next(&mut heard).await;
        if &*message.subject == "count.end" {
            return arrived;
        }
        arrived.push(u32::from_be_bytes(message.payload.as_ref().try_into().unwrap()));
    }
}

/// `transport/nats/bulk.rs` sees by the client's count what has left: each message counts once for its parts, when the client takes
/// it, and once for what is written.
#[tokio::test]
async fn n_b2_the_client_counts_each_message_twice() {
    let server = NatsServer::start("").await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let counted = || client.statistics().out_bytes.load(Ordering::Relaxed);
    client.flush().await.unwrap();
    let before = counted();
    let payload = Bytes::from(vec![7; 100_000]);
    client.publish_with_reply("subject", "answers", payload).await.unwrap();
    client.flush().await.unwrap();
    let written = "PUB subject answers 100000\r\n\r\n".len() + 100_000;
    assert_eq!(counted() - before, (written + "subjectanswers".len() + 100_000) as u64);
}

/// An answer and a call of this size pass through the server.
async fn assert_passes_both_ways(server: NatsServer, size: usize) {
    let hub = HubChain::start_over(Wire::Nats(server.into())).await;
    let (mock, subscription) = hub.mock("a").await;
    let large = noise(size);
    mock.set_config(large.clone());
    let remote = hub.bus.connect(&instance("a"));
    assert!(remote.export(&CallContext::new()).await.unwrap() == large);
    let definition = towline_protocol::platform::Definition {
        id: "default/Large/a".parse().unwrap(),
        definition: large,
        is_async: false,
    };
    remote.apply(&CallContext::new(), &[definition]).await.unwrap();
    subscription.leave().await;
    hub.stop().await;
}

/// Every frame fits a limit of 128 KiB and its header, whatever the size of the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b12_no_frame_exceeds_its_bound() {
    let limit = limits::FRAME_BODY_BYTES_MAX + limits::FRAME_EXTENSION_BYTES_MAX + 64;
    let server = NatsServer::start(&format!("max_payload: {limit}")).await;
    assert_passes_both_ways(server, 5 << 20).await;
}

/// A server that takes less says so when we connect: frames are cut smaller, in both directions, and what does not fit by itself
/// is refused before it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b12_a_server_that_takes_less_is_known() {
    let server = NatsServer::start("max_payload: 65536").await;
    let link = connect(server.url()).await;
    let refused = publish(&link, "large", vec![7; 65_537]).await;
    assert_eq!(refused, Err(PublishError::TooLarge { found: 65_537, limit: 65_536 }));
    assert_eq!(*link.link().borrow(), LinkState::Connected);
    assert_passes_both_ways(server, 100 << 10).await;
}

/// A user's or an account's limit async-nats does not learn. The server ends the connection then: the call says that its
/// outcome is unknown, the alarm says why, and the connection comes back.
#[tokio::test]
async fn n_b12_a_users_lower_limit_is_told() {
    let operator = Operator::default();
    let server = NatsServer::start(&operator.config()).await;
    let mut config = config(server.url());
    let path = server.dir().join("user.creds");
    operator.write_credentials(&User { payload: Some(16 << 10), ..User::default() }, &path);
    config.credentials = Some(path);
    let link = connect_with(&config).await;
    assert_eq!(link.max_payload(), 1 << 20, "what the client believes");
    let mut events = link.events();
    let (error, elapsed) = call_with(&link, 100 << 10).await;
    assert_eq!(error.code, Code::UnknownOutcome, "{error:?}");
    assert!(elapsed < limits::CALL_SILENCE_MAX, "silence told it first: {elapsed:?}");
    told(&mut events, |event| *event == TransportEvent::PayloadRefused).await;
    await_link(&link, LinkState::Connected).await;
    until("small messages pass", || async { publish(&link, "small", "").await.ok() }).await;
}

/// Calls a listener that never answers, with a body of this size, and returns the error.
async fn call_with(
    link: &std::sync::Arc<towline_bus::transport::nats::NatsTransport>,
    size: usize,
) -> (towline_protocol::CallError, Duration) {
    let to = Destination { instance: instance("a"), epoch: Epoch::new(1).unwrap() };
    let calls = Pattern::Calls { instance: to.instance.clone(), epoch: to.epoch };
    let _heard = subscribe(link, &Root::default().pattern(&calls)).await;
    let (tasks, metrics) = (Tasks::new(), BusMetrics::unregistered());
    let replica = ReplicaId::new(Uuid::new_v4());
    let caller = Caller::start(link.clone(), Root::default(), replica, metrics, tasks.clone(), |_, _| ());
    let definition = towline_protocol::platform::Definition {
        id: "default/Large/a".parse().unwrap(),
        definition: noise(size),
        is_async: false,
    };
    let begun = tokio::time::Instant::now();
    let request = ApplyRequest { definitions: vec![definition] };
    let error = caller.await.unwrap().call(&to, &CallContext::new(), &request).await.unwrap_err();
    tasks.stopping().cancel();
    (error, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b15_closing_waits_until_everything_is_written() {
    let server = NatsServer::start("").await;
    let to = connect(server.url()).await;
    for round in 0..10 {
        let from = connect(server.url()).await;
        let mut heard = hear(&to, "closing.>", "closing.barrier").await;
        for _ in 0..2_000 {
            publish(&from, "closing.1", Bytes::from_static(&[7; 1_024])).await.unwrap();
        }
        from.close().await;
        for number in 0..2_000 {
            let message = tokio::time::timeout(Duration::from_secs(2), heard.next()).await;
            assert!(message.is_ok(), "round {round}: only {number} of 2,000 arrived");
        }
    }
}

/// The link is slow and the socket full: async-nats' own drain drops what it still holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b15_closing_waits_for_a_slow_link() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let (from, to) = (connect(proxy.url()).await, connect(server.url()).await);
    let mut heard = hear(&to, "slow.>", "slow.barrier").await;
    // Small enough to be taken at once, all of them: 24 MiB wait when it closes.
    const MESSAGES: usize = 800;
    proxy.slow_down(12 << 20);
    let payload = Bytes::from(vec![7; 31 << 10]);
    for _ in 0..MESSAGES {
        publish(&from, "slow.1", payload.clone()).await.unwrap();
    }
    from.close().await;
    for number in 0..MESSAGES {
        let message = tokio::time::timeout(Duration::from_secs(5), heard.next()).await;
        assert!(message.is_ok(), "only {number} of {MESSAGES} arrived");
    }
}

#[tokio::test]
async fn n_b15_a_connection_that_nobody_wants_ends() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    // Dropped while it stands.
    drop(connect(proxy.url()).await);
    until("the dropped connection to end", || async { (proxy.open() == 0).then_some(()) }).await;
    // Closed while it is cut off: at once, and it comes no more.
    let link = connect(proxy.url()).await;
    proxy.cut();
    await_link(&link, LinkState::Disconnected).await;
    let begun = tokio::time::Instant::now();
    link.close().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    let before = proxy.attempts().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let more = proxy.attempts().len() - before;
    assert!(more <= 1, "one may have been under way; there were {more}");
}

/// `*` and `>` are legal bytes in a subject that is published to, and a line break begins a new command.
#[tokio::test]
async fn n_b20_hostile_subjects_reach_nobody() {
    let server = NatsServer::start("").await;
    let (from, to) = (connect(server.url()).await, connect(server.url()).await);
    let mut heard = hear(&to, ">", "barrier").await;
    let mut state = from.link();
    state.borrow_and_update();
    let long = "a".repeat(8_192);
    let hostile = [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*",
        ">",
        "a.*",
        "a.>",
        "*.a",
        "a b",
        "a\tb",
        " a",
        "a\r\nPUB stolen 0\r\n\r\n",
        "a\nUNSUB 1",
        "a\0b",
        "a\u{7f}",
        "a\u{2028}b",
        &long,
    ];
    for subject in hostile {
        for (subject, reply) in [(subject, None), ("fine", Some(subject.to_owned()))] {
            let published = from.publish(subject.to_owned(), reply, Bytes::new()).await;
            assert!(matches!(published, Err(PublishError::Malformed { .. })), "{subject:?}: {published:?}");
        }
        let group = from.subscribe("fine".to_owned(), Some(subject.to_owned())).await;
        assert!(group.is_err(), "{subject:?} as a queue group");
        if !["*", ">", "a.*", "a.>", "*.a"].contains(&subject) {
            assert!(from.subscribe(subject.to_owned(), None).await.is_err(), "{subject:?} as a pattern");
        }
    }
    publish(&from, "tl.c.*x.>y", "odd, and harmless").await.unwrap();
    assert_eq!(&*next(&mut heard).await.subject, "tl.c.*x.>y", "nothing came before it");
    assert!(!state.has_changed().unwrap(), "the connection stood all the while");
}
