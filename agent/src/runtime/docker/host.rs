//! One host: its engine, and what is known of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{Docker, errors::Error};
use futures::{StreamExt as _, stream};
use tokio::sync::watch;
use towline_bus::{clock::Moment, task::Tasks};

use super::{
    checks::{self, Check},
    choice::Candidate,
    endpoint::HostConfig,
    engine::{ENGINE, Engine, QUICK, Refusal},
    exec,
    hooks::{Course, HookLog},
    labels::Home,
    look,
    mark::{EngineMark, FRESH},
};
use crate::{
    mark::{Mark, Turn},
    runtime::{Changes, RuntimeError, UnitStatus},
    shim::Status,
};

/// Containers of a host that are stopped or removed at the same time.
const AT_ONCE: usize = 16;

/// By then the engine has begun what it was told to.
const BEGUN: Duration = Duration::from_secs(5);

/// Looks at the engine's mark for one turn, while turns have to be waited for.
const TURNS: usize = 4;

/// A host. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct DockerHost {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) instance: String,
    /// Of this runtime and no other: in the marks of its commands.
    pub(super) run: String,
    pub(super) config: HostConfig,
    /// Who may act on behalf of the instance at all; see [`DockerHost::turn`].
    pub(super) agents: Mark,
    /// Credentials for registries.
    pub(super) registry_auth: Option<PathBuf>,
    /// Who may change this engine.
    mark: EngineMark,
    pub(super) engine: Engine,
    known: Mutex<Known>,
    pub(super) changes: Changes,
    /// Told at each change of what is known, of any host.
    pub(super) changed: watch::Sender<()>,
    /// Looks do not overlap: an older answer must not follow a newer one. Holds when the last look at all units began, if the
    /// engine has answered ever since.
    pub(super) looking: tokio::sync::Mutex<Option<Moment>>,
    /// Held while a helper is there.
    pub(super) helping: tokio::sync::Mutex<()>,
    /// Containers that this agent is just about to start, with the hooks around that.
    pub(super) starting: Mutex<BTreeSet<String>>,
    pub(super) hook_log: HookLog,
    /// Of the whole runtime.
    pub(super) tasks: Tasks,
}

/// What the engine told last.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) units: BTreeMap<String, Seen>,
    /// Why it may not be so any more.
    pub(super) trouble: Option<String>,
    /// Whether the engine has told of all units since the agent came.
    pub(super) looked: bool,
    /// Apps of which a unit may have been made when the engine fell silent.
    pub(super) doubts: BTreeSet<String>,
}

/// A container as it was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) container: String,
    /// What the list says of it; another mark asks for a closer look.
    pub(super) mark: String,
    pub(super) status: UnitStatus,
    /// How long it may take to end.
    pub(super) grace: Duration,
    /// Its working directory.
    pub(super) dir: PathBuf,
    /// Its user, as `user[:group]`; root if empty.
    pub(super) user: String,
    /// How the agent itself finds out whether it works.
    pub(super) check: Option<Check>,
    /// Whether commands ran in it beside its own.
    pub(super) has_commands: bool,
    /// Its hooks, and how far it has come with them.
    pub(super) course: Course,
    /// Why it may stand otherwise by now, although the engine answers.
    pub(super) unclear: Option<Unclear>,
}

/// Why it is not known how one container stands.
#[derive(Debug, Clone)]
pub(super) struct Unclear {
    /// What was asked.
    pub(super) runtime: String,
    /// What came instead of an answer.
    pub(super) reason: String,
}

impl Unclear {
    pub(super) fn error(&self) -> RuntimeError {
        RuntimeError::Unknown { runtime: self.runtime.clone(), reason: self.reason.clone() }
    }
}

/// What all hosts of a runtime share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) instance: String,
    pub(super) mark: Mark,
    pub(super) registry_auth: Option<PathBuf>,
    /// Of the agent.
    pub(super) program: PathBuf,
    pub(super) changes: Changes,
    pub(super) changed: watch::Sender<()>,
    pub(super) tasks: Tasks,
}

/// As people know it.
impl fmt::Display for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.config.name {
            Some(name) => write!(f, "host {name}"),
            None => f.write_str("this host"),
        }
    }
}

