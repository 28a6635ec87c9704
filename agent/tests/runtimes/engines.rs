//! The tests' own engines: one that is frozen, or was killed, holds up nobody.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use crate::{
    engine::{Engine, IMAGE},
    until,
};

/// What the machine has mounted below a directory.
fn mounted(dir: &Path) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let below = format!(" {}/", dir.display());
    mounts.lines().filter(|line| line.contains(&below)).count()
}

#[test]
fn a_test_that_fails_while_its_engine_is_frozen_thaws_it() {
    let engine = Engine::without_network("thaws");
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let _silent = engine.freeze();
        let said = engine.docker_within(1, &["version"]).unwrap_err();
        panic!("{said}");
    }));
    let said = failed.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("no end within 1 s"), "{said}");
    engine.docker(&["version"]);
    engine.end();
}

#[test]
fn an_engine_that_is_frozen_ends_with_its_test() {
    let engine = Engine::without_network("frozen");
    let dir = engine.socket.parent().unwrap().to_owned();
    // Nobody thaws it: its test was killed.
    std::mem::forget(engine.freeze());
    engine.end();
    assert!(!dir.exists());
}

#[tokio::test]
async fn an_engine_that_was_killed_leaves_nothing_of_its_containers() {
    let engine = Engine::without_network("killed");
    let dir = engine.socket.parent().unwrap().to_owned();
    let run = ["run", "--detach", "--network", "none", IMAGE, "sleep", "1000"];
    let id = engine.docker(&run);
    let pid = engine.docker(&["inspect", "--format", "{{.State.Pid}}", &id]);
    let process = Path::new("/proc").join(pid);
    assert!(process.exists());
    engine.kill();
    assert!(process.exists(), "containers outlive it");
    engine.end();
    assert!(!dir.exists());
    assert_eq!(mounted(&dir), 0);
    // Killed it is; gone a little later.
    until(Duration::from_secs(30), "its container to end", async || !process.exists()).await;
}
