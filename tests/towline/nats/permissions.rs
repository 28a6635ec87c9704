//! What an agent may do on the bus, as the bus server itself enforces it.

use futures::FutureExt as _;
use tokio::sync::broadcast;
use towline_bus::platform::{CallContext, Ends, battery};
use towline_bus::transport::{Transport, TransportEvent};
use towline_bus::{Platform as _, transport};
use towline_tests::chain::{HubChain, Wire, nats_link};
use towline_tests::permissions::{OBSERVER, url};
use towline_tests::wait::PATIENCE;

/// What marks the messages that must never arrive.
const FORGED: &[u8] = b"forged";
const MARKER: &[u8] = b"marker";

/// What A may not hear: B's calls and control frames, the hub's answers to B, anybody's replies, heartbeats and
/// questions, whatever is wider than its own, and what NATS uses by itself.
const MAY_NOT_HEAR: [&str; 24] = [
    "tl.c.default.b.>",
    "tl.c.default.b.1.apply",
    "tl.k.default.b.>",
    "tl.k.default.b.1.session",
    "tl.i.default.b.>",
    "tl.r.default.b.>",
    "tl.e.default.b.>",
    "tl.q.default.b.>",
    "tl.r.default.a.>",
    "tl.q.default.a.>",
    "tl.e.default.a.>",
    "tl.c.default.*.>",
    "tl.c.default.*.1.apply",
    "tl.c.*.a.>",
    "tl.c.other.a.>",
    "tl.*.default.a.>",
    "tl.c.default.>",
    "tl.c.>",
    "tl.>",
    ">",
    "*.c.default.b.>",
    "_INBOX.>",
    "$SYS.>",
    "$JS.>",
];

/// What A may not say: B's answers, heartbeats and questions; what only the hub says, to B, to itself and to all; and
/// what NATS listens to by itself.
const MAY_NOT_SAY: [&str; 20] = [
    "tl.r.default.b.0123456789abcdef0123456789abcdef.1",
    "tl.r.other.a.0123456789abcdef0123456789abcdef.1",
    "tl.e.default.b.heartbeat",
    "tl.q.default.b.claim",
    "tl.q.default.b.ready",
    "tl.q.default.b.stand-down",
    "tl.q.default.b.goodbye",
    "tl.c.default.b.1.apply",
    "tl.k.default.b.1.session",
    "tl.k.default.b.1.7",
    "tl.i.default.b.0123456789abcdef0123456789abcdef.1",
    "tl.c.default.a.1.apply",
    "tl.k.default.a.1.session",
    "tl.i.default.a.0123456789abcdef0123456789abcdef.1",
    "tl.b.all",
    "tl.n.enrol",
    "xx.r.default.a.1",
    "_INBOX.x",
    "$JS.API.INFO",
    "$SYS.REQ.SERVER.PING",
];

/// Waits until the server says that it refused this, in its own words.
async fn denied(events: &mut broadcast::Receiver<TransportEvent>, what: &str, subject: &str) {
    let refusal = format!("{what} to \"{subject}\"").to_ascii_lowercase();
    let told = async {
        loop {
            if let Ok(TransportEvent::PermissionDenied { what }) = events.recv().await {
                assert!(what.to_ascii_lowercase().contains(&refusal), "{what}, and not {refusal}");
                return;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await;
    assert!(told.is_ok(), "the server did not refuse `{what}` to {subject}");
}

/// Reads up to the marker; whatever is read after the marker was sent can only come after it.
async fn up_to_marker(subscription: &mut transport::Subscription) -> Vec<transport::Message> {
    let mut found = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, subscription.next()).await;
        let message = next.expect("the marker comes").expect("the connection stands");
        if message.payload == MARKER {
            return found;
        }
        found.push(message);
    }
}

/// X-A7: A can neither read B's calls, nor answer them, nor publish as B.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_a7_the_server_itself_denies_what_is_another_agents() {
    let hub = HubChain::start_over(Wire::guarded(&["a", "b"]).await).await;
    let (_, of_a) = hub.mock("a").await;
    let (of_b, subscription) = hub.mock("b").await;
    of_b.set_version("b's own");
    let observer = nats_link(url(hub.wire.server(), OBSERVER)).await;
    until_connected(&*observer).await;
    let mut everything = observer.subscribe(">".to_owned(), None).await.unwrap();

    let hostile = hub.wire.agent_link("a").await;
    until_connected(&*hostile).await;
    let mut events = hostile.events();
    let mut heard = Vec::new();
    for pattern in MAY_NOT_HEAR {
        // With and without a queue group: a member of one would even take the message away.
        for queue in [None, Some("q".to_owned())] {
            heard.push((pattern, hostile.subscribe(pattern.to_owned(), queue).await.unwrap()));
            denied(&mut events, "subscription", pattern).await;
        }
    }
    for subject in MAY_NOT_SAY {
        hostile.publish(subject.to_owned(), None, FORGED.into()).await.unwrap();
        denied(&mut events, "publish", subject).await;
    }

    // Calls to B, and an answer, go past A.
    assert_eq!(hub.platform("b").version(&CallContext::new()).await.as_deref(), Ok("b's own"));
    let mut allowed = hostile.subscribe("tl.b.>".to_owned(), None).await.unwrap();
    // What one connection says is handled in order: when its permitted word has arrived, so has its subscription.
    hostile.publish("tl.e.default.a.probe".to_owned(), None, MARKER.into()).await.unwrap();
    let said = up_to_marker(&mut everything).await;
    assert!(
        said.iter().any(|message| message.subject.starts_with("tl.c.default.b.")),
        "the observer sees all"
    );
    assert!(said.iter().all(|message| message.payload != FORGED), "nothing forged arrived: {said:?}");
    observer.publish("tl.b.all".to_owned(), None, MARKER.into()).await.unwrap();
    assert!(up_to_marker(&mut allowed).await.is_empty());
    for (pattern, mut subscription) in heard {
        let arrived = subscription.next().now_or_never().flatten();
        assert!(arrived.is_none(), "{pattern} heard {arrived:?}");
    }
    drop((of_a, subscription));
}

/// And with these rights an agent can do all that it has to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b_battery_over_nats_under_the_permissions_of_x_a7() {
    let hub = HubChain::start_over(Wire::guarded(&["a", "b"]).await).await;
    let (mock, subscription) = hub.mock("a").await;
    battery(Ends { near: &hub.platform("a"), far: &mock }).await;
    // A takeover, too: a kick, a stand-down, a go.
    let (_, second) = hub.mock("a").await;
    second.leave().await;
    drop(subscription);
    hub.stop().await;
}

async fn until_connected(link: &dyn Transport) {
    let mut state = link.link();
    let connected = state.wait_for(|state| *state == transport::LinkState::Connected);
    tokio::time::timeout(PATIENCE, connected).await.expect("it connects").expect("the transport stands");
}
