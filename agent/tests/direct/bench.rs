//! An agent in a directory of its own.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus::Registry;
use tempfile::TempDir;
use towline_agent::{Agent, AgentConfig};
use towline_bus::{CallContext, Platform};
use towline_protocol::{
    CallError, ResourceId,
    platform::{Definition, Service, SyncAction},
};

pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) agent: Agent,
    pub(crate) registry: Registry,
    pub(crate) platform: Arc<dyn Platform>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn over(dir: TempDir) -> Self {
        let config = config(dir.path());
        Self::with(config, dir).await
    }

    /// An agent that looks at files that often.
    pub(crate) async fn looking_at_files(dir: TempDir, every: Duration) -> Self {
        let config = AgentConfig { look_at_files: every, ..config(dir.path()) };
        Self::with(config, dir).await
    }

    async fn with(config: AgentConfig, dir: TempDir) -> Self {
        let registry = Registry::new();
        let agent = Agent::open(config, registry.clone()).await.unwrap();
        let platform = agent.platform();
        Self { dir, agent, registry, platform }
    }

    /// The same data directory under a new agent.
    pub(crate) async fn reopened(self) -> Self {
        let Self { dir, agent, platform, .. } = self;
        drop(platform);
        agent.close().await;
        Self::over(dir).await
    }

    pub(crate) async fn apply(&self, name: &str, spec: &str) -> Result<(), CallError> {
        self.platform.apply(&CallContext::new(), &[definition(name, spec)]).await
    }

    pub(crate) async fn service(&self, name: &str) -> Service {
        self.platform.some_services(&CallContext::new(), &[id(name)]).await.unwrap().remove(0)
    }

    /// Pids of the units of `name`, by unit.
    pub(crate) async fn pids(&self, name: &str) -> BTreeMap<String, Option<u32>> {
        let found = self.platform.some_services(&CallContext::new(), &[id(name)]).await.unwrap();
        found.into_iter().flat_map(|service| service.units).map(|unit| (unit.id, unit.pid)).collect()
    }

    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Service) -> bool) -> Service {
        let begun = tokio::time::Instant::now();
        loop {
            let service = self.service(name).await;
            if holds(&service) {
                return service;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain for {what}: {service:?}");
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

pub(crate) fn config(dir: &Path) -> AgentConfig {
    let name = dir.file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "t");
    let mut config = AgentConfig::new(name.parse().unwrap(), dir);
    config.shim = vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()];
    config
}

pub(crate) fn id(name: &str) -> ResourceId {
    format!("default/App/{name}").parse().unwrap()
}

pub(crate) fn yaml(name: &str, spec: &str) -> Bytes {
    format!("# as written\napiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}, labels: {{tier: front}}}}\nspec:\n{spec}").into()
}

pub(crate) fn definition(name: &str, spec: &str) -> Definition {
    Definition { id: id(name), definition: yaml(name, spec), is_async: false }
}

pub(crate) fn sleeper(more: &str) -> String {
    format!("  command: [sleep, \"1000\"]\n{more}")
}

pub(crate) fn broken() -> String {
    "  command: [no-such-program]\n".to_owned()
}

pub(crate) fn action(name: &str, delete: bool, apply: Option<&str>) -> SyncAction {
    let delete =
        delete.then(|| format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\n").into());
    SyncAction { id: id(name), delete, apply: apply.map(|spec| yaml(name, spec)) }
}
