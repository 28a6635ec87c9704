//! What async-nats does that bites, N-B1 to N-B20, on a real nats-server. `docs/nats-traps.md` says what each is about.

mod calls;
mod credentials;
mod events;
mod publishing;
mod reconnecting;
mod tls;

use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use prometheus::IntCounterVec;
use towline_bus::Transport as _;
use towline_bus::transport::nats::{NatsConfig, NatsTransport};
use towline_bus::transport::{LinkState, Message, PublishError, Subscription, TransportEvent};
use towline_tests::wait::{PATIENCE, until};

fn config(url: impl Into<String>) -> NatsConfig {
    NatsConfig { servers: vec![url.into()], name: "trap".to_owned(), ..NatsConfig::default() }
}

/// A connection that stands.
async fn connect(url: impl Into<String>) -> Arc<NatsTransport> {
    connect_with(&config(url)).await
}

async fn connect_with(config: &NatsConfig) -> Arc<NatsTransport> {
    let link = NatsTransport::connect(config).await.expect("addresses and files are in order");
    await_link(&link, LinkState::Connected).await;
    link
}

async fn await_link(link: &NatsTransport, wanted: LinkState) {
    let mut state = link.link();
    in_time(&format!("the link to be {wanted:?}"), state.wait_for(|state| *state == wanted)).await.unwrap();
}

async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

async fn publish(link: &NatsTransport, subject: &str, payload: impl Into<Bytes>) -> Result<(), PublishError> {
    link.publish(subject.to_owned(), None, payload.into()).await
}

async fn subscribe(link: &NatsTransport, pattern: &str) -> Subscription {
    link.subscribe(pattern.to_owned(), None).await.expect("the pattern is well formed")
}

/// A subscription that the server is known to have: a message of its own connection has come back.
async fn hear(link: &NatsTransport, pattern: &str, own: &str) -> Subscription {
    let mut heard = subscribe(link, pattern).await;
    publish(link, own, "barrier").await.expect("connected");
    assert_eq!(next(&mut heard).await.payload, "barrier");
    heard
}

async fn next(subscription: &mut Subscription) -> Message {
    in_time("a message", subscription.next()).await.expect("the subscription is open")
}

/// Waits for an event that `is_it` knows.
async fn told(
    events: &mut tokio::sync::broadcast::Receiver<TransportEvent>,
    is_it: impl Fn(&TransportEvent) -> bool,
) -> TransportEvent {
    let told = async {
        loop {
            if let Ok(event) = events.recv().await
                && is_it(&event)
            {
                return event;
            }
        }
    };
    in_time("an event of the transport", told).await
}

/// Waits until something was refused for this reason.
async fn counted(refusals: &IntCounterVec, reason: &str) -> u64 {
    until(&format!("refusals to be counted as {reason}"), || async {
        Some(refusals.with_label_values(&[reason]).get()).filter(|count| *count > 0)
    })
    .await
}

const IS_CHILD: &str = "TOWLINE_TRAP_CHILD";

/// Runs the calling test again as a process of its own with this environment, and says whether this is that process:
/// then the test goes on. For what a process has one of, like its memory.
fn is_own_process(test: &str, environment: &[(&str, &str)]) -> bool {
    if std::env::var_os(IS_CHILD).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("a test knows its own path"))
        .args([&format!("nats::traps::{test}"), "--exact", "--nocapture"])
        .env(IS_CHILD, "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the test can be started again");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    false
}
