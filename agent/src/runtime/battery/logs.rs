//! Cases about logs: their order, their end, and following them.

use std::fs;

use super::{Stand, all, next};
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
    let mut lines = stand.follow();
    let mut next = async || {
        let line = next(&mut lines).await;
        (line.unit, line.line.text)
    };
    assert_eq!(next().await, (first.unit, "one".to_owned()));
    let second = stand.start("echo two; exec sleep 1000", "").await;
    assert_eq!(next().await, (second.unit, "two".to_owned()));
}

pub(super) async fn following_goes_on_where_a_unit_starts_again(stand: &mut Stand<'_>) {
    let life = stand.place.shared().join("life");
    let begin =
        |number: u32| fs::write(&life, number.to_string()).expect("the shared directory can be written to");
    begin(1);
    let script = format!("echo life $(cat {}); echo $TOWLINE_UNIT >&2; exec sleep 1000", life.display());
    let unit = stand.start(&script, "").await.unit;
    let mut lines = stand.follow();
    for number in 1..=3 {
        if number > 1 {
            stand.runtime.stop(&unit).await.expect("it stops");
            begin(number);
            stand.runtime.start_again(&unit).await.expect("it starts again");
        }
        // In any order, for they are two streams; and none of those before once more.
        let mut told = [next(&mut lines).await.line.text, next(&mut lines).await.line.text];
        told.sort();
        assert_eq!(told, [format!("life {number}"), unit.clone()]);
    }
    stand.runtime.delete(&unit).await.expect("it goes");
    let other = stand.start("echo another; exec sleep 1000", "").await.unit;
    let line = next(&mut lines).await;
    assert_eq!((line.unit, line.line.text), (other, "another".to_owned()));
}

pub(super) async fn following_goes_on_across_crashes(stand: &mut Stand<'_>) {
    const LIVES: usize = 4;
    let life = stand.place.shared().join("life");
    let life = life.display();
    let script = format!(
        "n=$(cat {life} || echo 0); n=$((n+1)); echo $n > {life}; echo life $n; [ $n -lt {LIVES} ] || exec sleep 1000; exit 3"
    );
    stand.start(&script.replace("|| echo 0", "2>/dev/null || echo 0"), "").await;
    let mut lines = stand.follow();
    let mut told = Vec::new();
    for _ in 0..LIVES {
        told.push(next(&mut lines).await.line.text);
    }
    let expected: Vec<String> = (1..=LIVES).map(|number| format!("life {number}")).collect();
    assert_eq!(told, expected);
    assert_eq!(stand.texts(LIVES).await, expected);
}
