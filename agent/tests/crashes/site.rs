//! A directory, the agents that live in it one after the other, and all that they were asked.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::process::{Child, Command};
use towline_bus::{CallContext, MessageBus, Platform as _, message_bus::Remote};
use towline_protocol::{
    CallError, InstanceId, JobId, RequestId,
    bundle::PutBundleRequest,
    job::{GetJobRequest, JobState},
};

use crate::{bus::Bus, journal, place::Place, stream::Op, until};

/// What is put once, and never touched again.
pub(crate) const STILL: &str = "still";

/// Something that was asked, and what was answered; none while nobody knows.
pub(crate) struct Asked {
    pub(crate) request: RequestId,
    pub(crate) op: Op,
    pub(crate) answer: Option<Result<Option<JobId>, CallError>>,
}

pub(crate) struct Site {
    bus: Arc<Bus>,
    pub(crate) place: Arc<dyn Place>,
    dir: tempfile::TempDir,
    pub(crate) instance: InstanceId,
    pub(crate) asked: Vec<Asked>,
    /// The runs of the units of [`STILL`], before anything happened.
    pub(crate) still: BTreeSet<String>,
    /// Errors were injected: jobs may have failed for that.
    pub(crate) injected: bool,
}

impl Site {
    /// With an agent that was killed after it had brought up [`STILL`].
    pub(crate) async fn new(bus: &Arc<Bus>, place: &Arc<dyn Place>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        fs::write(dir.path().join("unit.sh"), journal::UNIT).unwrap();
        fs::write(dir.path().join("hook.sh"), journal::HOOK).unwrap();
        let name = dir.path().file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "t");
        let instance = name.parse().unwrap();
        let (bus, place, still) = (Arc::clone(bus), Arc::clone(place), BTreeSet::new());
        let mut site = Self { bus, place, dir, instance, asked: Vec::new(), still, injected: false };
        let mut life = site.begin("").await;
        life.serves().await.unwrap();
        let content = site.app(STILL, "never-touched", 2);
        let job = life
            .far
            .put_bundle(&CallContext::new(), &PutBundleRequest::new(STILL.parse().unwrap(), content))
            .await
            .unwrap()
            .job;
        until("what is never touched to start", async || {
            (journal::read(site.path()).iter().filter(|unit| unit.app == STILL).count() == 2).then_some(())
        })
        .await;
        // Else the next agent begins with it, and comes by the points where it is to stall.
        until("its job to end", async || {
            let request = GetJobRequest { job: job.unwrap(), after: 0, limit: None };
            let job = life.far.get_job(&CallContext::new(), &request).await.unwrap().job;
            if job.state == JobState::Done { Ok(()) } else { Err(job) }
        })
        .await;
        life.kill().await;
        site.still = site.place.runs(&site.instance.to_string(), STILL);
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where bundles of this site put files.
    pub(crate) fn host(&self) -> PathBuf {
        self.path().join("host")
    }

    /// The document of an app whose units write their starts and stops down, and whose hooks write that they ran.
    pub(crate) fn app(&self, name: &str, tag: &str, units: u64) -> String {
        let (script, journal) = (self.path().join("unit.sh"), journal::path(self.path()));
        format!(
            "---\napiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n{}  command: [sh, {}, {}, {name}, {tag}]\n  units: {units}\n  stop: {{gracePeriod: 5s}}\n{}",
            self.place.lines(self.path()),
            script.display(),
            journal.display(),
            if journal::has_hooks(name) { self.hooks() } else { String::new() },
        )
    }

    fn hooks(&self) -> String {
        let (script, file) = (self.path().join("hook.sh"), journal::hooks_path(self.path()));
        let hook = |name: &str| format!("{name}: [sh, {}, {}, {name}]", script.display(), file.display());
        format!("  hooks: {{{}}}\n", ["preStart", "postStart", "preStop", "postStop"].map(hook).join(", "))
    }

    /// Starts an agent, the real binary, and a hub that it finds.
    pub(crate) async fn begin(&self, failpoints: &str) -> Life {
        let hub = self.bus.hub().await;
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_towline-agent"))
            .arg("--nats")
            .arg(&self.bus.url)
            .arg("--instance")
            .arg(self.instance.to_string())
            .arg("--data-dir")
            .arg(self.path().join("data"))
            .arg("--mark-dir")
            .arg(self.path().join("marks"))
            .args(["--metrics-listen", "127.0.0.1:0"])
            .args(self.place.options())
            .env("TOWLINE_FAILPOINTS", failpoints)
            .env_remove("TOWLINE_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let far = hub.connect(&self.instance);
        Life { child, hub, far, instance: self.instance.clone() }
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.path().join("agent.log")
    }
}

impl Drop for Site {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its agents said last")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log_path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
            eprintln!("---- the agents' log ----\n{}", shown.join("\n"));
        }
        self.place.clear(&self.instance.to_string());
    }
}

/// An agent's process, from its start to its end.
pub(crate) struct Life {
    pub(crate) child: Child,
    pub(crate) hub: MessageBus,
    pub(crate) far: Remote,
    instance: InstanceId,
}

impl Life {
    /// Waits until it serves; its end, if that comes first.
    pub(crate) async fn serves(&mut self) -> Result<(), ExitStatus> {
        tokio::select! {
            present = self.hub.await_presence(&self.instance, Duration::from_secs(60)) => {
                present.unwrap();
                Ok(())
            }
            ended = self.child.wait() => Err(ended.unwrap()),
        }
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
        self.hub.stop().await;
    }
}
