//! The battery for transports: the semantics that the rest of the bus stands on. Every transport passes it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;

use super::{LinkState, Message, PublishError, Subscription, Transport, TransportEvent};

/// Waits in a case are level-triggered; this is when one gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long silence is listened to before it counts as such.
const SILENCE: Duration = Duration::from_millis(200);

/// A bus that the battery can connect to, and break.
#[async_trait]
pub trait Venue: Send + Sync {
    /// A new connection, with all permissions or with these patterns alone.
    async fn connect(
        &self,
        publish: Option<Vec<String>>,
        subscribe: Option<Vec<String>>,
    ) -> Arc<dyn Transport>;

    /// Cuts a connection so that it notices.
    async fn cut(&self, connection: &Arc<dyn Transport>);

    /// Joins what was cut.
    async fn join(&self, connection: &Arc<dyn Transport>);
}

/// Runs the whole battery.
///
/// # Panics
/// When the transport does not hold what the bus stands on.
pub async fn battery(venue: &dyn Venue) {
    wildcards(venue).await;
    order_is_kept(venue).await;
    queue_groups_share(venue).await;
    nobody_listens(venue).await;
    payload_limit(venue).await;
    full_queue_drops(venue).await;
    permissions(venue).await;
    disconnection(venue).await;
    malformed_patterns(venue).await;
    closing_ends_subscriptions(venue).await;
}

async fn open(venue: &dyn Venue) -> Arc<dyn Transport> {
    let connection = venue.connect(None, None).await;
    wait_link(&connection, LinkState::Connected).await;
    connection
}

async fn wait_link(connection: &Arc<dyn Transport>, wanted: LinkState) {
    let mut link = connection.link();
    let reached = tokio::time::timeout(PATIENCE, link.wait_for(|state| *state == wanted)).await;
    assert!(matches!(reached, Ok(Ok(_))), "the link never became {wanted:?}");
}

async fn subscribe(connection: &Arc<dyn Transport>, pattern: &str) -> Subscription {
    connection.subscribe(pattern.to_owned(), None).await.expect("a well-formed pattern")
}

async fn publish(connection: &Arc<dyn Transport>, subject: &str, payload: &'static [u8]) {
    connection.publish(subject.to_owned(), None, Bytes::from_static(payload)).await.expect("connected");
}

async fn next(subscription: &mut Subscription) -> Message {
    let message = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a message came in time");
    message.expect("the subscription is open")
}

async fn assert_silent(subscription: &mut Subscription) {
    let heard = tokio::time::timeout(SILENCE, subscription.next()).await;
    assert!(heard.is_err(), "nothing was expected, and {heard:?} came");
}

