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
//! There may be several hosts, each with an engine, a watch, and units of its own (`docker/host.rs`); an app says where it is to be
//! (`docker/choice.rs`). A host that is lost delays nothing but the apps that are there, or may be.
//!
//! An engine that does not answer leaves what is known where it is, as `unknown`. Restarts are the engine's own doing, so
//! that units run on while the agent is away.

mod act;
mod archive;
mod checks;
mod choice;
mod config_files;
pub(crate) mod doors;
mod endpoint;
mod engine;
mod exec;
mod files;
mod hooks;
mod host;
mod images;
mod labels;
mod leftovers;
mod logs;
mod look;
mod mark;
mod mounts;
mod registry;
mod request;
mod ssh;
mod view;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use tokio::sync::{mpsc, watch};
use towline_bus::{
    clock::{self, Moment},
    task::Tasks,
};

pub use self::endpoint::{Endpoint, HostConfig, ParseRemoteEngineError, RemoteEngine, SshConfig, TlsFiles};
pub(crate) use self::engine::PULL;
pub(crate) use self::leftovers::{Engines, Labelled};
pub use self::registry::{RegistryAuth, RegistryAuthError};
use self::{
    choice::Candidate,
    host::{DockerHost, Shared},
};
use super::{
    Astray, Changes, Exec, ExecSpec, FileAccess, FileStat, LogLines, LogQuery, Runtime, RuntimeError,
    RuntimeKind, UnitSpec, UnitStatus, Watcher, logs::QUEUE,
};
use crate::{
    manifest::{AppSpec, HostChoice, Resources},
    mark::Mark,
};

/// Where an engine of this host listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long tasks may take to end when the runtime closes.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for a first look at all hosts: one that is lost must not hold up the others.
const OPENING: Duration = Duration::from_secs(10);

/// What a docker runtime is told.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The instance: on every label.
    pub instance: String,
    /// The hosts, by name; one at least.
    pub hosts: Vec<HostConfig>,
    /// Credentials for registries, in the format of Docker's `config.json`; none where images need none.
    pub registry_auth: Option<PathBuf>,
    /// Who may act.
    pub mark: Mark,
    /// The program of the agent, which takes part in SSH connections.
    pub program: PathBuf,
}

impl DockerConfig {
    /// For one host that nobody configured.
    pub fn unnamed(instance: impl Into<String>, socket: impl Into<PathBuf>, mark: Mark) -> Self {
        let hosts = vec![HostConfig::unnamed(socket)];
        Self { instance: instance.into(), hosts, registry_auth: None, mark, program: own_program() }
    }
}

/// This very program, even after another was installed in its place.
pub(crate) fn own_program() -> PathBuf {
    format!("/proc/{}/exe", std::process::id()).into()
}

/// Runs apps as containers. Cheap to clone; all clones are one runtime.
#[derive(Debug, Clone)]
pub struct DockerRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    hosts: Vec<DockerHost>,
    shared: Shared,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

