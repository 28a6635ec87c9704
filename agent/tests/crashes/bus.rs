//! What the agent under test dials: a real nats-server, with the hub's half of the bus in this process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use tokio_util::task::TaskTracker;
use towline_bus::{
    MessageBus,
    authority::MemoryAuthority,
    message_bus::BusConfig,
    metrics::BusMetrics,
    transport::nats::{NatsConfig, NatsTransport},
};

use crate::until;

/// A nats-server, and a connection to it. Dropping it kills the server.
pub(crate) struct Bus {
    server: Child,
    pub(crate) url: String,
    transport: Arc<NatsTransport>,
    _dir: tempfile::TempDir,
}

impl Bus {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // It chooses the port, and writes it down: nobody else can take it in between.
        let server = Command::new(server_binary())
            .args(["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = until("the nats-server to say its port", async || url_in(dir.path())).await;
        let config = NatsConfig { servers: vec![url.clone()], ..NatsConfig::default() };
        let transport = NatsTransport::connect(&config).await.unwrap();
        Self { server, url, transport, _dir: dir }
    }

    /// A hub that has never heard of any agent: it does not wait for the lease of one that was killed.
    pub(crate) async fn hub(&self) -> MessageBus {
        let authority = Arc::new(MemoryAuthority::new());
        let transport = Arc::<NatsTransport>::clone(&self.transport);
        let metrics = BusMetrics::unregistered();
        let started = MessageBus::start(transport, authority, BusConfig::default(), metrics).await;
        let (hub, mut events) = started.unwrap();
        TaskTracker::new().spawn(async move { while events.recv().await.is_some() {} });
        hub
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// The server that `make test` installs.
fn server_binary() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/nats-server");
    let output = Command::new(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/nats-server failed, and this test needs what it installs");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

fn url_in(dir: &Path) -> Option<String> {
    let mut entries = fs::read_dir(dir).unwrap().flatten();
    let ports = entries.find(|entry| entry.path().extension().is_some_and(|end| end == "ports"))?;
    // Until it is whole it is no JSON.
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(ports.path()).ok()?).ok()?;
    Some(ports.pointer("/nats/0")?.as_str()?.to_owned())
}
