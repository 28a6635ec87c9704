//! The agent as a component: open it, serve it over any transport, close it.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_bus::{
    Platform, Transport,
    clock::{self, Moment},
    metrics::BusMetrics,
    platform::{Instrumented, PlatformMetrics},
    task::Tasks,
};
use towline_protocol::{BootId, CallError, Epoch, InstanceId, JobId, Name, WorkloadId, subject::Root};

use crate::{
    acting,
    direct::{Direct, LOOK_AT_FILES},
    engine::{BundleEvent, Engine, Parts},
    link::{Link, ServeError},
    mark::{Mark, OpenMarkError},
    metrics::{self, ListenError},
    platform::AgentPlatform,
    runtime::{
        Runtime, RuntimeError, RuntimeKind,
        docker::{DEFAULT_SOCKET, DockerConfig, DockerRuntime, HostConfig, own_program},
        process::{DEFAULT_PATH, ProcessConfig, ProcessRuntime},
    },
    store::{OpenStoreError, Store, StoreError, noted_epoch},
};

/// How long the agent's own tasks may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an agent is told.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The instance to serve.
    pub instance: InstanceId,
    /// Where store and units live; made when absent, for its owner alone.
    pub data_dir: PathBuf,
    /// What runs apps.
    pub runtime: RuntimeKind,
    /// The socket of the docker runtime's engine, where no hosts are configured.
    pub docker_socket: PathBuf,
    /// Credentials for registries, in the format of Docker's `config.json`.
    pub registry_auth: Option<PathBuf>,
    /// The hosts of the docker runtime, by name.
    pub docker_hosts: Vec<HostConfig>,
    /// The program of the agent, `towline-agent`, as a child of this process finds it: it takes part in SSH connections.
    pub program: PathBuf,
    /// The words that start a shim; a unit's directory follows. For example `[/proc/self/exe, "shim"]`.
    pub shim: Vec<OsString>,
    /// `PATH` of units.
    pub path: String,
    /// A directory before `path`.
    pub extra_path: Option<PathBuf>,
    /// First token of every subject.
    pub root: Root,
    /// Where it stands who may act for the instance on this host: the same directory for all agents of it here. Made when
    /// absent, for its owner alone.
    pub mark_dir: PathBuf,
    /// Names the boot of the host: with another one, everything that is active is brought up again, in its order.
    pub boot_id_file: PathBuf,
    /// How often the files of each app are compared with what it declares.
    pub look_at_files: Duration,
}

impl AgentConfig {
    /// For the process runtime, with shims started as `<this program> shim`, and defaults for the rest. The mark is below the
    /// data directory: no other agent of this instance is expected on this host.
    pub fn new(instance: InstanceId, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            instance,
            mark_dir: data_dir.join("marks"),
            data_dir,
            runtime: RuntimeKind::Process,
            docker_socket: PathBuf::from(DEFAULT_SOCKET),
            registry_auth: None,
            docker_hosts: Vec::new(),
            program: own_program(),
            shim: vec!["/proc/self/exe".into(), "shim".into()],
            path: DEFAULT_PATH.to_owned(),
            extra_path: None,
            root: Root::default(),
            boot_id_file: PathBuf::from("/proc/sys/kernel/random/boot_id"),
            look_at_files: LOOK_AT_FILES,
        }
    }
}