impl DockerHost {
    /// Begins to look at the host, until the runtime's tasks end.
    pub(super) fn open(config: HostConfig, shared: &Shared) -> Self {
        let Shared { instance, mark, registry_auth, program, changes, changed, tasks } = shared.clone();
        let inner = Inner {
            engine: Engine::new(config.endpoint.clone(), &program, &tasks),
            config,
            mark: EngineMark::new(instance.clone(), mark.clone()),
            agents: mark,
            registry_auth,
            instance,
            run: uuid::Uuid::new_v4().simple().to_string(),
            known: Mutex::default(),
            changes,
            changed,
            looking: tokio::sync::Mutex::default(),
            helping: tokio::sync::Mutex::default(),
            starting: Mutex::default(),
            hook_log: HookLog::default(),
            tasks: tasks.clone(),
        };
        let host = Self { inner: Arc::new(inner) };
        tasks.spawn("docker-watch", look::watch(host.clone(), tasks.stopping().clone()));
        tasks.spawn("docker-commands", exec::left::run(host.clone(), tasks.stopping().clone()));
        tasks.spawn("docker-checks", checks::run(host.clone(), tasks.stopping().clone()));
        host
    }

    /// Where the agent keeps its data, for the labels of what it makes.
    pub(super) fn home(&self) -> Option<Home> {
        self.inner.agents.home().map(Home::here)
    }

    /// The right to change something here, once: on behalf of the instance, and on this engine, whose mark was looked at no longer
    /// than `age` ago when it was asked for.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when another agent has it, or that the engine does not tell.
    async fn turn(&self, age: Duration) -> Result<Turn, Refusal> {
        self.inner.agents.may_act().await?;
        for _ in 0..TURNS {
            // Before the turn: it may take half a minute, and whoever raises the mark waits for turns.
            // In a box: as a rule it has been looked at, and all changes have room for it.
            Box::pin(self.inner.mark.acquire(&self.inner.engine, age)).await?;
            let turn = self.inner.agents.turn().await?;
            // A turn may have to be waited for, too.
            if self.inner.mark.is_fresh() {
                return Ok(turn);
            }
        }
        Err(Refusal::Fenced("another agent is about to act on this host".to_owned()))
    }

    /// Whether this agent may change something here.
    ///
    /// # Errors
    /// [`RuntimeError::Fenced`] when another agent may, or that the engine does not tell.
    pub(super) async fn may_change(&self) -> Result<(), RuntimeError> {
        self.turn(FRESH).await.map(drop).map_err(|refusal| refusal.of("who may change the engine"))
    }

    /// Has the engine change something that it does at once. Each change is a turn by itself: whoever takes over waits for one call,
    /// and not for all that a slow engine takes for a unit.
    ///
    /// # Errors
    /// As [`Engine::ask`], and that another agent has the right.
    pub(super) async fn change<T, F>(&self, question: impl FnOnce(Docker) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let _turn = self.turn(FRESH).await?;
        self.inner.engine.ask(QUICK, question).await
    }

    /// The same for what it begins at once, and whose end it tells within `patience`. The turn is for beginning it: whoever takes over
    /// need not wait for the end.
    ///
    /// # Errors
    /// As [`DockerHost::change`].
    pub(super) async fn begin<T, F>(
        &self,
        patience: Duration,
        question: impl FnOnce(Docker) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Error>>,
    {
        // First the way there, which may be long in coming; then who may change it, asked on that very way. So the question leaves right
        // after a look, and all of `patience` is for the answer.
        let client = self.inner.engine.reach().await?;
        let turn = self.turn(Duration::ZERO).await?;
        let mut answer = std::pin::pin!(self.inner.engine.ask_through(patience, question(client)));
        match tokio::time::timeout(BEGUN, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                drop(turn);
                answer.await
            }
        }
    }

    /// Shows that this agent acts, where it does, so that an older one stops.
    pub(super) async fn show_mark(&self) {
        if self.inner.agents.acted()
            && let Err(refusal) = self.inner.mark.keep(&self.inner.engine).await
        {
            tracing::debug!(%self, ?refusal, "this engine is another's, or silent");
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and tells whoever waits for it.
    pub(super) fn learn<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let told = change(&mut self.known());
        self.inner.changed.send_replace(());
        told
    }

    pub(super) fn find(&self, unit: &str) -> Result<Seen, RuntimeError> {
        let found = self.known().units.get(unit).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { unit: unit.to_owned() })
    }