impl DockerRuntime {
    /// Opens the runtime and looks for the units of an earlier agent. An engine that does not answer is no error: its units
    /// are found when it does.
    pub async fn open(config: DockerConfig) -> Self {
        let shared = Shared {
            instance: config.instance,
            mark: config.mark,
            registry_auth: config.registry_auth,
            program: config.program,
            changes: Changes::default(),
            changed: watch::Sender::new(()),
            tasks: Tasks::new(),
        };
        let hosts: Vec<DockerHost> =
            config.hosts.into_iter().map(|host| DockerHost::open(host, &shared)).collect();
        let mut changed = shared.changed.subscribe();
        let looked = async {
            loop {
                changed.mark_unchanged();
                let is_done = |host: &DockerHost| {
                    let known = host.known();
                    known.looked || known.trouble.is_some()
                };
                if hosts.iter().all(is_done) || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever comes later is found later.
        tokio::time::timeout(OPENING, looked).await.ok();
        Self { inner: Arc::new(Inner { hosts, shared }) }
    }

    /// The host that has a unit.
    ///
    /// # Errors
    /// That none has.
    fn host_of(&self, unit: &str) -> Result<&DockerHost, RuntimeError> {
        let found = self.inner.hosts.iter().find(|host| host.known().units.contains_key(unit));
        found.ok_or_else(|| RuntimeError::NotFound { unit: unit.to_owned() })
    }

    /// Asks something of the hosts as they stand for an app.
    fn candidates<T>(&self, app: &str, ask: impl FnOnce(&[Candidate<'_>]) -> T) -> T {
        let candidates: Vec<Candidate<'_>> =
            self.inner.hosts.iter().map(|host| host.candidate(app)).collect();
        ask(&candidates)
    }

    /// The hosts that must be known before anything is planned for an app.
    fn concerned(&self, app: &str, choice: Option<&HostChoice>) -> Vec<&DockerHost> {
        let concerned = self.candidates(app, |hosts| choice::concerned(choice, hosts));
        concerned.into_iter().filter_map(|index| self.inner.hosts.get(index)).collect()
    }

    /// The hosts that have units of an app.
    fn having(&self, spec: &UnitSpec) -> impl Iterator<Item = &DockerHost> {
        let id = spec.manifest.id.clone();
        self.inner.hosts.iter().filter(move |host| host.candidate(&id).has_units)
    }

    /// Where the next unit of an app is made.
    ///
    /// # Errors
    /// That there is no such host, or that none of them answers.
    fn place(&self, app: &str, choice: Option<&HostChoice>) -> Result<&DockerHost, RuntimeError> {
        let (admitted, chosen) =
            self.candidates(app, |hosts| (choice::admit(choice, hosts), choice::choose(choice, hosts)));
        admitted.map_err(|why| RuntimeError::Unbounded { field: "spec.host".to_owned(), why })?;
        if let Some(host) = chosen.and_then(|index| self.inner.hosts.get(index)) {
            return Ok(host);
        }
        let reason = self.trouble(app, choice).unwrap_or_else(|| "it was not heard yet".to_owned());
        Err(RuntimeError::NotStarted { reason })
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    fn mark(&self) -> &Mark {
        &self.inner.shared.mark
    }

    fn changes(&self) -> Watcher {
        self.inner.shared.changes.watch()
    }

    fn limits(&self, resources: &Resources) -> Result<Option<String>, Vec<(String, String)>> {
        Ok((!resources.is_empty()).then(|| "by the engine's control groups".to_owned()))
    }

    fn admits(&self, spec: &AppSpec) -> Result<(), Vec<(String, String)>> {
        let admitted = self.candidates("", |hosts| choice::admit(spec.host(), hosts));
        admitted.map_err(|why| vec![("spec.host".to_owned(), why)])
    }

    async fn start(&self, spec: &UnitSpec) -> Result<UnitStatus, RuntimeError> {
        let host = self.place(&spec.manifest.id, spec.manifest.spec.host())?;
        host.create_and_start(spec).await.map_err(|error| host.blame(error))
    }

    async fn start_again(&self, unit: &str) -> Result<UnitStatus, RuntimeError> {
        let host = self.host_of(unit)?;
        host.start_again(unit).await.map_err(|error| host.blame(error))
    }

    async fn stop(&self, unit: &str) -> Result<(), RuntimeError> {
        let host = self.host_of(unit)?;
        host.stop(unit).await.map_err(|error| host.blame(error))
    }

    async fn delete(&self, unit: &str) -> Result<(), RuntimeError> {
        let host = self.host_of(unit)?;
        host.delete(unit).await.map_err(|error| host.blame(error))
    }

    fn list(&self) -> Vec<UnitStatus> {
        let mut units: Vec<UnitStatus> = self.inner.hosts.iter().flat_map(DockerHost::units).collect();
        units.sort_by(|a, b| a.unit.cmp(&b.unit));
        units
    }

    fn units_of(&self, app: &str) -> Vec<UnitStatus> {
        self.list().into_iter().filter(|unit| unit.app == app).collect()
    }

    async fn observe_since(
        &self,
        app: &str,
        choice: Option<&HostChoice>,
        since: Moment,
    ) -> Result<Vec<UnitStatus>, RuntimeError> {
        let concerned = self.concerned(app, choice).into_iter();
        try_join_all(concerned.map(|host| host.look(Some(app), since))).await?;
        try_join_all(self.inner.hosts.iter().map(|host| host.clear_up(app))).await?;
        Ok(self.units_of(app))
    }

    async fn look_around(&self) {
        let now = clock::now();
        // Whoever asks about an app there hears what was in the way.
        join_all(self.inner.hosts.iter().map(|host| host.look(None, now))).await;
    }

    fn trouble(&self, app: &str, choice: Option<&HostChoice>) -> Option<String> {
        self.concerned(app, choice).into_iter().find_map(DockerHost::trouble)
    }

    async fn look_at_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        let looks = self
            .having(spec)
            .map(|host| async move { host.look_at_files(spec).await.map_err(|error| host.blame(error)) });
        Ok(try_join_all(looks).await?.into_iter().flatten().collect())
    }

    async fn restore_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        let works = self
            .having(spec)
            .map(|host| async move { host.restore_files(spec).await.map_err(|error| host.blame(error)) });
        // Each to its end: what one host refuses is no reason to leave another half done.
        let restored: Result<Vec<Vec<Astray>>, RuntimeError> = join_all(works).await.into_iter().collect();
        Ok(restored?.into_iter().flatten().collect())
    }

    async fn falls_within(&self, unit: &str, patience: Duration) -> bool {
        match self.host_of(unit) {
            Ok(host) => host.falls_within(unit, patience).await,
            Err(_) => true,
        }
    }

    fn logs(&self, query: LogQuery) -> LogLines {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let tasks = &self.inner.shared.tasks;
        let work = logs::run(self.inner.hosts.clone(), tasks.clone(), query, sender);
        tasks.spawn("docker-logs", work);
        receiver
    }

    async fn exec(&self, unit: &str, spec: ExecSpec) -> Result<Exec, RuntimeError> {
        let host = self.host_of(unit)?;
        host.exec(unit, spec).await.map_err(|error| host.blame(error))
    }

    async fn read(&self, unit: &str, path: &Path) -> Result<Bytes, RuntimeError> {
        let host = self.host_of(unit)?;
        host.read(unit, path).await.map_err(|error| host.blame(error))
    }

    async fn copy(
        &self,
        unit: &str,
        path: &Path,
        content: Bytes,
        access: &FileAccess,
    ) -> Result<(), RuntimeError> {
        let host = self.host_of(unit)?;
        host.copy(unit, path, content, access).await.map_err(|error| host.blame(error))
    }

    async fn stat(&self, unit: &str, path: &Path) -> Result<FileStat, RuntimeError> {
        let host = self.host_of(unit)?;
        host.stat(unit, path).await.map_err(|error| host.blame(error))
    }

    async fn stop_all(&self) -> Result<(), RuntimeError> {
        let stops = self.inner.hosts.iter().map(DockerHost::stop_all);
        join_all(stops).await.into_iter().collect()
    }

    async fn delete_all(&self) -> Result<(), RuntimeError> {
        let ends = self.inner.hosts.iter().map(DockerHost::delete_all);
        join_all(ends).await.into_iter().collect()
    }

    async fn close(&self) {
        if !self.inner.shared.tasks.stop(PATIENCE).await {
            tracing::warn!("some tasks of the docker runtime did not end in time");
        }
    }
}
