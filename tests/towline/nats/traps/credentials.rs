//! Who we are to the server, and when it does not take that: N-B9, N-B10, N-B11, N-B13.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use towline_bus::Transport as _;
use towline_bus::transport::nats::{NatsConfig, NatsTransport};
use towline_bus::transport::{LinkState, TransportEvent};
use towline_tests::jwt::{Operator, User};
use towline_tests::nats::{NatsServer, Proxy};

use super::{await_link, config, connect_with, hear, next, publish, told};

/// A server in operator mode, a proxy before it, and a file for credentials.
struct Guarded {
    operator: Operator,
    server: NatsServer,
    proxy: Proxy,
    path: PathBuf,
}

impl Guarded {
    async fn start() -> Self {
        let operator = Operator::default();
        let server = NatsServer::start(&operator.config()).await;
        let proxy = Proxy::before(server.address()).await;
        let path = server.dir().join("user.creds");
        Self { operator, server, proxy, path }
    }

    fn config(&self) -> NatsConfig {
        let mut config = config(self.proxy.url());
        config.credentials = Some(self.path.clone());
        config
    }

    fn write(&self, user: &User) {
        self.operator.write_credentials(user, &self.path);
    }

    fn attempts_since(&self, since: Instant) -> usize {
        self.proxy.attempts().iter().filter(|at| **at >= since).count()
    }
}

fn is_refusal(event: &TransportEvent) -> bool {
    matches!(event, TransportEvent::CredentialsRefused { .. })
}

fn only(patterns: &[&str]) -> User {
    User { allow: Some(patterns.iter().map(|&pattern| pattern.to_owned()).collect()), ..User::default() }
}

/// In the very second in which a JWT ends the server takes it, and ends the connection at once. async-nats by itself came
/// back 217 times in that second.
#[tokio::test]
async fn n_b9_expired_credentials_make_no_hot_loop() {
    let guarded = Guarded::start().await;
    guarded.write(&User { expires_in: Some(3), ..User::default() });
    let link = connect_with(&guarded.config()).await;
    let mut events = link.events();
    await_link(&link, LinkState::Disconnected).await;
    let ended_at = Instant::now();
    told(&mut events, is_refusal).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let attempts = guarded.attempts_since(ended_at);
    assert!((1..=14).contains(&attempts), "{attempts} attempts in four seconds");
    // Renewed, it comes back by itself.
    guarded.write(&User::default());
    await_link(&link, LinkState::Connected).await;
}

/// Revoking reaches who is connected, at once; renewed credentials bring him back by themselves.
#[tokio::test]
async fn n_b10_revoked_credentials_end_the_connection_and_are_told() {
    let guarded = Guarded::start().await;
    guarded.write(&User::default());
    let link = connect_with(&guarded.config()).await;
    let mut events = link.events();
    guarded.server.reload(&guarded.operator.config_that_revokes());
    await_link(&link, LinkState::Disconnected).await;
    let ended_at = Instant::now();
    let TransportEvent::CredentialsRefused { what } = told(&mut events, is_refusal).await else {
        unreachable!("it was looked for");
    };
    assert!(what.to_lowercase().contains("revoked"), "it is told why: {what}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let attempts = guarded.attempts_since(ended_at);
    assert!((1..=14).contains(&attempts), "{attempts} attempts in four seconds");
    guarded.write(&User::default());
    await_link(&link, LinkState::Connected).await;
}

/// Credentials that are refused may be mended at any time: they are tried for ever, ever more seldom, and it is told.
#[tokio::test]
async fn n_b10_refused_credentials_are_told_and_tried_slowly() {
    let guarded = Guarded::start().await;
    guarded.operator.with_unknown_account().write_credentials(&User::default(), &guarded.path);
    let begun = Instant::now();
    let link = NatsTransport::connect(&guarded.config()).await.unwrap();
    let mut events = link.events();
    let TransportEvent::CredentialsRefused { what } = told(&mut events, is_refusal).await else {
        unreachable!("it was looked for");
    };
    assert!(what.to_lowercase().contains("authorization violation"), "{what}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let attempts = guarded.attempts_since(begun);
    assert!((2..=9).contains(&attempts), "{attempts} attempts in four seconds");
    guarded.write(&User::default());
    await_link(&link, LinkState::Connected).await;
}

/// async-nats reads a file of credentials once.
#[tokio::test]
async fn n_b11_credentials_are_read_at_each_connect() {
    let guarded = Guarded::start().await;
    let free_path = guarded.server.dir().join("free.creds");
    guarded.operator.write_credentials(&User::default(), &free_path);
    let listening = NatsConfig { credentials: Some(free_path), ..config(guarded.server.url()) };
    let listening = connect_with(&listening).await;
    let mut heard = hear(&listening, "user.>", "user.barrier").await;
    guarded.write(&only(&["user.first.>"]));
    let link = connect_with(&guarded.config()).await;
    publish(&link, "user.second.early", "").await.unwrap();
    publish(&link, "user.first.1", "").await.unwrap();
    assert_eq!(&*next(&mut heard).await.subject, "user.first.1", "the first user may not do more");
    // Gone, then malformed, then another user's: what is there when it connects counts.
    std::fs::remove_file(&guarded.path).unwrap();
    guarded.proxy.cut();
    await_link(&link, LinkState::Disconnected).await;
    let mut events = link.events();
    guarded.proxy.join();
    told(&mut events, is_refusal).await;
    std::fs::write(&guarded.path, "these are no credentials").unwrap();
    told(&mut events, is_refusal).await;
    guarded.write(&only(&["user.second.>"]));
    await_link(&link, LinkState::Connected).await;
    publish(&link, "user.first.2", "").await.unwrap();
    publish(&link, "user.second.1", "").await.unwrap();
    assert_eq!(&*next(&mut heard).await.subject, "user.second.1", "it is the second user now");
}

/// The callback's answer replaces whatever else is known of us, and its signature is raw: the client encodes it.
#[tokio::test]
async fn n_b13_credentials_go_before_a_user_in_the_address() {
    let guarded = Guarded::start().await;
    guarded.write(&User::default());
    let mut config = guarded.config();
    config.servers = vec![format!("nats://somebody:else@{}", guarded.proxy.address())];
    let link = connect_with(&config).await;
    publish(&link, "any", "").await.unwrap();
}
