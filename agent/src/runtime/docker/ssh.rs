//! One SSH connection to a host, for all that is asked of its engine: the system's `ssh`, which forwards a private socket (decision
//! 0019).
//!
//! ```text
//! client ──────────────► DIR/engine.sock ─► ssh ─► sshd of the host ─► its engine
//! health checks ─ SOCKS ─► DIR/ports.sock ─┘                        └► ports of its containers
//! ```
//!
//! A task begins it, notes what it says, and begins it again when it has ended, ever more slowly, until the runtime closes.

mod command;
mod words;

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStderr, Command},
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use towline_bus::{
    clock::{self, Moment},
    task::Tasks,
};

use super::endpoint::SshConfig;

/// Waits between two attempts: the first, doubled each time up to the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between two looks whether the socket is there.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of what it says that are kept.
const LINES: usize = 20;
/// Bytes from which on one of them is cut: the host's greeting may come with it, and be anything.
const LINE_MAX: usize = 4 << 10;
/// How long what it says of one way through it may be why that failed.
const FRESH: Duration = Duration::from_secs(2);
/// The longest path that a socket may have.
const SOCKET_CHARS_MAX: usize = 100;

/// A connection that is kept up. It ends with the tasks that it was opened among.
#[derive(Debug)]
pub(super) struct Tunnel {
    inner: Arc<Inner>,
    state: watch::Receiver<State>,
}

#[derive(Debug)]
struct Inner {
    config: SshConfig,
    /// Of the agent, which ties `ssh` to its own life and tells it a password.
    program: PathBuf,
    dir: PathBuf,
    state: watch::Sender<State>,
    /// What `ssh` said last, and when.
    lines: Mutex<VecDeque<(Moment, String)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Tries,
    Up,
    /// It did not get through, and goes on trying; why.
    Down(String),
}

impl Tunnel {
    /// Begins to connect. `program` is that of the agent.
    pub(super) fn open(config: SshConfig, program: &Path, tasks: &Tasks) -> Self {
        let dir = std::env::temp_dir().join(format!("towline-ssh-{}", uuid::Uuid::new_v4().simple()));
        let (sender, state) = watch::channel(State::Tries);
        let inner =
            Inner { config, program: program.to_owned(), dir, state: sender, lines: Mutex::default() };
        let inner = Arc::new(inner);
        tasks.spawn("ssh", supervise(Arc::clone(&inner), tasks.stopping().clone()));
        Self { inner, state }
    }

    /// The socket that leads to the engine, once the connection is up.
    ///
    /// # Errors
    /// Why there is no way through.
    pub(super) async fn socket(&self) -> Result<PathBuf, String> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| *state != State::Tries);
        // Whoever tries says it when its time is over; this is for a connection that hangs in the middle.
        let patience = self.inner.config.timeout + BACK_OFF.1;
        match tokio::time::timeout(patience, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Down(why) => Err(why.clone()),
                _ => Ok(self.inner.socket()),
            },
            Ok(Err(_)) => Err("the agent ends".to_owned()),
            Err(_) => Err(self.inner.why("it does not get through")),
        }
    }

    /// The socket of a SOCKS proxy that leads to what the host reaches. Nobody listens there while the connection is down.
    pub(super) fn ports(&self) -> PathBuf {
        self.inner.ports()
    }

    /// Whether the connection is up.
    pub(super) fn is_up(&self) -> bool {
        self.inner.is_up()
    }

    /// What `ssh` said last, for an error that does not say why.
    pub(super) fn last_words(&self) -> Option<String> {
        let lines = self.inner.lines();
        let now = clock::now();
        // A health check that led nowhere a while ago is not why the engine is silent.
        let counts =
            |(said, line): &&(Moment, String)| !words::is_of_one_way(line) || now.since(*said) < FRESH;
        lines.iter().rev().find(counts).map(|(_, line)| line.clone())
    }

    /// The far end, as people write it.
    pub(super) fn place(&self) -> String {
        let SshConfig { user, address, port, engine, .. } = &self.inner.config;
        format!("ssh://{user}@{address}:{port} to {engine}")
    }
}

