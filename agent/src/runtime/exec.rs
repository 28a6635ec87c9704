//! A command that runs in a unit: what is asked, and what comes of it.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::RuntimeError;
use crate::shim::LogStream;

/// Events that wait for a slow reader; then the command waits.
pub(super) const QUEUE: usize = 16;

/// The largest piece of output, in bytes.
pub(super) const PIECE: usize = 16 << 10;

/// How long it may take to end a command that nobody wants any more.
pub(super) const ENDING: Duration = Duration::from_secs(10);

/// A command to run in a unit.
#[derive(Debug)]
pub struct ExecSpec {
    /// The program and its arguments. No shell is between.
    pub argv: Vec<String>,
    /// What the command reads, until the sender is dropped; none is empty.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
}

impl ExecSpec {
    /// A command that reads nothing.
    pub fn new<T: Into<String>>(argv: impl IntoIterator<Item = T>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), stdin: None }
    }
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote this; at most 16 KiB.
    Output(LogStream, Bytes),
    /// It ended with this code, as shells count: 127 or 126 if there is no such program or it cannot be executed (why, is in
    /// the output), 128 and the number of the signal that ended it. Nothing follows.
    Ended(i32),
}

/// A command under way. Dropping it ends the command, at once and with what it started.
///
/// So does the end of the agent, also by SIGKILL: within a second or two, by whoever stands beside the command, a keeper or a guard.
/// Where none can stand, in a container without a shell, the next agent of the instance ends it as soon as it acts, if it is on the
/// engine's host; on another host it ends with its container.
#[derive(Debug)]
pub struct Exec {
    events: mpsc::Receiver<Result<ExecEvent, RuntimeError>>,
    over: bool,
}

/// What a command wrote, and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code; see [`ExecEvent::Ended`].
    pub code: i32,
    /// Standard output, from its beginning.
    pub stdout: Vec<u8>,
    /// Standard error, from its beginning.
    pub stderr: Vec<u8>,
    /// There was more than was asked for.
    pub is_cut: bool,
}

impl Exec {
    pub(super) fn new(events: mpsc::Receiver<Result<ExecEvent, RuntimeError>>) -> Self {
        Self { events, over: false }
    }

    /// What comes next: output, each stream in its order, then the end, or an error that is the end; then nothing. Whoever
    /// does not ask holds the command up. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<ExecEvent, RuntimeError>> {
        if self.over {
            return None;
        }
        let event = self.events.recv().await.unwrap_or_else(|| Err(lost()));
        self.over = !matches!(event, Ok(ExecEvent::Output(..)));
        Some(event)
    }

    /// Waits for its end; keeps at most `max` bytes of each stream, and lets the rest go by.
    ///
    /// # Errors
    /// That its end is not known.
    pub async fn output(mut self, max: usize) -> Result<ExecOutput, RuntimeError> {
        let (mut stdout, mut stderr, mut is_cut) = (Vec::new(), Vec::new(), false);
        loop {
            match self.next().await {
                Some(Ok(ExecEvent::Output(stream, bytes))) => {
                    let kept = if stream == LogStream::Stdout { &mut stdout } else { &mut stderr };
                    let room = max.saturating_sub(kept.len()).min(bytes.len());
                    kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
                    is_cut |= room < bytes.len();
                }
                Some(Ok(ExecEvent::Ended(code))) => return Ok(ExecOutput { code, stdout, stderr, is_cut }),
                Some(Err(error)) => return Err(error),
                None => return Err(lost()),
            }
        }
    }
}

fn lost() -> RuntimeError {
    let (runtime, reason) = ("the command's runtime".to_owned(), "it was closed".to_owned());
    RuntimeError::Unknown { runtime, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(events: Vec<Result<ExecEvent, RuntimeError>>) -> Exec {
        let (sender, receiver) = mpsc::channel(8);
        events.into_iter().for_each(|event| sender.try_send(event).unwrap());
        Exec::new(receiver)
    }

    fn out(stream: LogStream, text: &'static str) -> Result<ExecEvent, RuntimeError> {
        Ok(ExecEvent::Output(stream, Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn the_output_is_kept_up_to_the_limit() {
        let all = vec![
            out(LogStream::Stdout, "abc"),
            out(LogStream::Stderr, "x"),
            out(LogStream::Stdout, "def"),
            Ok(ExecEvent::Ended(3)),
        ];
        let kept = exec(all).output(4).await.unwrap();
        assert_eq!(
            kept,
            ExecOutput { code: 3, stdout: b"abcd".to_vec(), stderr: b"x".to_vec(), is_cut: true }
        );
    }

    #[tokio::test]
    async fn an_end_that_nobody_told_is_an_error_once_and_then_nothing() {
        let mut lost = exec(vec![out(LogStream::Stdout, "abc")]);
        assert!(matches!(lost.next().await, Some(Ok(ExecEvent::Output(..)))));
        assert!(matches!(lost.next().await, Some(Err(RuntimeError::Unknown { .. }))));
        assert!(lost.next().await.is_none());
        let mut told = exec(vec![Ok(ExecEvent::Ended(0))]);
        assert!(matches!(told.next().await, Some(Ok(ExecEvent::Ended(0)))));
        assert!(told.next().await.is_none());
    }
}
