//! Apps as containers of a Docker engine.
//!
//! A container is ours by its labels (see `docker/labels.rs`), and found again by them; what is kept in memory is a copy of what
//! the engine told last:
//!
//! ```text
//! events of the engine ─┐
//! a look every 10 s ────┼─► list, by label: one call ─► those that changed: one call each ─► what is known
//! a plan to be made ────┘
//! ```
//!
//! An engine that does not answer leaves what is known where it is, as `unknown`. Restarts are the engine's own doing, so
//! that units run on while the agent is away.

mod act;
mod checks;
mod config_files;
mod engine;
mod files;
mod labels;
mod logs;
mod look;
mod request;
mod view;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use towline_bus::task::Tasks;

use self::{checks::Check, engine::Engine};
use super::{
    Astray, Changes, LogQuery, Runtime, RuntimeError, RuntimeKind, UnitLogLine, UnitSpec, UnitStatus, Watcher,
};
use crate::{manifest::Resources, mark::Mark, shim::Status};

/// Where an engine of this host listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long tasks may take to end when the runtime closes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Containers stopped or removed at the same time.
const AT_ONCE: usize = 16;

/// What a docker runtime is told.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The instance: on every label.
    pub instance: String,
    /// The engine's socket.
    pub socket: PathBuf,
    /// Who may act.
    pub mark: Mark,
}

/// Runs apps as containers. Cheap to clone; all clones are one runtime.
#[derive(Debug, Clone)]
pub struct DockerRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    instance: String,
    mark: Mark,
    engine: Engine,
    known: Mutex<Known>,
    changes: Changes,
    /// Told at each change of what is known.
    changed: watch::Sender<()>,
    /// Looks do not overlap: an older answer must not follow a newer one.
    looking: tokio::sync::Mutex<()>,
    tasks: Tasks,
}

/// What the engine told last.
#[derive(Debug, Default)]
struct Known {
    units: BTreeMap<String, Seen>,
    /// Why it may not be so any more.
    trouble: Option<String>,
}

/// A container as it was seen.
#[derive(Debug, Clone)]
struct Seen {
    container: String,
    /// What the list says of it; another mark asks for a closer look.
    mark: String,
    status: UnitStatus,
    /// How the agent itself finds out whether it works.
    check: Option<Check>,
}

impl DockerRuntime {
    /// Opens the runtime and looks for the units of an earlier agent. An engine that does not answer is no error: its units
    /// are found when it does.
    pub async fn open(config: DockerConfig) -> Self {
        let inner = Inner {
            instance: config.instance,
            mark: config.mark,
            engine: Engine::new(config.socket),
            known: Mutex::default(),
            changes: Changes::default(),
            changed: watch::Sender::new(()),
            looking: tokio::sync::Mutex::default(),
            tasks: Tasks::new(),
        };
        let runtime = Self { inner: Arc::new(inner) };
        if let Err(error) = runtime.look(None).await {
            tracing::warn!(%error, "units are not known until it does");
        }
        let stopping = runtime.inner.tasks.stopping().clone();
        runtime.inner.tasks.spawn("docker-watch", look::watch(runtime.clone(), stopping.clone()));
        runtime.inner.tasks.spawn("docker-checks", checks::run(runtime.clone(), stopping));
        runtime
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and tells whoever waits for it.
    fn learn<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let told = change(&mut self.known());
        self.inner.changed.send_replace(());
        told
    }

    /// Does something to every unit, many at a time; returns the first error.
    async fn each<F: Future<Output = Result<(), RuntimeError>>>(
        &self,
        work: impl Fn(String) -> F,
    ) -> Result<(), RuntimeError> {
        let units: Vec<String> = self.known().units.keys().cloned().collect();
        let results: Vec<Result<(), RuntimeError>> =
            stream::iter(units.into_iter().map(work)).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    fn find(&self, unit: &str) -> Result<Seen, RuntimeError> {
        let found = self.known().units.get(unit).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { unit: unit.to_owned() })
    }
}

/// As it stands, or as it stood while nobody knows.
fn shown(seen: &Seen, trouble: Option<&String>) -> UnitStatus {
    let mut status = seen.status.clone();
    if let Some(reason) = trouble {
        status.state.status = Status::Unknown;
        status.state.reason = Some(reason.clone());
    }
    status
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    fn mark(&self) -> &Mark {
        &self.inner.mark
    }

    fn changes(&self) -> Watcher {
        self.inner.changes.watch()
    }

    fn limits(&self, resources: &Resources) -> Result<Option<String>, Vec<(String, String)>> {
        Ok((!resources.is_empty()).then(|| "by the engine's control groups".to_owned()))
    }

    async fn start(&self, spec: &UnitSpec) -> Result<UnitStatus, RuntimeError> {
        self.create_and_start(spec).await
    }

    async fn start_again(&self, unit: &str) -> Result<UnitStatus, RuntimeError> {
        let seen = self.find(unit)?;
        let _turn = self.inner.mark.turn().await?;
        self.start_container(&seen.container).await?;
        self.inspect(&seen.container).await?.ok_or_else(|| RuntimeError::NotFound { unit: unit.to_owned() })
    }

    async fn stop(&self, unit: &str) -> Result<(), RuntimeError> {
        let seen = self.find(unit)?;
        self.stop_in_turn(&seen.container).await?;
        self.inspect(&seen.container).await.map(drop)
    }

    async fn delete(&self, unit: &str) -> Result<(), RuntimeError> {
        let seen = self.find(unit)?;
        self.stop_in_turn(&seen.container).await?;
        let _turn = self.inner.mark.turn().await?;
        self.remove_container(&seen.container).await
    }

    fn list(&self) -> Vec<UnitStatus> {
        let known = self.known();
        known.units.values().map(|seen| shown(seen, known.trouble.as_ref())).collect()
    }

    fn units_of(&self, app: &str) -> Vec<UnitStatus> {
        self.list().into_iter().filter(|unit| unit.app == app).collect()
    }

    async fn observe(&self, app: &str) -> Result<Vec<UnitStatus>, RuntimeError> {
        self.look(Some(app)).await?;
        Ok(self.units_of(app))
    }

    fn trouble(&self) -> Option<String> {
        self.known().trouble.clone()
    }

    async fn look_at_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        Self::look_at_files(self, spec).await
    }

    async fn restore_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        Self::restore_files(self, spec).await
    }

    async fn falls_within(&self, unit: &str, patience: Duration) -> bool {
        let mut changes = self.inner.changed.subscribe();
        let fell = async {
            loop {
                changes.mark_unchanged();
                let up = self.find(unit).is_ok_and(|seen| seen.status.state.is_up());
                if !up || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, fell).await.is_ok()
    }

    fn logs(&self, query: LogQuery) -> mpsc::Receiver<UnitLogLine> {
        let (sender, receiver) = mpsc::channel(logs::QUEUE);
        let stopping = self.inner.tasks.stopping().clone();
        self.inner.tasks.spawn("docker-logs", logs::run(self.clone(), query, sender, stopping));
        receiver
    }

    async fn stop_all(&self) -> Result<(), RuntimeError> {
        self.each(|unit| async move { self.stop(&unit).await }).await
    }

    async fn delete_all(&self) -> Result<(), RuntimeError> {
        self.each(|unit| async move { self.delete(&unit).await }).await
    }

    async fn close(&self) {
        if !self.inner.tasks.stop(PATIENCE).await {
            tracing::warn!("some tasks of the docker runtime did not end in time");
        }
    }
}
