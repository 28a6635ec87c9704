//! A real nats-server, on a port of its own, gone afterwards; and a proxy that cuts what goes through it.

mod proxy;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::wait::until;

pub use self::proxy::Proxy;

/// The server that `make test` installs.
///
/// # Panics
/// When it is not there; the message says how to get it.
#[must_use]
pub fn server_binary() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/nats-server");
    let found = Command::new(&script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = found.unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    assert!(output.status.success(), "{} failed; `make test` needs it", script.display());
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct NatsServer {
    child: Mutex<Option<Child>>,
    port: u16,
    dir: TempDir,
}

impl NatsServer {
    /// A server with defaults, and with what `more` adds to its configuration.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(more: &str) -> Self {
        Self::start_at(free_port(), more).await
    }

    /// The same on a port that is already known to somebody.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_at(port: u16, more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a place for the server's files");
        let server = Self { child: Mutex::new(None), port, dir };
        server.configure(more);
        server.restart().await;
        server
    }

    /// Two servers of one cluster, once they know each other: what is published at one is heard at the other.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn pair() -> [Self; 2] {
        let (one, other) = (free_port(), free_port());
        let pair = [Self::start(&cluster(one, other)).await, Self::start(&cluster(other, one)).await];
        for server in &pair {
            let log = server.dir().join("nats.log");
            until("the cluster to stand", || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                std::future::ready(text.contains("Route connection created").then_some(()))
            })
            .await;
        }
        pair
    }

    /// `nats://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Its folder: configuration, log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.lock().as_ref().expect("the server runs").id()
    }

    /// Kills it, if it runs.
    pub fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            // It may have ended by itself; either way it is gone after the wait.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port, if it does not run.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub async fn restart(&self) {
        self.kill();
        let log = self.dir.path().join("nats.log");
        let child = Command::new(server_binary())
            .arg("--config")
            .arg(self.dir.path().join("nats.conf"))
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .spawn()
            .expect("the server's binary can be started");
        *self.lock() = Some(child);
        let address = self.address();
        until(&format!("nats-server at {address}; see {}", log.display()), || async move {
            TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// Stops it where it stands: it accepts and answers nothing, and no connection ends.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Lets it read another configuration while it runs.
    ///
    /// # Panics
    /// When it does not run.
    pub fn reload(&self, more: &str) {
        self.configure(more);
        self.tell("reload");
    }

    fn configure(&self, more: &str) {
        let config = format!("listen: \"127.0.0.1:{}\"\n{more}\n", self.port);
        std::fs::write(self.dir.path().join("nats.conf"), config).expect("the place can be written");
    }

    /// Asks it to leave: it tells its clients, accepts none, and ends some time later.
    ///
    /// # Panics
    /// When it does not run.
    pub fn leave(&self) {
        self.tell("ldm");
    }

    fn tell(&self, word: &str) {
        let status = Command::new(server_binary())
            .arg("--signal")
            .arg(format!("{word}={}", self.pid()))
            .stdin(Stdio::null())
            .status()
            .expect("the server's binary can be started");
        assert!(status.success(), "nats-server does not take the signal");
    }

    fn signal(&self, signal: Signal) {
        let pid = self.lock().as_ref().map(Pid::from_child).expect("the server runs");
        kill_process(pid, signal).expect("our own child takes signals");
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("no holder of this lock panics")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Configuration of one of two servers: its own port for the other, and the other's.
fn cluster(own: u16, peer: u16) -> String {
    format!(
        "server_name: s{own}\ncluster {{ name: pair, listen: \"127.0.0.1:{own}\", \
         routes: [\"nats://127.0.0.1:{peer}\"] }}"
    )
}

/// A port that was free a moment ago.
///
/// # Panics
/// When the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
