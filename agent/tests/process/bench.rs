//! A process runtime in a directory of its own, and what tests look at.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;
use towline_agent::{
    manifest::{self, Manifest},
    runtime::RuntimeKind,
    runtime::process::{
        DEFAULT_PATH, LogLines, LogQuery, ProcessConfig, ProcessRuntime, RuntimeError, UnitLogLine, UnitSpec,
        UnitStatus,
    },
};

/// A runtime in a directory of its own; whatever a test leaves is killed with it.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) runtime: ProcessRuntime,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = open(dir.path()).await;
        Self { dir, runtime }
    }

    pub(crate) async fn start(&self, spec: &str) -> Result<UnitStatus, RuntimeError> {
        self.runtime.start(&unit(spec)).await
    }

    pub(crate) fn status(&self, unit: &str) -> UnitStatus {
        self.runtime.list().into_iter().find(|status| status.unit == unit).unwrap()
    }

    pub(crate) async fn until(
        &self,
        unit: &str,
        what: &str,
        holds: impl Fn(&UnitStatus) -> bool,
    ) -> UnitStatus {
        wait(
            what,
            || Some(self.status(unit)).filter(|status| holds(status)),
            || format!("{:?}", self.status(unit)),
        )
        .await
    }

    pub(crate) fn instance(&self) -> String {
        instance(self.dir.path())
    }

    /// Pids of all processes that carry this bench's mark.
    pub(crate) fn marked(&self) -> Vec<u32> {
        pids_with(&format!("TOWLINE_INSTANCE={}", self.instance()))
    }

    pub(crate) async fn end(self) {
        self.runtime.stop_all().await.unwrap();
        assert_eq!(self.marked(), Vec::<u32>::new());
        for status in self.runtime.list() {
            self.runtime.delete(&status.unit).await.unwrap();
        }
        assert_eq!(fs::read_dir(self.dir.path().join("units")).unwrap().count(), 0);
        self.runtime.close().await;
    }
}

pub(crate) fn instance(dir: &Path) -> String {
    dir.file_name().unwrap().to_string_lossy().into_owned()
}

pub(crate) async fn open(dir: &Path) -> ProcessRuntime {
    ProcessRuntime::open(config(dir)).await.unwrap()
}

pub(crate) fn config(dir: &Path) -> ProcessConfig {
    ProcessConfig {
        data_dir: dir.to_owned(),
        instance: instance(dir),
        shim: vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()],
        path: DEFAULT_PATH.to_owned(),
        extra_path: None,
        mark: towline_agent::mark::Mark::open(
            &dir.join("marks"),
            &"acme/site".parse().unwrap(),
            towline_protocol::StoreId::new(uuid::Uuid::nil()),
            None,
        )
        .unwrap(),
    }
}

pub(crate) fn app(spec: &str) -> Arc<Manifest> {
    let yaml = format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{spec}");
    Arc::new(
        manifest::parse(RuntimeKind::Process, "test", yaml.as_bytes())
            .unwrap_or_else(|error| panic!("{error}"))
            .remove(0),
    )
}

pub(crate) fn unit(spec: &str) -> UnitSpec {
    UnitSpec { manifest: app(spec), generation: "g1".to_owned() }
}

/// `command: [/bin/sh, -c, …]`.
pub(crate) fn shell(script: &str) -> String {
    format!("  command: [/bin/sh, -c, {}]\n", serde_json::to_string(script).unwrap())
}

pub(crate) fn pids_with(mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// Waits until `look` finds something; panics with `describe` after a deadline that no healthy machine reaches.
pub(crate) async fn wait<T>(what: &str, look: impl Fn() -> Option<T>, describe: impl Fn() -> String) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain for {what}: {}", describe());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn lines(mut receiver: LogLines, count: usize) -> Vec<UnitLogLine> {
    let mut lines = Vec::new();
    while lines.len() < count {
        match timeout(Duration::from_secs(20), receiver.recv()).await {
            Ok(Some(line)) => lines.push(line.unwrap()),
            Ok(None) => break,
            Err(_) => panic!("only {} of {count} lines came", lines.len()),
        }
    }
    lines
}

pub(crate) fn query() -> LogQuery {
    LogQuery { app: "default/App/web".to_owned(), ..LogQuery::default() }
}

pub(crate) fn texts(lines: &[UnitLogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.text.as_str()).collect()
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
