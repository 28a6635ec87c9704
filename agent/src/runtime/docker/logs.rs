//! The log of an app: its containers' logs, in order within each.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bollard::{container::LogOutput, query_parameters::LogsOptions};
use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinSet};
use towline_bus::task::Tasks;

use super::{hooks, host::DockerHost};
use crate::{
    runtime::{LogQuery, UnitLogLine},
    shim::{LogLine, LogStream},
};

/// Lines that wait for a slow reader.
pub(super) const QUEUE: usize = 256;

/// Most lines that `tail` may ask for: they are held in memory.
const TAIL_MAX: usize = 10_000;

/// Between two looks for units that have joined.
const POLL: Duration = Duration::from_millis(500);

/// Sends the lines of `query` until there are no more, nobody listens, or `tasks` are to stop.
pub(super) async fn run(
    hosts: Vec<DockerHost>,
    tasks: Tasks,
    query: LogQuery,
    sender: mpsc::Sender<UnitLogLine>,
) {
    let listening = sender.clone();
    let stopping = tasks.stopping().clone();
    tokio::select! {
        () = async {
            if query.follow { follow(hosts, query, sender).await } else { all(hosts, tasks, query, sender).await }
        } => {}
        () = listening.closed() => {}
        () = stopping.cancelled() => {}
    }
}

/// What is there, merged by time.
async fn all(hosts: Vec<DockerHost>, tasks: Tasks, query: LogQuery, sender: mpsc::Sender<UnitLogLine>) {
    let mut heads = Vec::new();
    for (host, unit, container) in containers(&hosts, &query) {
        let (lines, receiver) = mpsc::channel(QUEUE);
        let query = query.clone();
        heads.push(Head { next: None, receiver });
        heads.push(hooks_head(&host, &unit, &query));
        tasks.spawn("docker-log", async move { read(&host, &query, &unit, &container, &lines).await });
    }
    let mut last = query.tail.map(|most| (VecDeque::new(), most.min(TAIL_MAX)));
    while let Some(line) = earliest(&mut heads).await {
        match &mut last {
            Some((lines, most)) => {
                lines.push_back(line);
                if lines.len() > *most {
                    lines.pop_front();
                }
            }
            None if sender.send(line).await.is_err() => return,
            None => {}
        }
    }
    for line in last.into_iter().flat_map(|(lines, _)| lines) {
        if sender.send(line).await.is_err() {
            return;
        }
    }
}

/// One unit's lines, and the next of them.
struct Head {
    next: Option<UnitLogLine>,
    receiver: mpsc::Receiver<UnitLogLine>,
}

/// The earliest line of all that come next.
async fn earliest(heads: &mut Vec<Head>) -> Option<UnitLogLine> {
    for head in heads.iter_mut().filter(|head| head.next.is_none()) {
        head.next = head.receiver.recv().await;
    }
    heads.retain(|head| head.next.is_some());
    let first = heads.iter_mut().min_by_key(|head| head.next.as_ref().map(|line| line.line.time))?;
    first.next.take()
}

/// What is there and what comes, as it comes; units that join later, too.
async fn follow(hosts: Vec<DockerHost>, query: LogQuery, sender: mpsc::Sender<UnitLogLine>) {
    let mut readers = JoinSet::new();
    let mut read_already = BTreeSet::new();
    let mut told_of_hooks: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        for (host, unit, container) in containers(&hosts, &query) {
            if read_already.insert(container.clone()) {
                let (query, sender) = (query.clone(), sender.clone());
                let (host, unit) = (host.clone(), unit.clone());
                readers.spawn(async move { read(&host, &query, &unit, &container, &sender).await });
            }
            let told = told_of_hooks.entry(unit.clone()).or_default();
            let (lines, next) = host.inner.hook_log.after(&unit, *told);
            *told = next;
            for line in asked_for(lines, &query) {
                if sender.send(UnitLogLine { unit: unit.clone(), line }).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(POLL).await;
        while readers.try_join_next().is_some() {}
    }
}

/// Host, unit and container, of those that are asked for.
fn containers(hosts: &[DockerHost], query: &LogQuery) -> Vec<(DockerHost, String, String)> {
    let wanted = |unit: &String| query.unit.as_ref().is_none_or(|only| only == unit);
    let mut found = Vec::new();
    for host in hosts {
        let known = host.known();
        let asked_for =
            known.units.iter().filter(|(unit, seen)| seen.status.app == query.app && wanted(unit));
        found.extend(asked_for.map(|(unit, seen)| (host.clone(), unit.clone(), seen.container.clone())));
    }
    found
}

/// What a unit's hooks wrote.
fn hooks_head(host: &DockerHost, unit: &str, query: &LogQuery) -> Head {
    let (sender, receiver) = mpsc::channel(hooks::LINES_MAX);
    for line in asked_for(host.inner.hook_log.after(unit, 0).0, query) {
        // There is room for all.
        sender.try_send(UnitLogLine { unit: unit.to_owned(), line }).ok();
    }
    Head { next: None, receiver }
}

/// Those of a unit's lines that `query` asks for.
fn asked_for(lines: Vec<LogLine>, query: &LogQuery) -> Vec<LogLine> {
    let mut lines = lines;
    lines.retain(|line| query.since.is_none_or(|since| line.time >= since));
    let surplus = lines.len().saturating_sub(query.tail.unwrap_or(lines.len()));
    lines.split_off(surplus)
}

async fn read(
    host: &DockerHost,
    query: &LogQuery,
    unit: &str,
    container: &str,
    lines: &mpsc::Sender<UnitLogLine>,
) {
    let Ok(client) = host.inner.engine.client().await else { return };
    // The engine takes whole seconds; the rest is left out here.
    let since = query.since.map_or(0, |since| i32::try_from(since.as_second()).unwrap_or(i32::MAX));
    let options = LogsOptions {
        follow: query.follow,
        stdout: true,
        stderr: true,
        since,
        timestamps: true,
        tail: query.tail.map_or_else(|| "all".to_owned(), |tail| tail.min(TAIL_MAX).to_string()),
        ..LogsOptions::default()
    };
    let mut outputs = client.logs(container, Some(options));
    while let Some(Ok(output)) = outputs.next().await {
        let Some(line) = line(output).filter(|line| query.since.is_none_or(|since| line.time >= since))
        else {
            continue;
        };
        if lines.send(UnitLogLine { unit: unit.to_owned(), line }).await.is_err() {
            return;
        }
    }
}

/// A line, from a time, a space, and what was written.
pub(super) fn line(output: LogOutput) -> Option<LogLine> {
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
