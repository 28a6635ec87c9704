//! The real agent when its disk, its store or its host fails it.

use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::Code;
use towline_protocol::bundle::PutBundleRequest;
use towline_protocol::job::{GetJobRequest, JobState};
use towline_tests::processes::AgentProcess;
use towline_tests::wait::until;

use super::{Site, apply, define, id, noting, pid, script, starts};

/// Nothing is written beyond this place of a file: the store, which is larger, cannot be, and the log, which is not, can.
const WRITABLE: u64 = 16 * 1024;

/// Has each write beyond `limit` fail, or none.
fn limit_writes(agent: &AgentProcess, limit: Option<u64>) {
    let pid = i32::try_from(agent.program.pid()).ok().and_then(Pid::from_raw).unwrap();
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: limit, maximum: None }).unwrap();
}

async fn until_health(site: &Site, name: &str, state: &str) -> String {
    until(&format!("{name} to be {state}"), || async {
        let found = site.hub.instance(name).await?;
        let is_so = found.pointer("/health/state").and_then(Value::as_str) == Some(state);
        let detail = found.pointer("/health/detail").and_then(Value::as_str).unwrap_or_default().to_owned();
        is_so.then_some(detail)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn z_e12_a_store_that_cannot_be_written_shows_up_to_the_hub_and_the_command_line() {
    let site = Site::start().await;
    let mut agent = site.agent("a").await;
    let epoch = site.hub.until_state("a", "connected").await;
    // Then a write beyond the limit is an error, as on a full disk, and no signal.
    let plain = agent.command();
    let mut deaf = Command::new("sh");
    deaf.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    agent.start_again_as(deaf).await;
    until("it to serve", || async {
        Some(site.hub.until_state("a", "connected").await).filter(|now| *now > epoch)
    })
    .await;
    let platform = site.hub.platform("a");
    let first = define("first", script("first", "exec sleep 1000", ""));
    // It acts under its new epoch, which is stored.
    until("it to act", || async {
        platform.apply(&CallContext::new(), std::slice::from_ref(&first)).await.ok()
    })
    .await;
    // Its health is looked at now and then.
    until("its health", || async { agent.healthz().await.filter(|(code, _)| *code == 200) }).await;
    assert_eq!(until_health(&site, "a", "healthy").await, "");

    limit_writes(&agent, Some(WRITABLE));
    let web = define("web", script("web", "exec sleep 1000", ""));
    let error = platform.apply(&CallContext::new(), std::slice::from_ref(&web)).await.unwrap_err();
    assert_eq!(error.code, Code::Cluster, "{error:?}");
    let (_, text) =
        until("its health to tell", || async { agent.healthz().await.filter(|(code, _)| *code == 503) })
            .await;
    assert!(text.starts_with("stalled: the agent's store failed: "), "{text}");
    let detail = until_health(&site, "a", "stalled").await;
    assert!(detail.starts_with("the agent's store failed: "), "{detail}");
    let shown = site.hub.cli(&["instance", "show", "a"]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("stalled: the agent's store failed: "), "{shown}");

    limit_writes(&agent, None);
    apply(&platform, web).await;
    until("its health to be told again", || async { agent.healthz().await.filter(|(code, _)| *code == 200) })
        .await;
    until_health(&site, "a", "healthy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_named_with_what_can_be_done() {
    let site = Site::start().await;
    let mut agent = site.agent("a").await;
    agent.program.kill();
    let store = agent.data_dir().join("agent.redb");
    std::fs::write(&store, "nonsense").unwrap();
    agent.start_again().await;
    let log = agent.program.log();
    let line =
        log.lines().find(|line| line.contains("the store is damaged")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&format!("it was set aside as {}.damaged-20", store.display())), "{line}");
    assert!(line.contains(&format!("file={}", store.display())), "{line}");
    assert!(
        line.contains("put back a backup while the agent is stopped, or put the bundles again"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn z_e6_the_boot_id_file_says_whether_the_host_was_started_anew() {
    let site = Site::start().await;
    let mut agent = site.agent("a").await;
    let boot = agent.dir().join("boot");
    let again = async |agent: &mut AgentProcess| {
        let epoch = site.hub.until_state("a", "connected").await;
        let mut command = agent.command();
        command.arg("--boot-id-file").arg(&boot);
        agent.start_again_as(command).await;
        until("it to serve", || async {
            Some(site.hub.until_state("a", "connected").await).filter(|now| *now > epoch)
        })
        .await;
    };
    std::fs::write(&boot, "first\n").unwrap();
    again(&mut agent).await;
    let platform = site.hub.platform("a");
    let mut content = noting("web", &agent).definition.to_vec();
    content.extend_from_slice(b"  drift: report\n");
    let request = PutBundleRequest::new("shop".parse().unwrap(), content);
    let job = platform.put_bundle(&CallContext::new(), &request).await.unwrap().job.unwrap();
    let request = GetJobRequest { job, after: 0, limit: None };
    until("the job to end", || async {
        let job = platform.get_job(&CallContext::new(), &request).await.ok()?.job;
        (job.state == JobState::Done).then_some(())
    })
    .await;
    // The unit goes with the agent, as when the host goes down.
    let unit = pid(&platform, &id("web")).await.unwrap();
    let parent = std::fs::read_to_string(format!("/proc/{unit}/status")).unwrap();
    let parent = parent.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    agent.program.kill();
    for pid in [parent, unit.to_string()] {
        let pid = pid.parse().ok().and_then(Pid::from_raw).unwrap();
        // The unit may go with its supervisor.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    again(&mut agent).await;
    assert_eq!(
        (pid(&platform, &id("web")).await, starts("web", &agent)),
        (None, 1),
        "the same boot: it is only told"
    );
    std::fs::write(&boot, "second\n").unwrap();
    again(&mut agent).await;
    until("it to be brought up", || async { pid(&platform, &id("web")).await }).await;
    assert_eq!(starts("web", &agent), 2);
}
