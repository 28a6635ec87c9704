//! The transport battery on a real nats-server. That of platforms is run in `chain`, and in `faults` over a faulty link.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use towline_bus::Transport;
use towline_bus::transport::battery::{Venue, battery};
use towline_bus::transport::fault::{Faults, FaultyTransport};
use towline_bus::transport::nats::{NatsConfig, NatsTransport};
use towline_tests::nats::{NatsServer, Proxy};

/// A server with one user who may do everything, and one who may do what the battery asks for.
struct Nats {
    server: NatsServer,
    proxies: Mutex<HashMap<usize, Proxy>>,
    /// Puts a wrapper without faults before each connection.
    wraps: bool,
}

impl Nats {
    async fn start(wraps: bool) -> Self {
        let users = r#"authorization { users: [
            { user: free, password: free }
            { user: bound, password: bound, permissions: { publish: ["mine.>"], subscribe: ["mine.>"] } }
        ] }"#;
        Self { server: NatsServer::start(users).await, proxies: Mutex::default(), wraps }
    }

    fn with(&self, connection: &Arc<dyn Transport>, act: impl FnOnce(&Proxy)) {
        act(&self.proxies.lock().unwrap()[&key(connection)]);
    }
}

fn key(connection: &Arc<dyn Transport>) -> usize {
    Arc::as_ptr(connection).cast::<()>().addr()
}

#[async_trait]
impl Venue for Nats {
    async fn connect(
        &self,
        publish: Option<Vec<String>>,
        subscribe: Option<Vec<String>>,
    ) -> Arc<dyn Transport> {
        let user = match (publish.as_deref(), subscribe.as_deref()) {
            (None, None) => "free",
            (Some([publish]), Some([subscribe])) if publish == "mine.>" && subscribe == "mine.>" => "bound",
            other => panic!("the server's configuration has no user for {other:?}"),
        };
        let proxy = Proxy::before(self.server.address()).await;
        let server = format!("nats://{user}:{user}@{}", proxy.address());
        let config = NatsConfig { servers: vec![server], name: user.to_owned(), ..NatsConfig::default() };
        let mut connection: Arc<dyn Transport> = NatsTransport::connect(&config).await.unwrap();
        if self.wraps {
            connection = FaultyTransport::over(connection, Faults::default(), 1);
        }
        self.proxies.lock().unwrap().insert(key(&connection), proxy);
        connection
    }

    async fn cut(&self, connection: &Arc<dyn Transport>) {
        self.with(connection, Proxy::cut);
    }

    async fn join(&self, connection: &Arc<dyn Transport>) {
        self.with(connection, Proxy::join);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transport_battery_over_nats() {
    battery(&Nats::start(false).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transport_battery_over_a_wrapper_over_nats() {
    battery(&Nats::start(true).await).await;
}
