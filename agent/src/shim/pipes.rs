//! From the unit's output to its log, for the length of one run.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver, task::JoinSet, time::timeout};

use super::logs::{LineCutter, LogStream, LogWriter};

/// The log of a unit, shared by its two outputs.
pub(super) type SharedLog = Arc<Mutex<LogWriter>>;

/// How long an ended run may keep its pipes open before they are closed over its head. Everything that held them was
/// killed by then, so only an unkillable process ever takes that long.
const DRAIN: Duration = Duration::from_secs(2);

/// The two tasks that move a run's output.
#[derive(Debug)]
pub(super) struct Pipes(JoinSet<()>);

impl Pipes {
    /// Starts moving `stdout` and `stderr` into `log`.
    pub(super) fn start(stdout: OwnedFd, stderr: OwnedFd, log: &SharedLog) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        for (fd, stream) in [(stdout, LogStream::Stdout), (stderr, LogStream::Stderr)] {
            rustix::io::ioctl_fionbio(&fd, true)?;
            tasks.spawn(pump(Receiver::from_owned_fd(fd)?, LineCutter::new(stream), Arc::clone(log)));
        }
        Ok(Self(tasks))
    }

    /// Waits until all output is in the log.
    pub(super) async fn drain(mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if timeout(DRAIN, all).await.is_err() {
            self.0.shutdown().await;
        }
    }
}

async fn pump(mut pipe: Receiver, mut cutter: LineCutter, log: SharedLog) {
    let mut buffer = vec![0; super::logs::MAX_PIECE];
    let mut lines = Vec::new();
    loop {
        let length = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        cutter.push(buffer.get(..length).unwrap_or_default(), Timestamp::now(), &mut lines);
        append(&log, &mut lines);
    }
    cutter.finish(Timestamp::now(), &mut lines);
    append(&log, &mut lines);
}

fn append(log: &SharedLog, lines: &mut Vec<Vec<u8>>) {
    if !lines.is_empty() {
        log.lock().unwrap_or_else(PoisonError::into_inner).append(lines);
        lines.clear();
    }
}
