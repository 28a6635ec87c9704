//! Hooks that the shim runs, as far as they differ from those of other runtimes; and the user and mask of all it runs.

use std::fs;

use towline_agent::{
    runtime::process::{LogQuery, UnitStatus},
    shim::Status,
};

use crate::bench::*;

fn hook(name: &str, script: &str) -> String {
    format!("{name}: [/bin/sh, -c, {}]", serde_json::to_string(script).unwrap())
}

fn hooks(list: &[String]) -> String {
    format!("  hooks: {{{}}}\n", list.join(", "))
}

#[tokio::test]
async fn hooks_have_the_user_the_mask_the_environment_and_the_log_of_their_unit() {
    let bench = Bench::new().await;
    let user = if rustix::process::geteuid().is_root() { "  user: nobody\n" } else { "" };
    let script = "echo hook; id -un; umask; pwd; echo $TOWLINE_UNIT $COLOUR; : > file; stat -c %a file; cat";
    let spec = format!(
        "{}{user}  env: {{COLOUR: red}}\n  umask: \"027\"\n{}",
        shell("echo unit; : > own; stat -c %a own; exec sleep 1000"),
        hooks(&[hook("preStart", script)])
    );
    let started = bench.start(&spec).await.unwrap();
    let found = lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 8).await;
    let texts = texts(&found);
    let work = bench.dir.path().canonicalize().unwrap().join("units").join(&started.unit).join("work");
    assert_eq!((texts[0], texts[2], texts[3]), ("hook", "0027", work.to_str().unwrap()));
    assert_eq!(texts[4], format!("{} red", started.unit));
    assert_eq!(texts[5..], ["640", "unit", "640"]);
    if !user.is_empty() {
        assert_eq!(texts[1], "nobody");
    }
    bench.end().await;
}

#[tokio::test]
async fn f_h1_hooks_run_once_around_each_run_also_of_one_that_crashes() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  restart: {{delay: 10ms, attempts: 1}}\n{}",
        shell("sleep 0.5; echo run; exit 1"),
        hooks(&[
            hook("preStart", "echo pre-start"),
            hook("postStart", "echo post-start"),
            hook("preStop", "echo pre-stop"),
            hook("postStop", "echo post-stop"),
        ])
    );
    let started = bench.start(&spec).await.unwrap();
    let ended = bench.until(&started.unit, "the end", |status| status.state.final_state).await;
    assert_eq!(ended.state.reason.as_deref(), Some("gave up after 1 restarts: exited with status 1"));
    let found = lines(bench.runtime.logs(query()), 99).await;
    let one = ["pre-start", "post-start", "run", "post-stop"];
    assert_eq!(texts(&found), [one, one].concat());
    bench.end().await;
}

#[tokio::test]
async fn f_h1_a_hook_that_fails_at_the_start_is_the_starts_failure() {
    let bench = Bench::new().await;
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    for name in ["preStart", "postStart"] {
        let command = shell(&format!("touch {}; exec sleep 1000", ran.display()));
        let error = bench.start(&format!("{command}{}", hooks(&[hook(name, "exit 3")]))).await.unwrap_err();
        let expected = format!("hook {name} exited with status 3");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(name == "postStart" || !ran.exists(), "what must precede it did not succeed");
        assert_eq!(bench.runtime.list(), Vec::new(), "nothing is left of it");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_hook_that_fails_after_a_crash_counts_as_a_crash() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  restart: {{delay: 10ms, maxDelay: 1h}}\n{}",
        shell("sleep 0.1; touch crashed; exit 1"),
        hooks(&[hook("preStart", "echo looked; test ! -e crashed")])
    );
    let started = bench.start(&spec).await.unwrap();
    let why = "crash-looping: hook preStart exited with status 1: looked; restart";
    let loops =
        |status: &UnitStatus| status.state.reason.as_deref().is_some_and(|reason| reason.starts_with(why));
    let seen = bench.until(&started.unit, "a loop", loops).await;
    assert_eq!(seen.state.status, Status::Error);
    bench.end().await;
}

#[tokio::test]
async fn what_a_hook_leaves_running_ends_with_it() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}{}",
        shell("echo up; exec sleep 1000"),
        hooks(&[hook("preStart", "sleep 1000 & setsid sleep 1000 &"), hook("postStart", "sleep 1000 &")])
    );
    let started = bench.start(&spec).await.unwrap();
    let pid = u32::try_from(started.state.pid.unwrap()).unwrap();
    // One that fled its session before the start ends with its unit at last.
    wait(
        "the leftovers to go",
        || (bench.marked().len() <= 2 && bench.marked().contains(&pid)).then_some(()),
        || format!("{:?}", bench.marked()),
    )
    .await;
    bench.end().await;
}

#[tokio::test]
async fn a_unit_can_be_stopped_in_the_middle_of_its_checks() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  health: {{exec: {{command: [/bin/sh, -c, \"touch looks; sleep 1000\"]}}, timeout: 1h, interval: 100ms}}\n",
        shell("exec sleep 1000")
    );
    let started = bench.start(&spec).await.unwrap();
    let looks = bench.dir.path().join("units").join(&started.unit).join("work/looks");
    wait("a look", || looks.exists().then_some(()), String::new).await;
    bench.runtime.stop(&started.unit).await.unwrap();
    assert_eq!(bench.marked(), Vec::<u32>::new());
    bench.end().await;
}

#[tokio::test]
async fn a_check_that_takes_too_long_is_killed_and_has_failed() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  health: {{exec: {{command: [/bin/sh, -c, \"sleep 1000 & sleep 1000\"]}}, timeout: 50ms, interval: 100ms, \
         retries: 2}}\n",
        shell("exec sleep 1000")
    );
    let started = bench.start(&spec).await.unwrap();
    let sick = bench.until(&started.unit, "a verdict", |status| status.state.status == Status::Error).await;
    assert_eq!(sick.state.reason.as_deref(), Some("unhealthy: `/bin/sh` was killed after 50ms"));
    assert!(bench.marked().len() <= 3, "{:?}", bench.marked());
    bench.end().await;
}

/// A shim of the version before wrote these; an agent that comes back after an upgrade reads them.
#[tokio::test]
async fn what_an_older_shim_wrote_is_read() {
    let mut bench = Bench::new().await;
    let started = bench.start("  command: [sleep, \"1000\"]\n").await.unwrap();
    bench.runtime.stop(&started.unit).await.unwrap();
    bench.runtime.close().await;
    let dir = bench.dir.path().join("units").join(&started.unit);
    for name in ["spec.json", "state.json"] {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        assert!(!text.contains("health") && !text.contains("hooks"), "{name} is as it was: {text}");
    }
    bench.runtime = open(bench.dir.path()).await;
    let again = bench.runtime.start_again(&started.unit).await.unwrap();
    assert_eq!((again.state.status, again.state.health), (Status::Started, None));
    bench.end().await;
}
