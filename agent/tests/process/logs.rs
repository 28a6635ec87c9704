//! What units write.

use std::fs;

use towline_agent::{runtime::process::LogQuery, shim::LogStream};

use crate::bench::*;

#[tokio::test]
async fn log_lines_come_in_order_and_survive_rotation() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  logs: {{maxSize: 64Ki, maxFiles: 100}}\n  restart: {{condition: never}}\n",
        shell(
            "i=0; while [ $i -lt 5000 ]; do echo \"line $i\"; i=$((i+1)); done; echo oops >&2; printf unfinished"
        )
    );
    let receiver = bench.runtime.logs(LogQuery { follow: true, ..query() });
    let started = bench.start(&spec).await.unwrap();
    let found = lines(receiver, 5002).await;
    let numbered: Vec<&str> = texts(&found).into_iter().filter(|text| text.starts_with("line ")).collect();
    let expected: Vec<String> = (0..5000).map(|number| format!("line {number}")).collect();
    assert_eq!(numbered, expected);
    assert!(found.iter().any(|line| line.line.stream == LogStream::Stderr && line.line.text == "oops"));
    bench.until(&started.unit, "the end", |status| status.state.final_state).await;
    let segments =
        fs::read_dir(bench.dir.path().join("units").join(&started.unit).join("logs")).unwrap().count();
    assert!(segments > 2, "{segments} segments");
    let all = lines(bench.runtime.logs(query()), 9999).await;
    assert_eq!(all, found);
    let last = lines(bench.runtime.logs(LogQuery { tail: Some(3), ..query() }), 9).await;
    assert_eq!(last, found[found.len() - 3..]);
    let late =
        lines(bench.runtime.logs(LogQuery { since: Some(found[4000].line.time), ..query() }), 9999).await;
    assert!(late.len() < 5002 && late.contains(&found[4000]));
    bench.end().await;
}

#[tokio::test]
async fn logs_stay_bounded() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  logs: {{maxSize: 64Ki, maxFiles: 2}}\n  restart: {{condition: never}}\n",
        shell(
            "head -c 1000000 /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 9000 ]; do echo \"a line of text $i\"; i=$((i+1)); done"
        )
    );
    let started = bench.start(&spec).await.unwrap();
    bench.until(&started.unit, "the end", |status| status.state.final_state).await;
    let logs = bench.dir.path().join("units").join(&started.unit).join("logs");
    let size: u64 = fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 2 * 64 * 1024, "{size}");
    let found = lines(bench.runtime.logs(query()), 99999).await;
    assert_eq!(found.last().unwrap().line.text, "a line of text 8999");
    bench.end().await;
}

#[tokio::test]
async fn lines_of_several_units_are_merged_by_time() {
    let bench = Bench::new().await;
    let spec = shell(
        "i=0; while [ $i -lt 30 ]; do echo $TOWLINE_UNIT $i; i=$((i+1)); sleep 0.01; done; exec sleep 1000",
    );
    let (one, two) = (bench.start(&spec).await.unwrap(), bench.start(&spec).await.unwrap());
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 60).await;
    let found = lines(bench.runtime.logs(query()), 999).await;
    assert_eq!(found.len(), 60);
    assert!(found.is_sorted_by_key(|line| line.line.time));
    let only = lines(bench.runtime.logs(LogQuery { unit: Some(two.unit.clone()), ..query() }), 999).await;
    assert!(only.len() == 30 && only.iter().all(|line| line.unit == two.unit && line.unit != one.unit));
    bench.end().await;
}

#[tokio::test]
async fn a_log_reader_that_goes_away_ends() {
    let bench = Bench::new().await;
    bench.start("  command: [sleep, \"1000\"]\n").await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let receiver = bench.runtime.logs(LogQuery { follow: true, ..query() });
    assert!(tasks() > before);
    drop(receiver);
    // By itself: closing the runtime would end it in any case.
    wait("the reader's end", || (tasks() <= before).then_some(()), || format!("{} tasks", tasks())).await;
    bench.end().await;
}
