//! The agent is killed at every named point, and at random instants, while bundles are put, paused, resumed and deleted.
//! What was answered must be there afterwards, every job must have ended once, and the host must bear exactly what was
//! accepted last.
//!
//! `TOWLINE_KILLS` says how many random kills there are (10); with the feature `failpoints`, each point is tried, too.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "the test waits, on a thread of its own, for processes that it kills"
)]

mod check;
mod driver;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Begins this test binary once more, as the agent that is killed.
fn driver(dir: &Path, seed: u64, failpoints: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "drive", "--nocapture"])
        .env("TOWLINE_DRIVE", dir)
        .env("TOWLINE_SEED", seed.to_string())
        .env("TOWLINE_FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "begun by the tests, as a process of its own"]
fn drive() {
    let Some(dir) = std::env::var_os("TOWLINE_DRIVE") else { return };
    let seed = std::env::var("TOWLINE_SEED").unwrap().parse().unwrap();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(driver::drive(Path::new(&dir), seed));
}

#[test]
fn killed_at_random_instants_nothing_accepted_is_lost() {
    let kills: u64 = std::env::var("TOWLINE_KILLS").map_or(10, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut random = driver::Random::new(7);
    for seed in 0..kills {
        let mut child = driver(dir.path(), seed, "");
        std::thread::sleep(Duration::from_millis(150 + random.below(1_200)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    check::whole(dir.path());
}

#[cfg(feature = "failpoints")]
#[expect(clippy::print_stderr, reason = "shown when it fails: which point it was")]
#[test]
fn killed_at_each_point_nothing_accepted_is_lost() {
    let mut reached = 0;
    for (seed, name) in (100..).zip(towline_agent::failpoints::NAMES) {
        let dir = tempfile::tempdir().unwrap();
        for (round, what) in [(0, "kill"), (1, "kill@3"), (2, "kill@8")] {
            let mut child = driver(dir.path(), seed * 10 + round, &format!("{name}={what}"));
            let begun = std::time::Instant::now();
            while child.try_wait().unwrap().is_none() {
                if begun.elapsed() > Duration::from_secs(8) {
                    // Not every stream comes by every point so often.
                    child.kill().unwrap();
                    child.wait().unwrap();
                    reached -= 1;
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            reached += 1;
        }
        eprintln!("killed at {name}");
        check::whole(dir.path());
    }
    assert!(reached > 25, "only {reached} kills");
}

#[cfg(feature = "failpoints")]
#[test]
fn failing_at_each_point_nothing_accepted_is_lost() {
    for (seed, name) in (500..).zip(["accept.checked", "pipeline.step", "label.written"]) {
        let dir = tempfile::tempdir().unwrap();
        let mut child = driver(dir.path(), seed, &format!("{name}=error@3"));
        std::thread::sleep(Duration::from_secs(2));
        child.kill().unwrap();
        child.wait().unwrap();
        check::whole(dir.path());
    }
}
