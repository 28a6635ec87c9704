//! What is left when a shim or an agent goes.

use std::fs;

use towline_agent::shim::Status;

use crate::bench::*;

#[tokio::test]
async fn a_killed_shim_leaves_no_orphan() {
    let bench = Bench::new().await;
    let started = bench.start(&shell("setsid sleep 1000 & sleep 1000 & wait")).await.unwrap();
    wait("three processes", || (bench.marked().len() == 3).then_some(()), || format!("{:?}", bench.marked()))
        .await;
    kill(started.state.shim.unwrap().0);
    let lost = bench.until(&started.unit, "the loss", |status| status.state.final_state).await;
    assert_eq!(
        (lost.state.status, lost.state.reason.as_deref()),
        (Status::Error, Some("its supervisor was lost"))
    );
    assert_eq!(bench.marked(), Vec::<u32>::new());
    let again = bench.runtime.start_again(&started.unit).await.unwrap();
    assert_eq!(again.state.status, Status::Started);
    bench.end().await;
}

#[tokio::test]
async fn units_survive_their_agent() {
    let mut bench = Bench::new().await;
    let spec = format!("{}  ports: [{{name: http, port: 80}}]\n", shell("echo up; exec sleep 1000"));
    let mut before = Vec::new();
    for _ in 0..3 {
        before.push(bench.start(&spec).await.unwrap());
    }
    let dead = bench.start(&shell("setsid sleep 1000 & wait")).await.unwrap();
    bench.runtime.close().await;
    drop(bench.runtime);
    kill(dead.state.shim.unwrap().0);
    bench.runtime = open(bench.dir.path()).await;
    let state = bench.until(&dead.unit, "the loss", |status| status.state.final_state).await;
    assert_eq!(state.state.status, Status::Error);
    for status in &before {
        let found =
            bench.until(&status.unit, "its state", |status| status.state.status == Status::Started).await;
        assert_eq!(&found, status);
    }
    assert_eq!(bench.marked().len(), 3);
    let found = lines(bench.runtime.logs(query()), 99).await;
    assert_eq!(texts(&found), ["up", "up", "up"]);
    bench.end().await;
}

#[tokio::test]
async fn restarts_go_on_while_the_agent_is_away() {
    let mut bench = Bench::new().await;
    let started = bench
        .start(&format!("{}  restart: {{delay: 10ms, maxDelay: 20ms}}\n", shell("sleep 0.02; exit 1")))
        .await
        .unwrap();
    bench.runtime.close().await;
    drop(bench.runtime);
    // Read where the shim writes it: nobody else is there.
    let file = bench.dir.path().join("units").join(&started.unit).join("state.json");
    let restarts = || {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        state["restarts"].as_u64().filter(|restarts| *restarts > 3)
    };
    let seen = wait("restarts", restarts, || fs::read_to_string(&file).unwrap()).await;
    bench.runtime = open(bench.dir.path()).await;
    bench.until(&started.unit, "its restarts", |status| status.state.restarts >= seen).await;
    bench.end().await;
}

#[tokio::test]
async fn what_a_killed_agent_was_making_or_removing_is_cleared_away() {
    let mut bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("conf");
    let spec = format!("  command: [sleep, \"1000\"]\n  files: [{{path: {}, content: x}}]\n", path.display());
    let started = bench.start(&spec).await.unwrap();
    bench.runtime.stop(&started.unit).await.unwrap();
    bench.runtime.close().await;
    drop(bench.runtime);
    let units = bench.dir.path().join("units");
    // As if the agent had died before it started the shim, and in the middle of two other things.
    fs::remove_file(units.join(&started.unit).join("state.json")).unwrap();
    for half in [".unfinished-web-1", ".unfinished-web-2"] {
        fs::create_dir_all(units.join(half).join("work")).unwrap();
    }
    fs::create_dir(units.join("not-ours")).unwrap();
    bench.runtime = open(bench.dir.path()).await;
    assert!(bench.runtime.list().is_empty());
    assert!(!path.exists(), "its file went with it");
    assert_eq!(fs::read_dir(&units).unwrap().count(), 1, "what is not ours stays");
    fs::remove_dir(units.join("not-ours")).unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_unit_whose_directory_is_removed_ends() {
    let bench = Bench::new().await;
    bench.start(&shell("setsid sleep 1000 & wait")).await.unwrap();
    fs::remove_dir_all(bench.dir.path()).unwrap();
    wait("the end", || bench.marked().is_empty().then_some(()), || format!("{:?}", bench.marked())).await;
    bench.runtime.close().await;
}

#[tokio::test]
async fn a_shim_that_hangs_does_not_keep_its_unit_from_stopping() {
    let bench = Bench::new().await;
    let started = bench
        .start(&format!("{}  stop: {{gracePeriod: 100ms}}\n", shell("setsid sleep 1000 & wait")))
        .await
        .unwrap();
    let shim = rustix::process::Pid::from_raw(started.state.shim.unwrap().0).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    bench.runtime.stop(&started.unit).await.unwrap();
    assert!(bench.marked().is_empty());
    bench.end().await;
}

#[tokio::test]
async fn what_cannot_be_removed_at_once_does_not_keep_an_agent_from_starting() {
    let mut bench = Bench::new().await;
    let unit = bench.start(&shell("mkdir -p a/b; chmod 500 a; exec sleep 1000")).await.unwrap().unit;
    let units = bench.dir.path().join("units");
    wait(
        "the directory",
        || fs::metadata(units.join(&unit).join("work/a")).ok().filter(|found| found.permissions().readonly()),
        String::new,
    )
    .await;
    bench.runtime.delete(&unit).await.unwrap();
    assert_eq!(
        fs::read_dir(&units).unwrap().count(),
        0,
        "a directory without write permission is no obstacle"
    );
    bench.runtime.close().await;
    // What looks like a directory that was being removed, and cannot be.
    fs::write(units.join(".unfinished-web-1"), "").unwrap();
    bench.runtime = open(bench.dir.path()).await;
    fs::remove_file(units.join(".unfinished-web-1")).unwrap();
    bench.end().await;
}
