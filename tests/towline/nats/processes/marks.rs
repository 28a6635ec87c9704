//! Several agents of one instance on one host: at most one of them changes anything there.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::platform::Definition;
use towline_tests::processes::{AgentProcess, Program, lives};
use towline_tests::wait::until;

use super::{Site, apply, define, id, pid, script, starts};

/// Long enough for several looks for what is to be mended; nothing is awaited, for nothing is to happen.
const A_WHILE: Duration = Duration::from_secs(5);

/// An app that notes each of its starts in a file, and is brought back when it is lost.
fn mended(name: &str, agent: &AgentProcess) -> Definition {
    let file = agent.dir().join(format!("starts-of-{name}"));
    let text = format!("echo started >> {}; exec sleep 1000", file.display());
    define(name, script(name, &text, "  drift: repair\n"))
}

/// The third and following fields of `/proc/PID/stat`: state, parent, ….
fn stat(pid: u32) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Has a unit lost: its supervisor is killed, and it dies with it.
async fn lose(unit: u32) {
    let supervisor = stat(unit)[1].parse().ok().and_then(Pid::from_raw).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    until("the unit to be gone", || async { (!lives(unit)).then_some(()) }).await;
}

async fn until_starts(name: &str, agent: &AgentProcess, count: usize) {
    until(&format!("start {count} of {name}"), || async { (starts(name, agent) == count).then_some(()) })
        .await;
}

async fn newer(site: &Site, epoch: u64) -> u64 {
    until("a newer epoch", || async {
        Some(site.hub.until_state("a", "connected").await).filter(|now| *now > epoch)
    })
    .await
}

/// An app that takes its time to stop, so that its update does.
fn stubborn(version: u8) -> String {
    format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: stubborn}}\nspec:\n  \
         command: [sh, -c, \"trap '' TERM; while true; do sleep 0.1; done\"]\n  \
         stop: {{gracePeriod: 15s}}\n  env: {{VERSION: \"{version}\"}}\n"
    )
}

/// Puts a bundle; returns its job.
async fn put(site: &Site, agent: &AgentProcess, version: u8, more: &[&str]) -> String {
    let file = agent.dir().join(format!("stubborn-{version}.yaml"));
    std::fs::write(&file, stubborn(version)).unwrap();
    let args = ["bundle", "put", "a", "slow", "-f", file.to_str().unwrap()];
    let output = site.hub.cli(&[&args[..], more].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let jobs = site.hub.cli_json(&["jobs", "a", "--bundle", "slow"]).await;
    jobs["jobs"][0]["id"].as_str().unwrap_or_else(|| panic!("{jobs}")).to_owned()
}

async fn job(site: &Site, id: &str) -> Value {
    let shown = site.hub.cli_json(&["jobs", "a"]).await;
    let found = shown["jobs"].as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == id));
    found.unwrap_or_else(|| panic!("no job {id} among {shown}")).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_of_two_stores_acts_and_the_older_one_changes_nothing_more() {
    let site = Site::start().await;
    let mut old = site.agent("a").await;
    let platform = site.hub.platform("a");
    let web = apply(&platform, mended("web", &old)).await;
    put(&site, &old, 1, &["--wait"]).await;
    let begun = put(&site, &old, 2, &[]).await;
    until("the update to be under way", || async {
        (job(&site, &begun).await["state"] == "running").then_some(())
    })
    .await;
    let waiting = put(&site, &old, 3, &[]).await;
    let first = site.hub.until_state("a", "connected").await;

    let mut new = old.start_beside().await;
    let second = newer(&site, first).await;
    let own = apply(&platform, mended("own", &new)).await;
    old.program.says(&format!("another agent acts for this instance: epoch {second}"), 0).await;
    lose(web).await;
    lose(own).await;
    until_starts("own", &new, 2).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(starts("web", &old), 1, "it is not the older one's any more to bring it back");

    assert!(new.program.terminate().await.success());
    let third = newer(&site, second).await;
    for id in [&begun, &waiting] {
        let ended = until("its end", || async {
            Some(job(&site, id).await).filter(|job| job["ended_at"].is_string())
        })
        .await;
        assert_eq!(ended["state"], "superseded", "{ended}");
        let said = ended["message"].as_str().unwrap_or_default();
        let epochs = [first, third].map(|epoch| format!("under epoch {epoch}"));
        assert!(said.contains("another store") && epochs.iter().all(|epoch| said.contains(epoch)), "{said}");
    }
    until_starts("web", &old, 2).await;
    until("what was begun to be whole", || async {
        let status = site.hub.cli_json(&["bundle", "status", "a", "slow"]).await;
        (status["bundle"]["applied"] == 2).then_some(())
    })
    .await;
}

