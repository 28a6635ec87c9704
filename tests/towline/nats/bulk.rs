//! Many large answers at once, on a link that is slow: what keeps a session alive is not delayed by them.

use std::time::Duration;

use bytes::Bytes;
use towline_bus::Platform as _;
use towline_bus::message_bus::PresenceView;
use towline_bus::platform::CallContext;
use towline_tests::chain::{HubChain, Wire, instance, nats_link};
use towline_tests::nats::{NatsServer, Proxy};

/// What the link carries in a second.
const RATE: u64 = 8 << 20;
/// Each of a window of frames.
const EXPORT_BYTES: usize = 2 << 20;
/// Together they take a quarter of a minute: thrice a lease.
const EXPORTS: usize = 60;

/// Bytes that do not shrink: xorshift64 (Marsaglia 2003).
fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(length).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_answers_delay_no_renewal_on_a_slow_link() {
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let hub = HubChain::start_over(Wire::Nats(server.into())).await;
    let (mock, subscription) = hub.mock_over(nats_link(proxy.url()).await, "a").await;
    let large = noise(EXPORT_BYTES);
    mock.set_config(large.clone());
    let mut serving = subscription.serving();
    let epoch = *serving.borrow_and_update();
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
