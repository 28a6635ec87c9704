//! An agent in a directory of its own, and bundles for it.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use prometheus::Registry;
use tempfile::TempDir;
use towline_agent::{Agent, AgentConfig};
use towline_bus::{CallContext, Platform};
use towline_protocol::{
    CallError, JobId, Name, WorkloadId,
    bundle::{
        BundleChangesRequest, BundleStatusRequest, BundleStatusResponse, PutBundleRequest, PutBundleResponse,
    },
    job::{GetJobRequest, Job, JobRecord, WatchJobRequest},
};

pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) agent: Agent,
    pub(crate) platform: Arc<dyn Platform>,
}

pub(crate) fn cx() -> CallContext {
    CallContext::new()
}

pub(crate) fn shop() -> Name {
    "shop".parse().unwrap()
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        fs::write(dir.path().join("boot"), "first\n").unwrap();
        Self::over(dir).await
    }

    async fn over(dir: TempDir) -> Self {
        let name = dir.path().file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "t");
        let mut config = AgentConfig::new(name.parse().unwrap(), dir.path());
        config.shim = vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()];
        config.boot_id_file = dir.path().join("boot");
        let agent = Agent::open(config, Registry::new()).await.unwrap();
        let platform = agent.platform();
        Self { dir, agent, platform }
    }

    /// The same data directory under a new agent.
    pub(crate) async fn reopened(self) -> Self {
        let Self { dir, agent, platform } = self;
        drop(platform);
        agent.close().await;
        Self::over(dir).await
    }

    /// A path on this host that the test may use.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("host").join(name)
    }

    pub(crate) fn directory(&self, name: &str, more: &str) -> String {
        let path = self.path(name);
        format!(
            "---\napiVersion: towline/v1\nkind: Directory\nmetadata: {{name: {name}}}\nspec:\n  path: {}\n{more}",
            path.display()
        )
    }

    pub(crate) fn file(&self, name: &str, content: &str, more: &str) -> String {
        let path = self.path(name);
        format!(
            "---\napiVersion: towline/v1\nkind: File\nmetadata: {{name: {name}}}\nspec:\n  path: {}\n  content: {content}\n{more}",
            path.display()
        )
    }

    /// An app that appends its name to a file when it starts.
    pub(crate) fn app(&self, name: &str, more: &str) -> String {
        let journal = self.path("journal");
        format!(
            "---\napiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  command: [sh, -c, \"echo {name} >> {}; exec sleep 1000\"]\n{more}",
            journal.display()
        )
    }

    pub(crate) fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn request(&self, content: impl Into<String>) -> PutBundleRequest {
        PutBundleRequest::new(shop(), content.into())
    }

    pub(crate) async fn put(&self, content: impl Into<String>) -> Result<PutBundleResponse, CallError> {
        self.platform.put_bundle(&cx(), &self.request(content)).await
    }

    /// Puts, and waits for the job.
    pub(crate) async fn done(&self, content: impl Into<String>) -> Job {
        let put = self.put(content).await.unwrap();
        self.ended(put.job.unwrap()).await.0
    }

    /// A job when it has ended, with all its records.
    pub(crate) async fn ended(&self, job: JobId) -> (Job, Vec<JobRecord>) {
        let mut stream = self.platform.watch_job(&cx(), &WatchJobRequest { job, after: 0 }).await.unwrap();
        let mut records = Vec::new();
        let all = async {
            while let Some(record) = stream.next().await {
                records.push(record.unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
        assert!(records.last().unwrap().state.is_terminal(), "{records:?}");
        let job = GetJobRequest { job, after: 0, limit: None };
        (self.platform.get_job(&cx(), &job).await.unwrap().job, records)
    }

    pub(crate) async fn status(&self) -> BundleStatusResponse {
        let request = BundleStatusRequest { bundle: shop(), after: None, limit: None };
        self.platform.bundle_status(&cx(), &request).await.unwrap()
    }

    /// `id state` of each workload, by id.
    pub(crate) async fn states(&self) -> Vec<String> {
        let status = self.status().await;
        status.workloads.iter().map(|workload| format!("{} {}", workload.id, workload.result.state)).collect()
    }

    /// `id state` of each record, oldest first.
    pub(crate) async fn changes(&self) -> Vec<String> {
        let request = BundleChangesRequest { bundle: shop(), after: 0, limit: None };
        let changes = self.platform.bundle_changes(&cx(), &request).await.unwrap().changes;
        let shown =
            |id: &Option<WorkloadId>| id.as_ref().map_or_else(|| "bundle".to_owned(), ToString::to_string);
        changes.iter().map(|record| format!("{} {}", shown(&record.workload), record.state)).collect()
    }

    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let begun = tokio::time::Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn end(self) {
        self.agent.remove_units().await.unwrap();
        assert_eq!(fs::read_dir(self.dir.path().join("units")).unwrap().count(), 0);
        drop(self.platform);
        self.agent.close().await;
    }
}
