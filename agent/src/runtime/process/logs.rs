//! The log of an app: its units' logs, merged by time.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Weak,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Inner, tail::Tail};
use crate::shim::LogLine;

/// Lines that wait for a slow reader.
pub(super) const QUEUE: usize = 256;
/// Lines read at one go, between two looks whether anyone still listens.
const BATCH: usize = 512;
/// Between two looks for new lines.
const POLL: Duration = Duration::from_millis(100);
/// Most lines that `tail` may ask for, and most bytes that they may take: they are held in memory.
const MAX_TAIL: usize = 10_000;
const MAX_TAIL_BYTES: usize = 8 * 1024 * 1024;

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

/// Sends the lines of `query` until there are no more, nobody listens, or `token` says so.
pub(super) async fn run(
    inner: Weak<Inner>,
    query: LogQuery,
    sender: mpsc::Sender<UnitLogLine>,
    token: CancellationToken,
) {
    let listening = sender.clone();
    tokio::select! {
        () = produce(inner, query, sender) => {}
        () = listening.closed() => {}
        () = token.cancelled() => {}
    }
}

async fn produce(inner: Weak<Inner>, query: LogQuery, sender: mpsc::Sender<UnitLogLine>) {
    let mut merge = Merge { tails: BTreeMap::new(), since: query.since };
    let mut last = query.tail.map(Last::new);
    loop {
        let mut dirs = {
            let Some(inner) = inner.upgrade() else { return };
            Some(inner.log_dirs(&query.app, query.unit.as_deref()))
        };
        loop {
            let dirs = dirs.take();
            // Files are read on a thread for such things; the readers go there and come back.
            let read = move || {
                dirs.into_iter().for_each(|dirs| merge.watch(dirs));
                merge.batch()
            };
            let Ok((back, lines)) = spawn_blocking(read).await else { return };
            merge = back;
            if lines.is_empty() {
                break;
            }
            for line in lines {
                match &mut last {
                    Some(last) => last.push(line),
                    None if sender.send(line).await.is_err() => return,
                    None => {}
                }
            }
        }
        for line in last.take().into_iter().flat_map(|last| last.lines) {
            if sender.send(line).await.is_err() {
                return;
            }
        }
        if !query.follow {
            return;
        }
        sleep(POLL).await;
    }
}

/// Readers of several units' logs.
struct Merge {
    tails: BTreeMap<String, Tail>,
    since: Option<Timestamp>,
}

impl Merge {
    /// Reads on from exactly these logs.
    fn watch(&mut self, dirs: Vec<(String, PathBuf)>) {
        let wanted: BTreeMap<String, PathBuf> = dirs.into_iter().collect();
        // A deleted unit's segment is still open: what was written to it last is still told.
        self.tails.retain(|unit, tail| wanted.contains_key(unit) || tail.peek().is_some());
        for (unit, dir) in wanted {
            self.tails.entry(unit).or_insert_with(|| Tail::new(dir));
        }
    }

    /// The next lines, oldest first; none when all was read.
    fn batch(mut self) -> (Self, Vec<UnitLogLine>) {
        let mut lines = Vec::new();
        while lines.len() < BATCH {
            let heads =
                self.tails.iter_mut().filter_map(|(unit, tail)| Some((tail.peek()?.time, unit, tail)));
            let Some((_, unit, tail)) = heads.min_by_key(|(time, ..)| *time) else { break };
            let Some(line) = tail.take() else { break };
            if self.since.is_none_or(|since| line.time >= since) {
                lines.push(UnitLogLine { unit: unit.clone(), line });
            }
        }
        (self, lines)
    }
}

/// The last lines of many, bounded by number and size.
struct Last {
    lines: VecDeque<UnitLogLine>,
    bytes: usize,
    most: usize,
}

impl Last {
    fn new(most: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, most: most.min(MAX_TAIL) }
    }

    fn push(&mut self, line: UnitLogLine) {
        self.bytes += line.line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > self.most || self.bytes > MAX_TAIL_BYTES {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.line.text.len();
        }
    }
}