/// Why an agent cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenAgentError {
    /// Its data directory cannot be used.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// Its store cannot be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The directory of marks cannot be used.
    #[error(transparent)]
    Mark(#[from] OpenMarkError),
    /// Its runtime cannot be opened.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The boot of the host is not known.
    #[error("cannot read {file}: {source}; name another with --boot-id-file")]
    BootId {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The registry shows another agent already.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// An agent: store, runtime, direct resources, and the platform that answers for them.
pub struct Agent {
    direct: Direct,
    engine: Engine,
    store: Arc<Store>,
    platform: Arc<dyn Platform>,
    link: Link,
    registry: Registry,
    connected_since: watch::Receiver<Option<Moment>>,
    tasks: Tasks,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("instance", &self.link.instance).finish_non_exhaustive()
    }
}

impl Agent {
    /// Opens the store, finds the units again, and registers metrics. Nothing is served yet.
    ///
    /// # Errors
    /// What cannot be opened, with a remedy.
    pub async fn open(config: AgentConfig, registry: Registry) -> Result<Self, OpenAgentError> {
        let file = config.boot_id_file.clone();
        let boot =
            std::fs::read_to_string(&file).map_err(|source| OpenAgentError::BootId { file, source })?;
        let (store, mark) = open_store_and_mark(&config).await?;
        let runtime = open_runtime(&config, mark.clone()).await?;
        let tasks = Tasks::new();
        let (serving, epochs) = watch::channel(None);
        let (connected, connected_since) = watch::channel(None);
        tasks.spawn("connection-clock", time_connections(epochs, connected, tasks.stopping().clone()));
        let drift = metrics::drift(&registry)?;
        let direct = Direct::open(Arc::clone(&store), Arc::clone(&runtime), drift, config.look_at_files)?;
        let parts =
            Parts::of_agent(Arc::clone(&store), &config.data_dir, &direct, metrics::durations(&registry)?);
        let engine = Engine::open(parts, boot.trim()).await?;
        let load = Box::new(engine.load_watch());
        metrics::Observer::register(&registry, runtime, connected_since.clone(), load)?;
        let (stalled, held_back) = (engine.stall_watch(), mark.clone());
        // What waits for the right to act has not stalled by itself.
        direct.watch_over(move |now| held_back.why_not().or_else(|| stalled(now)));
        let (go, gos) = watch::channel(None);
        let acting = acting::run(mark.clone(), engine.clone(), gos, tasks.stopping().clone());
        tasks.spawn("mark", acting);
        let platform = AgentPlatform::new(direct.clone(), engine.clone(), tasks.clone());
        let platform: Arc<dyn Platform> = Arc::new(platform);
        let platform = Arc::new(Instrumented::new(platform, PlatformMetrics::register(&registry)?));
        let link = Link {
            root: config.root,
            instance: config.instance,
            runtime: config.runtime,
            boot: BootId::new(uuid::Uuid::new_v4()),
            store: Arc::clone(&store),
            vitals: direct.vitals(),
            metrics: BusMetrics::register(&registry)?,
            serving,
            mark,
            go,
        };
        Ok(Self { direct, engine, store, platform, link, registry, connected_since, tasks })
    }

    /// Serves the instance over `transport` until `stopping`, through any outage; a kicked agent stands by. Calls under
    /// way are finished. Units run on.
    ///
    /// # Errors
    /// When there is no serving any more: the platform gave up, the transport was closed, or nothing is carried out any more.
    pub async fn serve(
        &self,
        transport: Arc<dyn Transport>,
        stopping: CancellationToken,
    ) -> Result<(), ServeError> {
        let leaving = stopping.child_token();
        let serving = self.link.serve(transport, Arc::clone(&self.platform), leaving.clone());
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = serving.as_mut() => return ended,
            // Half an agent is worse than none: whoever watches over it starts it anew.
            () = self.engine.stopped().cancelled_owned() => leaving.cancel(),
        }
        serving.await?;
        Err(ServeError::Stopped)
    }

    /// Shows metrics and health on `address` until the agent is closed; says where, which matters for port 0.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen_metrics(&self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let (registry, since) = (self.registry.clone(), self.connected_since.clone());
        let (vitals, stopping) = (self.direct.vitals(), self.tasks.stopping().clone());
        let (bound, work) = metrics::listen(address, registry, since, vitals, stopping).await?;
        self.tasks.spawn("metrics-listener", work);
        Ok(bound)
    }

    /// The platform that the agent serves, for calls without a bus.
    pub fn platform(&self) -> Arc<dyn Platform> {
        Arc::clone(&self.platform)
    }

    /// The epoch that is being served now, and each change of it.
    pub fn serving(&self) -> watch::Receiver<Option<Epoch>> {
        self.link.serving.subscribe()
    }

    /// Accepts that a workload of a bundle is taken down because whoever watches over it gave up: in its turn, after what
    /// waits for the bundle, and whatever becomes of this agent in between. It stays visible as an error with `reason`, and
    /// comes back only when someone asks for it. Returns its job; none if the workload is an error already, or gone.
    ///
    /// # Errors
    /// That there is no such workload, or that the job cannot be stored now: ask again.
    pub async fn decommission(
        &self,
        bundle: &Name,
        workload: &WorkloadId,
        reason: &str,
    ) -> Result<Option<JobId>, CallError> {
        self.engine.decommission(bundle, workload, reason).await
    }

    /// Calls `listener` whenever work on a bundle has ended. One that is slow or panics holds up nothing; it misses events
    /// when it falls behind by more than 64.
    pub fn on_bundle_change(&self, listener: impl Fn(BundleEvent) + Send + Sync + 'static) {
        self.engine.on_change(listener);
    }

    /// Direct resources.
    pub fn direct(&self) -> &Direct {
        &self.direct
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stops and removes every unit with all that was written for it; definitions stay in the store. For the end of a
    /// trial run, after serving has ended. Nothing is started again afterwards.
    ///
    /// # Errors
    /// The first unit that could not be removed; the others are, none the less.
    pub async fn remove_units(&self) -> Result<(), RuntimeError> {
        self.engine.close().await;
        // Else a repair might bring back what is being removed.
        self.direct.close().await;
        self.direct.runtime().delete_all().await
    }

    /// Ends work and tasks; units run on, under their shims. The data directory is free when the agent is dropped.
    pub async fn close(self) {
        self.engine.close().await;
        self.direct.close().await;
        self.direct.runtime().close().await;
        if !self.tasks.stop(PATIENCE).await {
            tracing::warn!("some tasks of the agent did not end in time");
        }
    }
}

