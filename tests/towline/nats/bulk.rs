//! Large messages on a link that is slow: what keeps a session alive is not delayed by them, whichever way they go.

use std::time::Duration;

use towline_bus::Platform as _;
use towline_bus::message_bus::PresenceView;
use towline_bus::platform::CallContext;
use towline_protocol::platform::Definition;
use towline_tests::chain::{HubChain, Wire, instance, nats_link};
use towline_tests::nats::{NatsServer, Proxy};
use towline_tests::noise::noise;

/// What the link carries in a second.
const RATE: u64 = 8 << 20;
/// Each of a window of frames.
const EXPORT_BYTES: usize = 2 << 20;
/// Together they take a quarter of a minute: thrice a lease.
const EXPORTS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_answers_delay_no_renewal_on_a_slow_link() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let hub = HubChain::start_over(Wire::Nats(server.into())).await;
    let (mock, subscription) = hub.mock_over(nats_link(proxy.url()).await, "a").await;
    let large = noise(EXPORT_BYTES);
    mock.set_config(large.clone());
    let mut serving = subscription.serving();
    let epoch = *serving.wait_for(Option::is_some).await.unwrap();
    proxy.slow_down(RATE);
    let mut exports = tokio::task::JoinSet::new();
    for _ in 0..EXPORTS {
        let remote = hub.bus.connect(&instance("a"));
        exports.spawn(async move {
            remote.export(&CallContext::new().within(Duration::from_secs(300))).await.unwrap()
        });
    }
    while let Some(export) = exports.join_next().await {
        assert!(export.expect("each export is answered") == large);
        assert_eq!(*serving.borrow(), epoch, "the lease ended, for its renewal was late");
        let view = hub.bus.instance(&instance("a")).unwrap();
        assert!(matches!(view.presence, PresenceView::Connected { .. }), "{view:?}");
    }
    assert!(!serving.has_changed().unwrap(), "the lease ended in between");
    subscription.leave().await;
    hub.stop().await;
}

/// What a site takes in a second: 5 Mbit/s.
const SITE_RATE: u64 = 640 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_calls_delay_no_renewal_on_a_slow_link() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let hub = HubChain::start_over(Wire::Nats(server.into())).await;
    let (mock, subscription) = hub.mock_over(nats_link(proxy.url()).await, "a").await;
    let mut serving = subscription.serving();
    let epoch = *serving.wait_for(Option::is_some).await.unwrap();
    proxy.slow_down_answers(SITE_RATE);
    let mut applying = tokio::task::JoinSet::new();
    // Together they take five leases.
    const CALLS: usize = 8;
    for number in 0..CALLS {
        let remote = hub.bus.connect(&instance("a"));
        let large = Definition {
            id: format!("default/Large/l{number}").parse().unwrap(),
            definition: noise(EXPORT_BYTES),
            is_async: false,
        };
        applying.spawn(async move {
            remote.apply(&CallContext::new().within(Duration::from_secs(300)), &[large]).await
        });
    }
    while let Some(applied) = applying.join_next().await {
        assert_eq!(applied.unwrap(), Ok(()));
    }
    assert_eq!((mock.executed().len(), *serving.borrow()), (CALLS, epoch));
    assert!(!serving.has_changed().unwrap(), "the lease ended, for its renewal was late");
    subscription.leave().await;
    hub.stop().await;
}
