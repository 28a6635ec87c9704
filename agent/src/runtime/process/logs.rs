//! The log of an app: its units' logs, merged by time.

use std::{collections::BTreeMap, path::PathBuf, sync::Weak, time::Duration};

use jiff::Timestamp;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Inner, RuntimeError, tail::Tail};
use crate::runtime::logs::{Last, LogQuery, LogSender, UnitLogLine};

/// Lines read at one go, between two looks whether anyone still listens.
const BATCH: usize = 512;
/// Between two looks for new lines.
const POLL: Duration = Duration::from_millis(100);

/// Sends the lines of `query` until there are no more, nobody listens, or `token` says so.
pub(super) async fn run(inner: Weak<Inner>, query: LogQuery, sender: LogSender, token: CancellationToken) {
    let listening = sender.clone();
    tokio::select! {
        () = produce(inner, query, sender) => {}
        () = listening.closed() => {}
        () = token.cancelled() => {}
    }
}

async fn produce(inner: Weak<Inner>, query: LogQuery, sender: LogSender) {
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
                    None if sender.send(Ok(line)).await.is_err() => return,
                    None => {}
                }
            }
        }
        for line in last.take().into_iter().flat_map(Last::into_lines) {
            if sender.send(Ok(line)).await.is_err() {
                return;
            }
        }
        if let Some(error) = merge.failure() {
            sender.send(Err(error)).await.ok();
            return;
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

    /// Why one of them cannot be read to its end.
    fn failure(&mut self) -> Option<RuntimeError> {
        self.tails.iter_mut().find_map(|(unit, tail)| {
            Some(RuntimeError::io(format!("cannot read the log of {unit}"), tail.failure()?))
        })
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