/// Proves that the server has handled what this connection asked before: a message of its own comes back.
async fn barrier(connection: &Arc<dyn Transport>, name: &str) {
    let subject = format!("barrier.{name}");
    let mut own = subscribe(connection, &subject).await;
    let proven = async {
        loop {
            publish(connection, &subject, b"").await;
            if tokio::time::timeout(SILENCE, own.next()).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, proven).await.expect("a round trip succeeds in time");
}

async fn wildcards(venue: &dyn Venue) {
    let (a, b) = (open(venue).await, open(venue).await);
    let mut one = subscribe(&a, "w.*.x").await;
    let mut tail = subscribe(&a, "w.>").await;
    let mut other = subscribe(&a, "v.>").await;
    barrier(&a, "wildcards").await;
    for subject in ["w.1.x", "w.1.y", "w", "w.1.x.z"] {
        publish(&b, subject, b"").await;
    }
    assert_eq!(&*next(&mut one).await.subject, "w.1.x");
    for subject in ["w.1.x", "w.1.y", "w.1.x.z"] {
        assert_eq!(&*next(&mut tail).await.subject, subject);
    }
    assert_silent(&mut one).await;
    assert_silent(&mut other).await;
}

async fn order_is_kept(venue: &dyn Venue) {
    let (a, b) = (open(venue).await, open(venue).await);
    let mut heard = subscribe(&a, "order").await;
    barrier(&a, "order").await;
    for number in 0..1_000_u32 {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        b.publish("order".to_owned(), Some("order.reply".to_owned()), payload).await.expect("connected");
    }
    for number in 0..1_000_u32 {
        let message = next(&mut heard).await;
        assert_eq!(message.payload.as_ref(), number.to_be_bytes());
        assert_eq!(message.reply.as_deref(), Some("order.reply"));
        assert!(!message.no_responders);
    }
}

async fn queue_groups_share(venue: &dyn Venue) {
    let (a, b) = (open(venue).await, open(venue).await);
    let group = Some("workers".to_owned());
    let mut first = a.subscribe("queue".to_owned(), group.clone()).await.expect("a well-formed pattern");
    let mut second = a.subscribe("queue".to_owned(), group).await.expect("a well-formed pattern");
    let mut plain = subscribe(&a, "queue").await;
    barrier(&a, "queue").await;
    for _ in 0..100 {
        publish(&b, "queue", b"").await;
    }
    for _ in 0..100 {
        next(&mut plain).await;
    }
    let mut shared = 0;
    let by_two = async {
        while shared < 100 {
            tokio::select! { _ = first.next() => shared += 1, _ = second.next() => shared += 1 }
        }
    };
    tokio::time::timeout(PATIENCE, by_two).await.expect("each message reaches one of the group");
    assert_silent(&mut first).await;
    assert_silent(&mut second).await;
}

async fn nobody_listens(venue: &dyn Venue) {
    let a = open(venue).await;
    let mut replies = subscribe(&a, "replies.>").await;
    barrier(&a, "nobody").await;
    let ask =
        |subject: &str, reply: &str| a.publish(subject.to_owned(), Some(reply.to_owned()), Bytes::new());
    ask("nobody.there", "replies.1").await.expect("connected");
    let answer = next(&mut replies).await;
    assert_eq!(&*answer.subject, "replies.1");
    assert!(answer.no_responders && answer.payload.is_empty());
    let listener = subscribe(&a, "somebody.there").await;
    barrier(&a, "somebody").await;
    ask("somebody.there", "replies.2").await.expect("connected");
    assert_silent(&mut replies).await;
    drop(listener);
    barrier(&a, "gone").await;
    ask("somebody.there", "replies.3").await.expect("connected");
    assert_eq!(&*next(&mut replies).await.subject, "replies.3");
}

async fn payload_limit(venue: &dyn Venue) {
    let a = open(venue).await;
    let mut heard = subscribe(&a, "large").await;
    barrier(&a, "large").await;
    let limit = a.max_payload();
    let largest = Bytes::from(vec![7; limit]);
    a.publish("large".to_owned(), None, largest.clone()).await.expect("the limit itself is allowed");
    assert!(next(&mut heard).await.payload == largest);
    let refused = a.publish("large".to_owned(), None, vec![7; limit + 1].into()).await;
    assert_eq!(refused, Err(PublishError::TooLarge { found: limit + 1, limit }));
    publish(&a, "large", b"still there").await;
    assert_eq!(next(&mut heard).await.payload, "still there");
}

async fn full_queue_drops(venue: &dyn Venue) {
    let (a, b) = (open(venue).await, open(venue).await);
    let mut events = a.events();
    let mut slow = subscribe(&a, "flood").await;
    barrier(&a, "flood").await;
    let sent = towline_protocol::limits::SUBSCRIPTION_MESSAGES_MAX + 1_000;
    for number in 0..sent {
        let payload = Bytes::from(number.to_string());
        b.publish("flood".to_owned(), None, payload).await.expect("connected");
    }
    let told = async {
        loop {
            match events.recv().await {
                Ok(TransportEvent::SlowConsumer { pattern }) => return pattern,
                Ok(_) => {}
                Err(error) => assert!(matches!(error, RecvError::Lagged(_)), "the events ended: {error}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.expect("a drop is told"), "flood");
    let mut previous = None;
    let mut received = 0;
    while let Ok(Some(message)) = tokio::time::timeout(SILENCE, slow.next()).await {
        let number: usize =
            std::str::from_utf8(&message.payload).expect("a number").parse().expect("a number");
        assert!(previous.is_none_or(|previous| number > previous), "what is not dropped keeps its order");
        previous = Some(number);
        received += 1;
    }
    assert!(received < sent, "memory is bounded: something was dropped");
    assert!(received >= towline_protocol::limits::SUBSCRIPTION_MESSAGES_MAX / 2, "only {received} were kept");
}

async fn permissions(venue: &dyn Venue) {
    let free = open(venue).await;
    let (publish_to, subscribe_to) = (vec!["mine.>".to_owned()], vec!["mine.>".to_owned()]);
    let bound = venue.connect(Some(publish_to), Some(subscribe_to)).await;
    wait_link(&bound, LinkState::Connected).await;
    let mut events = bound.events();
    let mut theirs = subscribe(&free, "theirs.>").await;
    barrier(&free, "permissions").await;
    let mut spying = subscribe(&bound, "theirs.>").await;
    publish(&bound, "theirs.1", b"forged").await;
    let mut denied = Vec::new();
    let told = async {
        while denied.len() < 2 {
            if let Ok(TransportEvent::PermissionDenied { what }) = events.recv().await {
                denied.push(what);
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("both refusals are told");
    assert!(denied.iter().all(|what| what.contains("theirs.")), "{denied:?}");
    publish(&free, "theirs.2", b"secret").await;
    assert_eq!(next(&mut theirs).await.payload, "secret", "the forged message never came");
    assert_silent(&mut spying).await;
}

async fn disconnection(venue: &dyn Venue) {
    let (a, b) = (open(venue).await, open(venue).await);
    let mut heard = subscribe(&a, "link.>").await;
    barrier(&a, "link").await;
    venue.cut(&a).await;
    wait_link(&a, LinkState::Disconnected).await;
    let failed = a.publish("link.1".to_owned(), None, Bytes::new()).await;
    assert_eq!(failed, Err(PublishError::Disconnected), "a publish without a connection fails fast");
    publish(&b, "link.2", b"lost").await;
    venue.join(&a).await;
    wait_link(&a, LinkState::Connected).await;
    barrier(&a, "joined").await;
    publish(&b, "link.3", b"heard").await;
    assert_eq!(
        next(&mut heard).await.payload,
        "heard",
        "a subscription outlives a reconnect, and nothing is replayed"
    );
}

async fn malformed_patterns(venue: &dyn Venue) {
    let a = open(venue).await;
    for pattern in ["", "a..b", "a b", ">.a"] {
        assert!(a.subscribe(pattern.to_owned(), None).await.is_err(), "{pattern:?} was taken");
    }
    let in_no_group = a.subscribe("a.b".to_owned(), Some("two words".to_owned())).await;
    assert!(in_no_group.is_err(), "a malformed queue group was taken");
    let too_long = "a".repeat(5_000);
    for subject in ["", ".", "a..b", "a.*", "a.>", "a b", "a\r\nPUB b 0\r\n", "a\0", "a\u{2028}b", &too_long]
    {
        for (subject, reply) in [(subject, None), ("fine", Some(subject.to_owned()))] {
            let published = a.publish(subject.to_owned(), reply, Bytes::new()).await;
            assert!(matches!(published, Err(PublishError::Malformed { .. })), "{subject:?}: {published:?}");
        }
    }
}

async fn closing_ends_subscriptions(venue: &dyn Venue) {
    let a = open(venue).await;
    let mut heard = subscribe(&a, "closing").await;
    barrier(&a, "closing").await;
    a.close().await;
    let end = tokio::time::timeout(PATIENCE, heard.next()).await.expect("it ends in time");
    assert_eq!(end, None);
    assert!(a.publish("closing".to_owned(), None, Bytes::new()).await.is_err());
}
