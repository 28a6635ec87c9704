//! One container's log, read on and on.

use std::time::Duration;

use bollard::{container::LogOutput, query_parameters::LogsOptions};
use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::place::{Place, Turn};
use crate::{
    runtime::{
        LogQuery, RuntimeError, UnitLogLine,
        docker::{
            engine::{QUICK, Refusal},
            host::DockerHost,
        },
        logs::{LogSender, TAIL_LINES_MAX, gap},
    },
    shim::{LogLine, LogStream, Status},
};

/// Between two tries to read on where the engine does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads the log of one container.
pub(super) struct Reader {
    pub(super) host: DockerHost,
    pub(super) unit: String,
    pub(super) container: String,
    pub(super) query: LogQuery,
    pub(super) place: Place,
    pub(super) lines: LogSender,
}

/// What tells one run of a container from every other, as far as the agent knows. A log that has come to an end goes on with another.
#[derive(Debug, PartialEq, Eq)]
struct Life {
    status: Status,
    pid: Option<i32>,
    since: Timestamp,
    restarts: u64,
}

impl Reader {
    /// Tells what is there and what comes, until the container is gone, nobody listens, or it cannot be read. The engine ends
    /// each reading with the container's run, and a connection to it may break: then the log is read on from where it was told.
    pub(super) async fn attend(mut self) {
        let mut is_whole = true;
        let host = self.host.clone();
        // Looked up before it is read: what changes meanwhile has it read once more.
        while let Some(life) = self.life() {
            let ended = tokio::select! {
                ended = self.read(true) => ended,
                // Nobody knows whether the connection still leads there.
                () = is_back(&host) => continue,
            };
            match ended {
                Ok(()) => {
                    is_whole = true;
                    self.changed(&life).await;
                }
                // It is going, and the agent is about to know that.
                Err(Refusal::NotFound(_) | Refusal::Said { status: 409, .. }) => self.changed(&life).await,
                Err(Refusal::Silent(why)) => {
                    is_whole = false;
                    tracing::debug!(unit = self.unit, why, "its log is read on when the engine answers");
                    sleep(AGAIN).await;
                }
                Err(refusal) => {
                    let error = self.host.blame(refusal.of(self.what_fails()));
                    self.lines.send(Err(error)).await.ok();
                    return;
                }
            }
        }
        if !is_whole {
            self.send(gap(Timestamp::now())).await;
        }
    }

    /// Reads what there is; where that succeeds, it is read on from there.
    ///
    /// # Errors
    /// That there is more.
    pub(super) async fn read_past(&mut self) -> Result<(), RuntimeError> {
        let what = self.what_fails();
        // One that is known to be silent need not be asked, and is not waited for.
        if let Some(reason) = self.host.trouble() {
            return Err(RuntimeError::Engine { what, reason });
        }
        match self.read(false).await {
            // It has gone meanwhile.
            Ok(()) | Err(Refusal::NotFound(_)) => {
                self.query.tail = None;
                Ok(())
            }
            Err(refusal) => Err(self.host.blame(refusal.of(what))),
        }
    }

    /// Reads what there is and, to follow, what comes, until the engine ends it or nobody listens. Cancel safe: what was not
    /// sent was not told.
    ///
    /// # Errors
    /// That the rest could not be read.
    async fn read(&mut self, follow: bool) -> Result<(), Refusal> {
        let client = self.host.inner.engine.client().await?;
        let is_first = self.place.is_at_the_beginning();
        // The engine takes whole seconds; the rest is left out here.
        let since = self.query.since.map(Timestamp::as_second).max(self.place.read_again());
        // One line shows where to read on from, also where none is wanted.
        let least = usize::from(!follow);
        let tail =
            self.query.tail.filter(|_| is_first).map(|tail| tail.clamp(least, TAIL_LINES_MAX).to_string());
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            since: since.map_or(0, |since| i32::try_from(since).unwrap_or(i32::MAX)),
            timestamps: true,
            tail: tail.unwrap_or_else(|| "all".to_owned()),
            ..LogsOptions::default()
        };
        let mut outputs = client.logs(&self.container, Some(options));
        loop {
            let next = if follow {
                outputs.next().await
            } else {
                // What is there is told at once.
                let silent = |_| Refusal::Silent("it does not go on with a log".to_owned());
                timeout(QUICK, outputs.next()).await.map_err(silent)?
            };
            let Some(output) = next else { return Ok(()) };
            let is_wanted = |line: &LogLine| self.query.since.is_none_or(|since| line.time >= since);
            let Some(line) = line(output?).filter(is_wanted) else { continue };
            let sent = match self.place.turn(&line) {
                Turn::Old => continue,
                Turn::New => true,
                Turn::AfterGap => self.send(gap(line.time)).await,
            };
            if !sent || !self.send(line.clone()).await {
                return Ok(());
            }
            self.place.tell(&line);
        }
    }

    fn what_fails(&self) -> String {
        format!("cannot read the log of {}", self.unit)
    }

    /// Says whether anybody listens.
    async fn send(&self, line: LogLine) -> bool {
        self.lines.send(Ok(UnitLogLine { unit: self.unit.clone(), line })).await.is_ok()
    }

    /// None once the container is gone.
    fn life(&self) -> Option<Life> {
        let known = self.host.known();
        let seen = known.units.get(&self.unit).filter(|seen| seen.container == self.container)?;
        let state = &seen.status.state;
        Some(Life { status: state.status, pid: state.pid, since: state.since, restarts: state.restarts })
    }

    /// Waits until the container stands otherwise.
    async fn changed(&self, life: &Life) {
        let mut changes = self.host.inner.changed.subscribe();
        while self.life().as_ref() == Some(life) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Waits until an engine answers that did not.
async fn is_back(host: &DockerHost) {
    let mut changes = host.inner.changed.subscribe();
    let mut was_lost = false;
    loop {
        let is_lost = host.trouble().is_some();
        if was_lost && !is_lost {
            return;
        }
        was_lost = is_lost;
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A line, from a time, a space, and what was written.
pub(in super::super) fn line(output: LogOutput) -> Option<LogLine> {
    let (stream, bytes): (LogStream, Bytes) = match output {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => (LogStream::Stdout, message),
        LogOutput::StdIn { .. } => return None,
    };
    let text = String::from_utf8_lossy(&bytes);
    let (time, text) = text.split_once(' ')?;
    let time: Timestamp = time.parse().ok()?;
    let whole = text.strip_suffix('\n');
    Some(LogLine { time, stream, text: whole.unwrap_or(text).to_owned(), partial: whole.is_none() })
}