/// Opens what says who this agent is, and whether it may act.
async fn open_store_and_mark(config: &AgentConfig) -> Result<(Arc<Store>, Mark), OpenAgentError> {
    let (instance, data_dir, mark_dir) =
        (config.instance.clone(), config.data_dir.clone(), config.mark_dir.clone());
    // Either may wait for a process that is frozen.
    let opening = tokio::task::spawn_blocking(move || {
        let store = Store::open_for(&data_dir, &instance)?;
        let served = store.read(noted_epoch)?;
        let mark = Mark::open_from(&mark_dir, &instance, store.id(), served, Some(&data_dir))?;
        Ok::<_, OpenAgentError>((Arc::new(store), mark))
    });
    match opening.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(opened) => opened,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime ends, and this with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

async fn open_runtime(config: &AgentConfig, mark: Mark) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let config = config.clone();
    let instance = config.instance.to_string();
    Ok(match config.runtime {
        RuntimeKind::Process => {
            let AgentConfig { data_dir, shim, path, extra_path, .. } = config;
            let config = ProcessConfig { data_dir, instance, shim, path, extra_path, mark };
            Arc::new(ProcessRuntime::open(config).await?)
        }
        RuntimeKind::Docker => {
            let AgentConfig { docker_socket, docker_hosts: mut hosts, registry_auth, program, .. } = config;
            if hosts.is_empty() {
                hosts.push(HostConfig::unnamed(docker_socket));
            }
            let config = DockerConfig { instance, hosts, registry_auth, mark, program };
            Arc::new(DockerRuntime::open(config).await)
        }
    })
}

/// Notes when service began; a change of epoch begins it anew.
async fn time_connections(
    mut epochs: watch::Receiver<Option<Epoch>>,
    connected: watch::Sender<Option<Moment>>,
    stopping: CancellationToken,
) {
    while let Some(Ok(())) = stopping.run_until_cancelled(epochs.changed()).await {
        let serving = epochs.borrow_and_update().is_some();
        connected.send_replace(serving.then(clock::now));
    }
}

#[cfg(test)]
mod tests {
    use towline_bus::transport::memory::MemoryBroker;

    use super::*;

    #[tokio::test]
    async fn an_agent_whose_engine_stopped_serves_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let config = AgentConfig::new("acme/site".parse().unwrap(), dir.path());
        let agent = Agent::open(config, Registry::new()).await.unwrap();
        let transport = MemoryBroker::new().connect();
        let mut serving = Box::pin(agent.serve(transport, CancellationToken::new()));
        tokio::time::timeout(Duration::from_millis(20), serving.as_mut()).await.unwrap_err();
        agent.engine.falls();
        let ended = tokio::time::timeout(Duration::from_secs(30), serving).await.unwrap();
        assert!(matches!(ended, Err(ServeError::Stopped)), "{ended:?}");
        agent.close().await;
    }
}
