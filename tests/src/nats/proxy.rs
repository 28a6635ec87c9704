//! What stands between a client and its server: it cuts, slows down, and counts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use towline_bus::task::Tasks;

/// Bytes that are passed on at once.
const PIECE: usize = 16 << 10;

/// Bytes that the kernel keeps for a proxy to read.
const KERNEL_BYTES_MAX: u32 = 256 << 10;

/// Passes bytes to a server until it is cut: then connections end, and new ones are refused.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Shared {
    cut: watch::Sender<bool>,
    /// Bytes a second towards the server, and towards the clients; 0 is as many as come.
    rates: [AtomicU64; 2],
    /// Bytes that came from the clients, and from the server.
    passed: [AtomicU64; 2],
    attempts: Mutex<Vec<Instant>>,
    open: AtomicUsize,
}

impl Proxy {
    /// A proxy before this server.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn before(target: SocketAddr) -> Self {
        let listener = listen().expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            cut: watch::Sender::new(false),
            rates: Default::default(),
            passed: Default::default(),
            attempts: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let tasks = Tasks::new();
        let (of_all, connections) = (shared.clone(), tasks.clone());
        let stopping = tasks.stopping().clone();
        tasks.spawn("proxy", async move {
            while let Some(Ok((near, _))) = stopping.run_until_cancelled(listener.accept()).await {
                of_all.attempts.lock().expect("no holder of this lock panics").push(Instant::now());
                let (shared, stopping) = (of_all.clone(), stopping.clone());
                connections.spawn_isolated("proxied connection", async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    // As the ends themselves do: small messages do not wait for each other.
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let mut cut = shared.cut.subscribe();
                    shared.open.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        () = pass(near, far, &shared) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                        () = stopping.cancelled() => {}
                    }
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, shared, tasks }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `nats://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Ends every connection; new ones end at once.
    pub fn cut(&self) {
        self.shared.cut.send_replace(true);
    }

    /// Lets connections through again.
    pub fn join(&self) {
        self.shared.cut.send_replace(false);
    }

    /// Passes on at most so many bytes a second towards the server.
    pub fn slow_down(&self, bytes_per_second: u64) {
        let [to_server, _] = &self.shared.rates;
        to_server.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Passes on at most so many bytes a second towards the clients.
    pub fn slow_down_answers(&self, bytes_per_second: u64) {
        let [_, to_clients] = &self.shared.rates;
        to_clients.store(bytes_per_second, Ordering::Relaxed);
    }

    /// How many bytes came so far from the clients, and from the server: all that TCP carries, its own headers aside.
    #[must_use]
    pub fn passed(&self) -> [u64; 2] {
        self.shared.passed.each_ref().map(|passed| passed.load(Ordering::Relaxed))
    }

    /// When a client tried to connect.
    ///
    /// # Panics
    /// Never: no holder of the lock panics.
    #[must_use]
    pub fn attempts(&self) -> Vec<Instant> {
        self.shared.attempts.lock().expect("no holder of this lock panics").clone()
    }

    /// How many connections reach the server now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

/// A listener whose connections hold little: what waits before a slow proxy waits at its client, not in the kernel, which makes
/// room for megabytes.
fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(KERNEL_BYTES_MAX)?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    socket.listen(1_024)
}

/// Passes bytes both ways. What a side has sent before it closed reaches the other.
async fn pass(mut near: TcpStream, mut far: TcpStream, shared: &Shared) {
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    let [from_clients, from_server] = &shared.passed;
    let [to_server, to_clients] = &shared.rates;
    let up = copy(&mut from_near, &mut to_far, to_server, from_clients);
    let down = copy(&mut from_far, &mut to_near, to_clients, from_server);
    tokio::pin!(up, down);
    tokio::select! {
        // The client has gone; the server still reads what it sent, unless it is reset meanwhile.
        () = &mut up => down.await,
        // The server has gone: nobody reads the rest.
        () = &mut down => {}
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    rate: &AtomicU64,
    passed: &AtomicU64,
) {
    let mut piece = vec![0; PIECE];
    let mut is_heard = true;
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        is_heard = is_heard && to.write_all(piece.get(..read).unwrap_or_default()).await.is_ok();
        let bytes = u64::try_from(read).unwrap_or(0);
        passed.fetch_add(bytes, Ordering::Relaxed);
        if let Some(pause) = (bytes * 1_000_000).checked_div(rate.load(Ordering::Relaxed)) {
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }
    // The end travels on as the end.
    let _ = to.shutdown().await;
}