async fn supervise(inner: Arc<Inner>, stopping: CancellationToken) {
    let (mut wait, mut since) = (BACK_OFF.0, clock::now());
    while !stopping.is_cancelled() {
        let why = match inner.begin() {
            Ok(child) => inner.attend(child, &stopping).await,
            Err(why) => why,
        };
        if inner.is_up() {
            // It was through, so that it is lost is news.
            (wait, since) = (BACK_OFF.0, clock::now());
            tracing::warn!(why, host = inner.config.address, "an ssh connection was lost");
            inner.state.send_replace(State::Tries);
        } else if words::will_not_heal(&why) || clock::now().since(since) > inner.config.timeout {
            inner.state.send_replace(State::Down(why));
        }
        stopping.run_until_cancelled(sleep(wait)).await;
        wait = (wait * 2).min(BACK_OFF.1);
    }
    if let Err(error) = fs::remove_dir_all(&inner.dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %inner.dir.display(), "what an ssh connection left cannot be removed");
    }
}

impl Inner {
    fn socket(&self) -> PathBuf {
        self.dir.join("engine.sock")
    }

    fn ports(&self) -> PathBuf {
        self.dir.join("ports.sock")
    }

    fn is_up(&self) -> bool {
        *self.state.borrow() == State::Up
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<(Moment, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `what` with its reason, from what was said.
    fn why(&self, what: &str) -> String {
        let said: Vec<String> = self.lines().iter().map(|(_, line)| line.clone()).collect();
        words::explain(&said, &self.config).unwrap_or_else(|| what.to_owned())
    }

    /// Starts `ssh`.
    fn begin(&self) -> Result<Child, String> {
        let socket = self.socket();
        if socket.as_os_str().len() > SOCKET_CHARS_MAX {
            return Err(format!(
                "{} is too long for a socket: set TMPDIR to a shorter path",
                socket.display()
            ));
        }
        let unusable = |error: io::Error| format!("cannot use {}: {error}", self.dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(unusable)?;
        for socket in [&socket, &self.ports()] {
            match fs::remove_file(socket) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
                _ => {}
            }
        }
        self.lines().clear();
        let mut command = Command::new(&self.program);
        command.args(["tether", &std::process::id().to_string(), "ssh"]);
        command.args(command::arguments(&self.config, &socket, &self.ports())).env_clear();
        command.envs(command::environment(&self.config, &self.program));
        // Found as the agent finds it.
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().map_err(|error| format!("cannot start {}: {error}", self.program.display()))
    }

    /// Attends to `ssh` until it ends, or is to; says why it ended.
    async fn attend(&self, mut child: Child, stopping: &CancellationToken) -> String {
        let listened = stopping.run_until_cancelled(self.listen(&mut child)).await;
        if listened.is_none()
            && let Err(error) = child.start_kill()
        {
            tracing::warn!(%error, "an ssh connection cannot be ended");
        }
        match child.wait().await {
            Ok(status) => self.why(&format!("ssh ended with {status}")),
            Err(error) => self.why(&format!("ssh ended: {error}")),
        }
    }

    /// Notes what it says, and when the way is open, until it says no more.
    async fn listen(&self, child: &mut Child) {
        let Some(stderr) = child.stderr.take() else { return };
        let (mut stderr, mut line) = (BufReader::new(stderr), Vec::new());
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_open = false;
        loop {
            tokio::select! {
                read = read_line(&mut stderr, &mut line) => {
                    if matches!(read, Ok(0) | Err(_)) {
                        return;
                    }
                    if line.ends_with(b"\n") || line.len() >= LINE_MAX {
                        self.note(String::from_utf8_lossy(&line).trim_end().to_owned());
                        line.clear();
                    }
                },
                // It makes the sockets once the host has let it in, this one last.
                _ = looks.tick(), if !is_open => if self.socket().exists() {
                    is_open = true;
                    self.state.send_replace(State::Up);
                },
            }
        }
    }

    fn note(&self, line: String) {
        tracing::debug!(host = self.config.address, line, "ssh");
        let mut lines = self.lines();
        if words::is_of_one_way(&line) {
            // There may be one a second: they must not crowd out the rest.
            lines.retain(|(_, before)| !words::is_of_one_way(before));
        }
        lines.push_back((clock::now(), line));
        if lines.len() > LINES {
            lines.pop_front();
        }
    }
}

/// Reads on, to the end of the line or as far as one may be; nothing more to come is zero. Cancel safe: what was read is in `line`.
async fn read_line(stderr: &mut BufReader<ChildStderr>, line: &mut Vec<u8>) -> io::Result<usize> {
    let room = LINE_MAX.saturating_sub(line.len()) as u64;
    stderr.take(room).read_until(b'\n', line).await
}
