//! TLS, web sockets, several servers: N-B18, N-B19.

use std::io::Write;
use std::sync::{Arc, Mutex};

use towline_bus::Transport as _;
use towline_bus::transport::LinkState;
use towline_bus::transport::nats::{NatsConfig, NatsTransport};
use towline_tests::nats::{NatsServer, Proxy, free_port};
use towline_tests::tls::Certificates;
use towline_tests::wait::until;
use tracing_subscriber::fmt::MakeWriter;

use super::{config, connect_with, hear, is_own_process, next, publish};

/// A server with TLS on its plain listener and on its web socket, and the authority that vouches for it.
struct Secured {
    server: NatsServer,
    web: u16,
    certificates: Certificates,
    _folder: tempfile::TempDir,
}

impl Secured {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::new(folder.path());
        let (web, tls) = (free_port(), certificates.block());
        let more = format!("{tls}\nwebsocket {{ listen: \"127.0.0.1:{web}\"\n{tls} }}");
        let server = NatsServer::start(&more).await;
        Self { server, web, certificates, _folder: folder }
    }

    fn config(&self, url: String) -> NatsConfig {
        NatsConfig { ca_file: Some(self.certificates.ca.clone()), ..config(url) }
    }

    fn secure_url(&self) -> String {
        format!("tls://{}", self.server.address())
    }

    fn web_url(&self) -> String {
        format!("wss://127.0.0.1:{}", self.web)
    }
}

/// Both ways: what is published there is heard here, and the other way round, also when it is large.
async fn assert_talks(config: &NatsConfig) {
    let (one, other) = (connect_with(config).await, connect_with(config).await);
    let mut heard = hear(&one, "talk.>", "talk.barrier").await;
    let large = bytes::Bytes::from(vec![7; 900 << 10]);
    publish(&other, "talk.large", large.clone()).await.unwrap();
    assert!(next(&mut heard).await.payload == large);
    for link in [one, other] {
        link.close().await;
    }
}

#[tokio::test]
async fn n_b18_an_own_authority_is_trusted() {
    let secured = Secured::start().await;
    for url in [secured.secure_url(), secured.server.url(), secured.web_url()] {
        assert_talks(&secured.config(url)).await;
    }
}

/// A scratch container has no certificates: with an authority of our own they are not asked for. They would be read at
/// each connect, and what cannot be read would keep us from connecting.
#[test]
fn n_b18_an_own_authority_needs_no_system_store() {
    let broken = [("SSL_CERT_FILE", "/nonexistent/certificates.pem"), ("SSL_CERT_DIR", "/nonexistent")];
    if is_own_process("tls::n_b18_an_own_authority_needs_no_system_store", &broken) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let secured = Secured::start().await;
            for url in [secured.secure_url(), secured.web_url()] {
                connect_with(&secured.config(url)).await;
            }
        });
    }
}

#[tokio::test]
async fn n_b18_a_first_server_that_is_dead_is_passed_over() {
    let secured = Secured::start().await;
    let dead = free_port();
    for (dead, living) in [
        (format!("tls://127.0.0.1:{dead}"), secured.secure_url()),
        (format!("wss://127.0.0.1:{dead}"), secured.web_url()),
    ] {
        let mut config = secured.config(dead);
        config.servers.push(living);
        connect_with(&config).await;
    }
}

/// What the current thread logs.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Not connected, not hanging, and the log says why; without the password that stands in the address.
#[tokio::test]
async fn n_b18_a_stranger_is_refused_with_a_reason() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let secured = Secured::start().await;
    let folder = tempfile::tempdir().unwrap();
    let stranger = Certificates::new(folder.path());
    let addresses = [
        format!("tls://user:secret-word@{}", secured.server.address()),
        format!("wss://user:secret-word@127.0.0.1:{}", secured.web),
    ];
    for (number, url) in addresses.into_iter().enumerate() {
        let config = NatsConfig { ca_file: Some(stranger.ca.clone()), ..config(url) };
        let link = NatsTransport::connect(&config).await.unwrap();
        let reason = "could not connect to NATS; trying again";
        until("the reason to be logged", || async {
            let text = log.text();
            let mut told = text
                .lines()
                .filter(|line| line.contains(reason) && line.contains("invalid peer certificate"));
            told.nth(number)?;
            Some(())
        })
        .await;
        assert_eq!(*link.link().borrow(), LinkState::Disconnected);
        assert!(publish(&link, "any", "").await.is_err());
        link.close().await;
    }
    assert!(!log.text().contains("secret-word"), "{}", log.text());
}

/// A server without TLS, or somebody between who takes the offer of it away: with an authority named, nothing is said in
/// the clear.
#[tokio::test]
async fn n_b18_nothing_is_said_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(folder.path());
    let plain = NatsServer::start("").await;
    let proxy = Proxy::before(plain.address()).await;
    let config = NatsConfig { ca_file: Some(certificates.ca), ..config(proxy.url()) };
    let link = NatsTransport::connect(&config).await.unwrap();
    until("two attempts", || async { (proxy.attempts().len() >= 2).then_some(()) }).await;
    assert_eq!(*link.link().borrow(), LinkState::Disconnected);
}

/// One provider for the process, however many connections there are and whoever else uses rustls.
#[tokio::test]
async fn n_b19_the_tls_provider_is_installed_once() {
    let secured = Secured::start().await;
    let config = secured.config(secured.secure_url());
    let (_one, _other) = tokio::join!(connect_with(&config), connect_with(&config));
    let roots = rustls::RootCertStore::empty();
    // Panics where no provider is installed, or two could be.
    let _client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    assert!(rustls::crypto::CryptoProvider::get_default().is_some());
}
