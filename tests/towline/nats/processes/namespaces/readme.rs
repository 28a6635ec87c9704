//! README.md, "Over NATS": its lines as they stand, on a machine of their own, for they name ports.

use std::fs;
use std::process::Stdio;

use towline_tests::netns::Namespaces;
use towline_tests::processes::{Program, lives};
use towline_tests::wait::{PATIENCE, until};

use super::{blocks_of, shell};

const PLACE: &str = "readme";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_lines_end_with_a_connected_instance() {
    let blocks = blocks_of("README.md", "");
    let [block] = &blocks[..] else { panic!("one block is to be followed: {blocks:?}") };
    let (started, last) = block.trim_end().rsplit_once('\n').unwrap();
    assert!(started.lines().all(|line| line.ends_with(" &")), "the last line alone is waited for: {block}");
    let dir = tempfile::tempdir().unwrap();
    let mut net = Namespaces::new();
    net.add(PLACE);
    let here = |lines: &str| {
        let mut command = shell(&net, PLACE, &format!("cd {}\n{lines}", dir.path().display()));
        // As on a machine of its own.
        command.env("TOWLINE_MARK_DIR", dir.path().join("marks"));
        command
    };
    // Whoever types the lines has a shell that stays.
    let terminal = here(&format!("{started}\njobs -p > pids\nwait"));
    let terminal = Program::start("a terminal", terminal, dir.path().join("log"));
    // And repeats the last one until hub and agent have found each other.
    let shown = until("shop-7 to be connected", || async {
        let command =
            tokio::process::Command::from(here(last)).kill_on_drop(true).stdin(Stdio::null()).output();
        let output = tokio::time::timeout(PATIENCE, command).await.expect("towline does not hang").unwrap();
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_there = |line: &str| {
            let mut words = line.split_whitespace();
            words.any(|word| word.ends_with("shop-7")) && words.any(|word| word == "connected")
        };
        (output.status.success() && table.lines().any(is_there)).then_some(table)
    })
    .await;
    let pids = fs::read_to_string(dir.path().join("pids")).unwrap();
    let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), started.lines().count(), "{shown}");
    assert!(pids.iter().all(|pid| lives(*pid)), "each line's program still runs: {}", terminal.log());
    drop(terminal);
    drop(net);
    for pid in pids {
        until("everything to be gone", || std::future::ready((!lives(pid)).then_some(()))).await;
    }
}
