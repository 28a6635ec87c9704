//! Cases about logs: their order, their end, and following them.

use super::{PATIENCE, Stand, all};
use crate::{runtime::LogQuery, shim::LogStream};

pub(super) async fn lines_come_in_order(stand: &mut Stand<'_>) {
    let script =
        "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.02; done; echo bad >&2; exec sleep 1000";
    stand.start(script, "").await;
    let log = stand.log(10).await;
    let out: Vec<&str> = log
        .iter()
        .filter(|line| line.line.stream == LogStream::Stdout)
        .map(|line| line.line.text.as_str())
        .collect();
    let expected: Vec<String> = (1..10).map(|number| format!("line {number}")).collect();
    assert_eq!(out, expected);
    assert!(log.iter().any(|line| line.line.stream == LogStream::Stderr && line.line.text == "bad"));
    assert!(log.is_sorted_by_key(|line| line.line.time), "{log:?}");
    let since = log.get(4).map(|line| line.line.time);
    let later = all(stand.runtime.logs(LogQuery { since, ..Stand::query() })).await;
    assert!(later.iter().all(|line| Some(line.line.time) >= since) && later.len() < log.len(), "{later:?}");
}

pub(super) async fn a_tail_is_the_last_lines(stand: &mut Stand<'_>) {
    stand.start("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exec sleep 1000", "").await;
    stand.log(9).await;
    for (tail, expected) in [(0, &[][..]), (2, &["line 8", "line 9"][..])] {
        let lines = all(stand.runtime.logs(LogQuery { tail: Some(tail), ..Stand::query() })).await;
        let texts: Vec<&str> = lines.iter().map(|line| line.line.text.as_str()).collect();
        assert_eq!(texts, expected);
    }
}

pub(super) async fn following_goes_on_and_joins_who_comes(stand: &mut Stand<'_>) {
    let first = stand.start("echo one; exec sleep 1000", "").await;
    let mut lines = stand.runtime.logs(LogQuery { follow: true, ..Stand::query() });
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.recv()).await.expect("a line comes");
        line.map(|line| (line.unit, line.line.text)).expect("the log goes on")
    };
    assert_eq!(next().await, (first.unit, "one".to_owned()));
    let second = stand.start("echo two; exec sleep 1000", "").await;
    assert_eq!(next().await, (second.unit, "two".to_owned()));
}
