//! The shim's socket: whoever connects is told every state, and may send commands. JSON, one line each.

use std::{
    fs::{File, Permissions},
    io,
    os::{
        fd::AsFd as _,
        unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{Command, SOCKET, short_path, state::UnitState};

/// Connections served at once: the agent's, and a few of those who look by hand.
const MAX_CONNECTIONS: usize = 8;
/// Longest command line in bytes.
const MAX_LINE: u64 = 4096;
/// How long a peer may take to accept a line before it is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last state may take to reach those who listen.
const FAREWELL: Duration = Duration::from_secs(1);

/// The listening socket that the agent handed over as standard input, or one of our own.
pub(super) fn listener(dir: &Path) -> io::Result<UnixListener> {
    let stdin = io::stdin();
    let listener = if rustix::net::sockopt::socket_acceptconn(stdin.as_fd()).unwrap_or(false) {
        StdListener::from(rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3)?)
    } else {
        bind(dir)?
    };
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Binds the socket of the unit in `dir`; one that a dead shim left is replaced.
pub(crate) fn bind(dir: &Path) -> io::Result<StdListener> {
    match std::fs::remove_file(dir.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(short_path(&File::open(dir)?, SOCKET))?;
    // The directory keeps others out already; this is the second lock on the door.
    std::fs::set_permissions(dir.join(SOCKET), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The serving side, until the states end.
#[derive(Debug)]
pub(super) struct Link(JoinSet<()>);

impl Link {
    pub(super) fn start(
        listener: UnixListener,
        states: watch::Receiver<UnitState>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, states, commands));
        Self(tasks)
    }

    /// Call when the sender of states is gone: lets the last state reach everyone, then closes.
    pub(super) async fn finish(mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if timeout(FAREWELL, all).await.is_err() {
            self.0.shutdown().await;
        }
    }
}

async fn accept(
    listener: UnixListener,
    mut states: watch::Receiver<UnitState>,
    commands: mpsc::Sender<Command>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ended(&mut states) => break,
        };
        while connections.try_join_next().is_some() {}
        // A peer that gave up before it was accepted is no reason to stop.
        let Ok((stream, _)) = stream else { continue };
        let (states, commands) = (states.clone(), commands.clone());
        connections.spawn(async move {
            serve(stream, states, commands).await;
            drop(slot);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn ended(states: &mut watch::Receiver<UnitState>) {
    while states.changed().await.is_ok() {}
}

async fn serve(stream: UnixStream, mut states: watch::Receiver<UnitState>, commands: mpsc::Sender<Command>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MAX_LINE)).lines();
    states.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = states.changed() => {
                if changed.is_err() {
                    break;
                }
                let state = states.borrow_and_update().clone();
                let Ok(mut line) = serde_json::to_vec(&state) else { break };
                line.push(b'\n');
                if !matches!(timeout(PATIENCE, write.write_all(&line)).await, Ok(Ok(()))) {
                    break;
                }
            }
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { break };
                lines.get_mut().get_mut().set_limit(MAX_LINE);
                if let Some(command) = Command::read(&line)
                    && commands.send(command).await.is_err()
                {
                    break;
                }
            }
        }
    }
}
