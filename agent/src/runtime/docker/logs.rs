//! The log of an app: its containers' logs, in order within each.
//!
//! ```text
//! what is there, of all, merged by time ─► to follow: of each, on from where it was told (`logs/reader.rs`)
//! ```

mod place;
mod reader;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};
use towline_bus::task::Tasks;

pub(super) use self::reader::line;
use self::{place::Place, reader::Reader};
use super::{
    hooks,
    host::{DockerHost, Seen},
};
use crate::{
    runtime::{
        LogQuery, RuntimeError, UnitLogLine,
        logs::{Last, LogSender, QUEUE},
    },
    shim::LogLine,
};

/// Between two looks for units that have joined.
const POLL: Duration = Duration::from_millis(500);

/// Sends the lines of `query` until there are no more, nobody listens, or `tasks` are to stop.
pub(super) async fn run(hosts: Vec<DockerHost>, tasks: Tasks, query: LogQuery, sender: LogSender) {
    let listening = sender.clone();
    tokio::select! {
        () = produce(hosts, query, sender) => {}
        () = listening.closed() => {}
        () = tasks.stopping().cancelled() => {}
    }
}

async fn produce(hosts: Vec<DockerHost>, query: LogQuery, sender: LogSender) {
    let past = Past::read(&hosts, &query, &sender).await;
    if query.follow {
        return follow(hosts, query, sender, past).await;
    }
    // What could be read was told; that it is not all, must be told, too.
    let missing = past.missing.or_else(|| hosts.iter().find_map(|host| unheard(host, &query)));
    if let Some(error) = missing {
        sender.send(Err(error)).await.ok();
    }
}

/// That a host may have units which are not known, if it may.
fn unheard(host: &DockerHost, query: &LogQuery) -> Option<RuntimeError> {
    let candidate = host.candidate(&query.app);
    let is_sure = candidate.answers || candidate.looked;
    let what = format!("cannot read the logs of {} on {host}", query.app);
    let reason = host.trouble().filter(|_| !is_sure)?;
    Some(RuntimeError::Engine { what, reason })
}

/// How far what is there was told.
#[derive(Default)]
struct Past {
    readers: Vec<Reader>,
    /// How many lines of hooks, by unit.
    hooks: BTreeMap<String, u64>,
    /// Why not all of it.
    missing: Option<RuntimeError>,
}

impl Past {
    /// Sends what is there, merged by time.
    async fn read(hosts: &[DockerHost], query: &LogQuery, sender: &LogSender) -> Self {
        let mut past = Self::default();
        let (mut heads, mut readings) = (Vec::new(), JoinSet::new());
        for (host, seen) in containers(hosts, query) {
            let (lines, receiver) = mpsc::channel(QUEUE);
            let unit = seen.status.unit.clone();
            heads.push(Head { next: None, receiver });
            let (head, told) = hooks_head(&host, &unit, query);
            heads.push(head);
            past.hooks.insert(unit, told);
            let mut reader = reader(host, &seen, query, lines);
            readings.spawn(async move {
                let read = reader.read_past().await;
                // The end of its lines is heard by whoever merges them.
                reader.lines = mpsc::channel(1).0;
                (reader, read)
            });
        }
        let mut last = query.tail.map(Last::new);
        while let Some(line) = earliest(&mut heads).await {
            match &mut last {
                Some(last) => last.push(line),
                None if sender.send(Ok(line)).await.is_err() => return past,
                None => {}
            }
        }
        for line in last.into_iter().flat_map(Last::into_lines) {
            if sender.send(Ok(line)).await.is_err() {
                return past;
            }
        }
        while let Some(Ok((reader, read))) = readings.join_next().await {
            past.missing = past.missing.or(read.err());
            past.readers.push(reader);
        }
        past
    }
}

/// One unit's lines, and the next of them.
struct Head {
    next: Option<UnitLogLine>,
    receiver: mpsc::Receiver<Result<UnitLogLine, RuntimeError>>,
}

/// The earliest line of all that come next.
async fn earliest(heads: &mut Vec<Head>) -> Option<UnitLogLine> {
    for head in heads.iter_mut().filter(|head| head.next.is_none()) {
        // Why one ends too early is known by its reader.
        head.next = head.receiver.recv().await.and_then(Result::ok);
    }
    heads.retain(|head| head.next.is_some());
    let first = heads.iter_mut().min_by_key(|head| head.next.as_ref().map(|line| line.line.time))?;
    first.next.take()
}

/// Sends what comes, as it comes; of units that join later, too.
async fn follow(hosts: Vec<DockerHost>, query: LogQuery, sender: LogSender, past: Past) {
    // What could not be read yet, is, when its engine answers.
    let Past { readers, mut hooks, missing: _ } = past;
    // Of those that join, all.
    let query = LogQuery { tail: None, ..query };
    let mut attended: BTreeSet<String> = BTreeSet::new();
    let mut attending = JoinSet::new();
    for mut reader in readers {
        attended.insert(reader.container.clone());
        reader.lines = sender.clone();
        attending.spawn(reader.attend());
    }
    loop {
        for (host, seen) in containers(&hosts, &query) {
            let unit = &seen.status.unit;
            if attended.insert(seen.container.clone()) {
                attending.spawn(reader(host.clone(), &seen, &query, sender.clone()).attend());
            }
            let told = hooks.entry(unit.clone()).or_default();
            let (lines, next) = host.inner.hook_log.after(unit, *told);
            *told = next;
            for line in asked_for(lines, &query) {
                if sender.send(Ok(UnitLogLine { unit: unit.clone(), line })).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(POLL).await;
        while attending.try_join_next().is_some() {}
    }
}

fn reader(host: DockerHost, seen: &Seen, query: &LogQuery, lines: LogSender) -> Reader {
    let (unit, container) = (seen.status.unit.clone(), seen.container.clone());
    Reader { host, unit, container, query: query.clone(), place: Place::default(), lines }
}

/// Host and container of the units that are asked for.
fn containers(hosts: &[DockerHost], query: &LogQuery) -> Vec<(DockerHost, Seen)> {
    let wanted = |unit: &String| query.unit.as_ref().is_none_or(|only| only == unit);
    let mut found = Vec::new();
    for host in hosts {
        let known = host.known();
        let asked_for =
            known.units.iter().filter(|(unit, seen)| seen.status.app == query.app && wanted(unit));
        found.extend(asked_for.map(|(_, seen)| (host.clone(), seen.clone())));
    }
    found
}

/// What a unit's hooks wrote, and how many lines that are with those that nobody asked for.
fn hooks_head(host: &DockerHost, unit: &str, query: &LogQuery) -> (Head, u64) {
    let (sender, receiver) = mpsc::channel(hooks::LINES_MAX);
    let (lines, told) = host.inner.hook_log.after(unit, 0);
    for line in asked_for(lines, query) {
        // There is room for all.
        sender.try_send(Ok(UnitLogLine { unit: unit.to_owned(), line })).ok();
    }
    (Head { next: None, receiver }, told)
}

/// Those of a unit's lines that `query` asks for.
fn asked_for(lines: Vec<LogLine>, query: &LogQuery) -> Vec<LogLine> {
    let mut lines = lines;
    lines.retain(|line| query.since.is_none_or(|since| line.time >= since));
    lines
}
