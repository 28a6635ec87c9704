//! From the unit's output to its log, for the length of one run.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver, task::JoinSet, time::timeout};

use super::logs::{LineCutter, LogLine, LogStream, LogWriter};

/// The log of a unit, shared by its two outputs.
pub(super) type SharedLog = Arc<Mutex<LogWriter>>;

/// How long an ended run may keep its pipes open before they are closed over its head. Everything that held them was
/// killed by then, so only an unkillable process ever takes that long.
const DRAIN: Duration = Duration::from_secs(2);

/// How much of a last line is told, in characters.
const LAST_WORDS: usize = 200;

/// The two tasks that move a command's output.
#[derive(Debug)]
pub(super) struct Pipes(JoinSet<Option<Vec<u8>>>);

impl Pipes {
    /// Starts moving `stdout` and `stderr` into `log`; to nowhere, without one.
    pub(super) fn start(stdout: OwnedFd, stderr: OwnedFd, log: Option<&SharedLog>) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        for (fd, stream) in [(stdout, LogStream::Stdout), (stderr, LogStream::Stderr)] {
            rustix::io::ioctl_fionbio(&fd, true)?;
            tasks.spawn(pump(Receiver::from_owned_fd(fd)?, LineCutter::new(stream), log.map(Arc::clone)));
        }
        Ok(Self(tasks))
    }

    /// Waits until all output is in the log. Returns the last line of it, cut short.
    pub(super) async fn drain(&mut self) -> Option<String> {
        let mut last = Vec::new();
        let all = async {
            while let Some(ended) = self.0.join_next().await {
                last.extend(ended.ok().flatten());
            }
        };
        if timeout(DRAIN, all).await.is_err() {
            self.0.shutdown().await;
        }
        // They begin with the time.
        let line: LogLine = String::from_utf8_lossy(last.iter().max()?).trim_end().parse().ok()?;
        Some(line.text.chars().take(LAST_WORDS).collect())
    }
}

/// Returns the last line.
async fn pump(mut pipe: Receiver, mut cutter: LineCutter, log: Option<SharedLog>) -> Option<Vec<u8>> {
    let mut buffer = vec![0; super::logs::MAX_PIECE];
    let mut lines = Vec::new();
    let mut last = None;
    loop {
        let length = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        cutter.push(buffer.get(..length).unwrap_or_default(), Timestamp::now(), &mut lines);
        last = append(log.as_ref(), &mut lines).or(last);
    }
    cutter.finish(Timestamp::now(), &mut lines);
    append(log.as_ref(), &mut lines).or(last)
}

/// Empties `lines` into `log`; returns the last of them.
fn append(log: Option<&SharedLog>, lines: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
    if let Some(log) = log.filter(|_| !lines.is_empty()) {
        log.lock().unwrap_or_else(PoisonError::into_inner).append(lines);
    }
    let last = lines.pop();
    lines.clear();
    last
}
