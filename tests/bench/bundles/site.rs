//! A real agent in a process of its own, and what a hub says to it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use towline_bus::platform::CallContext;
use towline_bus::{MessageBus, Platform, Remote};
use towline_protocol::JobId;
use towline_protocol::bundle::{DeleteBundleRequest, PutBundleRequest, PutBundleResponse};
use towline_protocol::job::{JobState, WatchJobRequest};
use towline_tests::chain::{binary, instance};
use towline_tests::nats::{NatsServer, free_port};

use crate::calls::{AWAITED, bus};
use crate::children::Owned;

/// How long a job may take: the largest has some thousand workloads.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A real agent, and this process as its hub.
pub(super) struct Site {
    pub(super) remote: Remote,
    /// Where the agent keeps its data.
    pub(super) data_dir: TempDir,
    bus: MessageBus,
    agent: Owned,
}

impl Site {
    pub(super) async fn start(server: &NatsServer, name: &str) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let bus = bus(server).await;
        let agent = agent(server, name, data_dir.path(), free_port());
        bus.await_presence(&instance(name), AWAITED).await.unwrap();
        Self { remote: bus.connect(&instance(name)), data_dir, bus, agent }
    }

    /// Ends the agent in order, and says where its data lies.
    pub(super) async fn end(self) -> TempDir {
        let Self { data_dir, bus, agent, .. } = self;
        terminate(agent);
        bus.stop().await;
        data_dir
    }
}

/// Starts an agent.
pub(super) fn agent(server: &NatsServer, name: &str, data_dir: &Path, metrics: u16) -> Owned {
    let agent = Command::new(binary("towline-agent"))
        .args(["--nats", &server.url(), "--instance", name, "--metrics-listen"])
        .arg(format!("127.0.0.1:{metrics}"))
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--mark-dir")
        .arg(data_dir.join("marks"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Owned(agent.unwrap())
}

/// Ends an agent in order, and waits for it.
pub(super) fn terminate(mut agent: Owned) {
    let pid = rustix::process::Pid::from_child(&agent.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(agent.0.wait().unwrap().success());
}

/// Puts the next version of a bundle.
pub(crate) async fn put(remote: &impl Platform, bundle: &str, content: String) -> PutBundleResponse {
    let request = PutBundleRequest::new(bundle.parse().unwrap(), content);
    remote.put_bundle(&CallContext::new().within(PATIENCE), &request).await.unwrap()
}

/// Waits for the end of a job, which is to be its success.
pub(crate) async fn done(remote: &impl Platform, job: JobId) {
    let mut after = 0;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let request = WatchJobRequest { job, after };
        let mut records = remote.watch_job(&CallContext::new().within(PATIENCE), &request).await.unwrap();
        while let Some(record) = records.next().await {
            let record = record.unwrap();
            after = record.seq;
            if record.state.is_terminal() {
                assert_eq!(record.state, JobState::Done, "{:?}", record.message);
                return;
            }
        }
    }
    panic!("job {job} did not end");
}

/// Deletes a bundle, and waits until it is gone.
pub(crate) async fn delete(remote: &impl Platform, bundle: &str) {
    let bundle = bundle.parse().unwrap();
    let request = DeleteBundleRequest { bundle, reason: None, dry_run: false, force: false };
    let response = remote.delete_bundle(&CallContext::new(), &request).await.unwrap();
    done(remote, response.job.unwrap()).await;
}
