//! Logs: what is asked, what comes, and how much of it is held.

use std::collections::VecDeque;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::RuntimeError;
use crate::shim::{LogLine, LogStream};

/// Lines that wait for a slow reader.
pub(super) const QUEUE: usize = 256;

/// Most lines that `tail` may ask for, and most bytes that they may take: they are held in memory.
pub(super) const TAIL_LINES_MAX: usize = 10_000;
const TAIL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Stands in a log where lines were removed before they were read: following goes on, but not in silence.
const GAP: &str = "[towline: lines are missing here; they were gone before they were read]";

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Id of the app.
    pub app: String,
    /// Only this unit.
    pub unit: Option<String>,
    /// Go on with what is written later.
    pub follow: bool,
    /// Only what was written at this time or later.
    pub since: Option<Timestamp>,
    /// Of what is there, only this many last lines (10,000 and 8 MiB at most).
    pub tail: Option<usize>,
}

/// A line and the unit that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLogLine {
    /// Id of the unit.
    pub unit: String,
    /// The line.
    pub line: LogLine,
}

/// Lines as they come. An error says that lines are missing which were asked for; nothing follows it.
pub type LogLines = mpsc::Receiver<Result<UnitLogLine, RuntimeError>>;

/// The other end of [`LogLines`].
pub(super) type LogSender = mpsc::Sender<Result<UnitLogLine, RuntimeError>>;

/// What stands where lines are missing, beside the line at `time`.
pub(super) fn gap(time: Timestamp) -> LogLine {
    LogLine { time, stream: LogStream::Stderr, text: GAP.to_owned(), partial: false }
}

/// The last lines of many, bounded by number and size.
#[derive(Debug)]
pub(super) struct Last {
    lines: VecDeque<UnitLogLine>,
    bytes: usize,
    most: usize,
}

impl Last {
    /// At most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, most: most.min(TAIL_LINES_MAX) }
    }

    /// Takes in a line; the oldest go for it.
    pub(super) fn push(&mut self, line: UnitLogLine) {
        self.bytes += line.line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > self.most || self.bytes > TAIL_BYTES_MAX {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.line.text.len();
        }
    }

    /// What is left, oldest first.
    pub(super) fn into_lines(self) -> VecDeque<UnitLogLine> {
        self.lines
    }
}