    /// All units as they were last seen, by id.
    pub(super) fn units(&self) -> Vec<UnitStatus> {
        let known = self.known();
        known.units.values().map(|seen| shown(seen, known.trouble.as_ref())).collect()
    }

    /// How it stands for an app.
    pub(super) fn candidate(&self, app: &str) -> Candidate<'_> {
        let HostConfig { name, labels, .. } = &self.inner.config;
        let known = self.known();
        let has_units = known.units.values().any(|seen| seen.status.app == app) || known.doubts.contains(app);
        let answers = known.looked && known.trouble.is_none();
        Candidate { name: name.as_ref(), labels, answers, looked: known.looked, has_units }
    }

    /// Why what is known may not be so, if it may not.
    pub(super) fn trouble(&self) -> Option<String> {
        let known = self.known();
        known.trouble.clone().or_else(|| (!known.looked).then(|| format!("{self} was not heard yet")))
    }

    pub(super) async fn start_again(&self, unit: &str) -> Result<UnitStatus, RuntimeError> {
        let seen = self.find(unit)?;
        if seen.course.hooks.is_empty() {
            self.start_container(&seen.container).await?;
        } else {
            self.start_with_hooks(&seen.container).await?;
        }
        self.inspect(&seen.container).await?.ok_or_else(|| RuntimeError::NotFound { unit: unit.to_owned() })
    }

    pub(super) async fn stop(&self, unit: &str) -> Result<(), RuntimeError> {
        let seen = self.find(unit)?;
        self.stop_with_hooks(&seen).await?;
        self.inspect(&seen.container).await.map(drop)
    }

    pub(super) async fn delete(&self, unit: &str) -> Result<(), RuntimeError> {
        let seen = self.find(unit)?;
        self.stop_with_hooks(&seen).await?;
        if !seen.course.hooks.is_empty() {
            self.remove_hook_helpers(unit).await?;
        }
        self.remove_container(&seen.container).await
    }

    pub(super) async fn falls_within(&self, unit: &str, patience: Duration) -> bool {
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

    pub(super) async fn stop_all(&self) -> Result<(), RuntimeError> {
        self.each(|unit| async move { self.stop(&unit).await }).await.map_err(|error| self.blame(error))
    }

    pub(super) async fn delete_all(&self) -> Result<(), RuntimeError> {
        self.each(|unit| async move { self.delete(&unit).await }).await.map_err(|error| self.blame(error))
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

    /// What its engine is called in errors.
    pub(super) fn engine_name(&self) -> String {
        match &self.inner.config.name {
            Some(name) => format!("{ENGINE} of host {name}"),
            None => ENGINE.to_owned(),
        }
    }

    /// The error of this host, where there are several.
    pub(super) fn blame(&self, error: RuntimeError) -> RuntimeError {
        let Some(name) = &self.inner.config.name else { return error };
        let prefix = format!("host {name}: ");
        let on = |what: String| if what.starts_with(&prefix) { what } else { format!("{prefix}{what}") };
        match error {
            RuntimeError::Unknown { runtime, reason } if runtime == ENGINE => {
                RuntimeError::Unknown { runtime: self.engine_name(), reason }
            }
            RuntimeError::Engine { what, reason } => RuntimeError::Engine { what: on(what), reason },
            RuntimeError::NotStarted { reason } => RuntimeError::NotStarted { reason: on(reason) },
            RuntimeError::Fenced { reason } => RuntimeError::Fenced { reason: on(reason) },
            other => other,
        }
    }
}

/// As it stands, or as it stood while nobody knows.
fn shown(seen: &Seen, trouble: Option<&String>) -> UnitStatus {
    let mut status = seen.status.clone();
    let unclear = || seen.unclear.as_ref().map(|unclear| unclear.error().to_string());
    if let Some(reason) = trouble.cloned().or_else(unclear) {
        status.state.status = Status::Unknown;
        status.state.reason = Some(reason);
    }
    status
}