/// The successor waits for whatever is under way, but not for a process that was stopped in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_frozen_in_an_operation_is_killed_by_its_successor() {
    let site = Site::start().await;
    let mut old = site.agent("a").await;
    let platform = site.hub.platform("a");
    let web = apply(&platform, mended("web", &old)).await;
    let first = site.hub.until_state("a", "connected").await;
    let busy = {
        let (platform, version) = (platform.clone(), |n: u32| format!("  env: {{VERSION: \"{n}\"}}\n"));
        tokio::spawn(async move {
            for number in 0.. {
                let definition = define("busy", script("busy", "exec sleep 1000", &version(number)));
                if platform.apply(&CallContext::new(), &[definition]).await.is_err() {
                    return;
                }
            }
        })
    };
    let turns = File::open(old.marks().join("default.a.lock")).unwrap();
    let is_taken = || {
        let free = flock(&turns, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free {
            flock(&turns, FlockOperation::Unlock).unwrap();
        }
        !free
    };
    let frozen = until("a moment in the middle of an operation", || async {
        if !is_taken() {
            return None;
        }
        old.program.signal(Signal::STOP);
        until("it to be stopped", || async { (stat(old.program.pid())[0] == "T").then_some(()) }).await;
        let taken = is_taken();
        if !taken {
            old.program.signal(Signal::CONT);
        }
        taken.then_some(())
    });
    frozen.await;

    let new = old.start_beside().await;
    newer(&site, first).await;
    assert_eq!(old.program.ended().await.signal(), Some(9), "it is killed");
    busy.await.unwrap();
    apply(&platform, mended("own", &new)).await;
    assert!(lives(web), "its units run on");
}

/// What a frozen agent holds of a data directory it can do nothing with; a healthy one keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_loses_its_data_directory() {
    let site = Site::start().await;
    let mut old = site.agent("a").await;
    let platform = site.hub.platform("a");
    let web = apply(&platform, mended("web", &old)).await;
    let first = site.hub.until_state("a", "connected").await;
    old.program.signal(Signal::STOP);
    let mut new = Program::start("second agent", old.command(), old.dir().join("log-of-the-second"));
    new.says("its holder is frozen; killing it", 0).await;
    new.says("the agent serves as soon as", 0).await;
    assert_eq!(old.program.ended().await.signal(), Some(9), "it is killed");
    newer(&site, first).await;
    assert_eq!(pid(&platform, &id("web")).await, Some(web), "the same unit, found again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_hub_an_agent_acts_unless_another_one_has() {
    let mut site = Site::start().await;
    let mut agent = site.agent("a").await;
    let platform = site.hub.platform("a");
    let mut web = apply(&platform, mended("web", &agent)).await;
    site.hub.program.kill();
    agent.start_again().await;
    lose(web).await;
    until_starts("web", &agent, 2).await;

    site.hub.start_again().await;
    site.hub.until_state("a", "connected").await;
    web = until("the unit", || async { pid(&platform, &id("web")).await }).await;
    site.hub.program.kill();
    agent.program.kill();
    let file = agent.marks().join("default.a");
    let mut mark: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let above = mark["epoch"].as_u64().unwrap() + 1;
    mark["epoch"] = above.into();
    std::fs::write(&file, mark.to_string()).unwrap();
    agent.start_again().await;
    agent.program.says(&format!("another agent acts for this instance: epoch {above}"), 0).await;
    lose(web).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(starts("web", &agent), 2, "it waits for the hub's word");
    site.hub.start_again().await;
    until_starts("web", &agent, 3).await;
}
