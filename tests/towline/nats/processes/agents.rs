//! Agents that end, in order and otherwise.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::platform::SyncAction;
use towline_protocol::{Code, Effect, limits};
use towline_tests::processes::{Program, lives};
use towline_tests::wait::until;

use super::{Site, Stubborn, apply, id, noting, pid, starts};

/// SIGKILL in the middle of a sync that would have taken a minute: the caller learns it within the loss bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_a2_a_killed_agent_leaves_an_unknown_outcome() {
    let site = Site::start().await;
    let mut agent = site.agent("a").await;
    let platform = site.hub.platform("a");
    let sync = Stubborn::apply(&platform, &agent, "60s").await.delete(&platform).await;
    // Longer than a silent call is waited for: what keeps it alive is the agent's word.
    tokio::time::sleep(limits::CALL_SILENCE_MAX + Duration::from_millis(500)).await;
    assert!(!sync.is_finished(), "a slow call is waited for");
    agent.program.kill();
    let killed = Instant::now();
    let error = sync.await.unwrap().unwrap_err();
    let took = killed.elapsed();
    assert_eq!((&error.code, &error.effect), (&Code::UnknownOutcome, &Effect::Unknown), "{error:?}");
    // The bench judges the figure; what counts here is that it is not the call's own deadline, which is 20 minutes.
    assert!(took < 2 * limits::CALL_SILENCE_MAX, "it took {took:?}");
    site.hub.until_state("a", "unreachable").await;
    let absent = Instant::now();
    let error = platform.ping(&CallContext::new()).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Unavailable, &Effect::None), "{error:?}");
    assert!(absent.elapsed() < Duration::from_millis(250), "absence is known, and answered at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_says_goodbye_and_units_run_on() {
    let site = Site::start().await;
    let mut agent = site.agent("a").await;
    let web = apply(&site.hub.platform("a"), noting("web", &agent)).await;
    let epoch = site.hub.until_state("a", "connected").await;
    let begun = Instant::now();
    agent.program.signal(Signal::TERM);
    site.hub.until_state("a", "unreachable").await;
    // The bar is 100 ms; a test waits five times as long.
    assert!(begun.elapsed() < Duration::from_millis(500), "it took {:?}", begun.elapsed());
    let status = agent.program.ended().await;
    assert!(status.success(), "it ends in order: {status}");
    assert!(lives(web), "units run on");
    let error = site.hub.platform("a").ping(&CallContext::new()).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error:?}");
    let begun = Instant::now();
    agent.start_again().await;
    assert!(site.hub.until_state("a", "connected").await > epoch);
    assert!(begun.elapsed() < limits::LEASE_HUB, "after a goodbye nobody waits for a lease");
    assert_eq!(pid(&site.hub.platform("a"), &id("web")).await, Some(web));
    assert_eq!(starts("web", &agent), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_finds_its_units_again() {
    let site = Site::start().await;
    let mut agent = site.agent("a").await;
    let platform = site.hub.platform("a");
    let pids = [apply(&platform, noting("x", &agent)).await, apply(&platform, noting("y", &agent)).await];
    let epoch = site.hub.until_state("a", "connected").await;
    agent.program.kill();
    assert!(pids.into_iter().all(lives), "units run on");
    agent.start_again().await;
    let served = until("a newer epoch", || async {
        Some(site.hub.until_state("a", "connected").await).filter(|now| *now > epoch)
    });
    served.await;
    for (name, before) in ["x", "y"].into_iter().zip(pids) {
        assert_eq!(pid(&platform, &id(name)).await, Some(before), "{name} is the same process");
        assert_eq!(starts(name, &agent), 1);
    }
    // And they are its own to end: nothing was only shown.
    let delete = noting("x", &agent).definition;
    let action = SyncAction { id: id("x"), delete: Some(delete), apply: None };
    platform.sync(&CallContext::new(), &[action]).await.unwrap();
    assert!(!lives(pids[0]) && lives(pids[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_on_one_data_directory_are_refused() {
    let site = Site::start().await;
    let agent = site.agent("a").await;
    let epoch = site.hub.until_state("a", "connected").await;
    let log = agent.dir().join("log-of-the-second");
    let mut second = Program::start("second agent", agent.command(), log);
    assert_eq!(second.ended().await.code(), Some(1));
    let said = second.log();
    for part in [
        format!("(pid {})", agent.program.pid()),
        "belongs to a running agent".to_owned(),
        "--data-dir".to_owned(),
    ] {
        assert!(said.contains(&part), "`{part}` is not in: {said}");
    }
    site.hub.platform("a").ping(&CallContext::new()).await.unwrap();
    assert_eq!(site.hub.until_state("a", "connected").await, epoch, "the first serves on");
}
