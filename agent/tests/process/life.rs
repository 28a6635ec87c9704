//! From start to end: restarts, stopping, and leaving nothing.

use std::fs;
use std::time::Duration;

use towline_agent::{
    runtime::process::{LogQuery, UnitStatus},
    shim::Status,
};

use crate::bench::*;

#[tokio::test]
async fn a_unit_starts_stops_and_leaves_nothing() {
    let bench = Bench::new().await;
    let started = bench.start("  command: [sleep, \"1000\"]\n").await.unwrap();
    assert_eq!(started.state.status, Status::Started);
    let pid = started.state.pid.unwrap();
    assert_eq!(bench.marked(), [u32::try_from(pid).unwrap()]);
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep\x001000"));
    bench.runtime.stop(&started.unit).await.unwrap();
    let stopped = bench.status(&started.unit);
    assert_eq!((stopped.state.status, stopped.state.reason), (Status::Stopped, None));
    assert!(!bench.dir.path().join("units").join(&started.unit).join("shim.sock").exists());
    bench.runtime.stop(&started.unit).await.unwrap();
    let again = bench.runtime.start_again(&started.unit).await.unwrap();
    assert_eq!(again.state.status, Status::Started);
    assert_ne!(again.state.pid, Some(pid));
    bench.end().await;
}

#[tokio::test]
async fn the_restart_policy_holds() {
    let bench = Bench::new().await;
    let never = bench.start(&format!("{}  restart: {{condition: never}}\n", shell("exit 3"))).await.unwrap();
    let ended = bench.until(&never.unit, "the end", |status| status.state.final_state).await;
    assert_eq!(
        (ended.state.status, ended.state.reason.as_deref()),
        (Status::Error, Some("exited with status 3"))
    );

    let done =
        bench.start(&format!("{}  restart: {{condition: on-failure}}\n", shell("exit 0"))).await.unwrap();
    let ended = bench.until(&done.unit, "the end", |status| status.state.final_state).await;
    assert_eq!(
        (ended.state.status, ended.state.reason.as_deref()),
        (Status::Stopped, Some("exited with status 0"))
    );

    let spec = format!("{}  restart: {{delay: 10ms, maxDelay: 20ms, attempts: 5}}\n", shell("kill -9 $$"));
    let looping = bench.start(&spec).await.unwrap();
    let ended = bench.until(&looping.unit, "the end", |status| status.state.final_state).await;
    assert_eq!(ended.state.reason.as_deref(), Some("gave up after 5 restarts: killed by signal 9"));
    assert_eq!(ended.state.restarts, 5);

    let spec = format!("{}  restart: {{delay: 10ms, maxDelay: 1h}}\n", shell("exit 1"));
    let looping = bench.start(&spec).await.unwrap();
    let crash = |status: &UnitStatus| {
        status.state.reason.as_deref().is_some_and(|reason| reason.starts_with("crash-looping: exited"))
    };
    bench.until(&looping.unit, "a crash loop", crash).await;
    bench.end().await;
}

#[tokio::test]
async fn what_ignores_its_signal_is_killed_after_the_grace_period() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  stop: {{gracePeriod: 300ms}}\n",
        shell("trap '' TERM; echo ready; while :; do sleep 1; done")
    );
    let started = bench.start(&spec).await.unwrap();
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 1).await;
    let begun = tokio::time::Instant::now();
    bench.runtime.stop(&started.unit).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let ended = bench.status(&started.unit).state.last_end.map(|ended| ended.to_string());
    assert_eq!(ended.as_deref(), Some("killed by signal 9"));
    bench.end().await;
}

#[tokio::test]
async fn the_declared_signal_is_what_is_sent() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  stop: {{signal: SIGUSR1}}\n",
        shell("trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    );
    let started = bench.start(&spec).await.unwrap();
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 1).await;
    bench.runtime.stop(&started.unit).await.unwrap();
    let found = lines(bench.runtime.logs(query()), 9).await;
    // The shell itself may remark on its child, which got the signal, too.
    assert_eq!(texts(&found).last(), Some(&"caught"));
    assert_eq!(
        bench.status(&started.unit).state.last_end.map(|ended| ended.to_string()).as_deref(),
        Some("exited with status 7")
    );
    bench.end().await;
}

#[tokio::test]
async fn the_whole_group_and_those_who_fled_it_are_killed() {
    let bench = Bench::new().await;
    let script = "sleep 1000 & setsid sleep 1000 & (setsid env -i /bin/sleep 1234567 &) ; echo ready; wait";
    let started = bench.start(&shell(script)).await.unwrap();
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 1).await;
    let unmarked = || {
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| {
                fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"/bin/sleep\x001234567\0")
            })
            .count()
    };
    wait(
        "three sleepers",
        || (bench.marked().len() == 3 && unmarked() == 1).then_some(()),
        || format!("{:?}", bench.marked()),
    )
    .await;
    bench.runtime.stop(&started.unit).await.unwrap();
    assert_eq!((bench.marked().len(), unmarked()), (0, 0));
    bench.end().await;
}

#[tokio::test]
async fn leftovers_of_a_crash_do_not_meet_the_next_run() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  restart: {{delay: 10ms, maxDelay: 50ms}}\n",
        shell("setsid sleep 1000 & sleep 0.05; exit 1")
    );
    let started = bench.start(&spec).await.unwrap();
    bench.until(&started.unit, "some restarts", |status| status.state.restarts >= 4).await;
    assert!(bench.marked().len() <= 4, "{:?}", bench.marked());
    bench.end().await;
}

#[tokio::test]
async fn a_unit_that_is_started_again_at_once_is_not_spoilt_by_its_last_shim() {
    let bench = Bench::new().await;
    let unit =
        bench.start("  command: [sh, -c, exit 3]\n  restart: {condition: never}\n").await.unwrap().unit;
    for _ in 0..20 {
        bench.until(&unit, "the end", |status| status.state.final_state).await;
        bench.runtime.start_again(&unit).await.unwrap();
        let ended = bench.until(&unit, "the end", |status| status.state.final_state).await.state;
        assert_eq!(ended.last_end, Some(towline_agent::shim::Ended::Exited(3)), "{ended:?}");
    }
    bench.end().await;
}
