//! Apps as plain processes of this host, each unit under a shim that outlives the agent.
//!
//! ```text
//! <data dir>/units/<unit>/   unit.json  what the unit is: app, generation, ports, files elsewhere (the label)
//!                            spec.json  what its shim is told       state.json  how it stands
//!                            shim.sock  where its shim answers      shim.err    what its shim complained about
//!                            work/      where it runs               logs/       what it wrote
//! ```
//!
//! Units are found again by these directories and reconnected by their sockets. What carries no such directory is not
//! ours and never touched, and nothing is changed without a turn of the mark (decision 0014). A shim that died takes its unit along: what it left is killed by mark, and the unit is
//! shown as an error.

mod as_runtime;
mod beneath;
mod changes;
mod config_files;
mod error;
mod exec;
mod files;
mod inside;
mod launch;
mod limits;
mod logs;
mod on_disk;
mod ports;
mod tail;
mod unit;
mod units;
mod users;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;
use towline_bus::task::Tasks;

pub use self::changes::{Changed, Changes, Watcher};
pub use self::error::RuntimeError;
pub(crate) use self::files::{owner_of, remove_file, write_file, write_whole};
pub(crate) use self::launch::blocking;
pub(crate) use self::on_disk::UnitOnDisk;
pub use self::unit::{PortBinding, UnitStatus};
pub(crate) use self::users::ids;
use self::{
    limits::Limits,
    ports::Ports,
    unit::{Unit, UnitRecord},
    units::Units,
};
use super::logs::QUEUE;
pub use super::logs::{LogLines, LogQuery, UnitLogLine};
use crate::{manifest::Manifest, mark::Mark, shim::ShimSpec};

/// `PATH` of units unless configured otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Units stopped at the same time by [`ProcessRuntime::stop_all`].
const STOPS_AT_ONCE: usize = 64;

/// How the name of a directory begins that is being made or removed.
const UNFINISHED: &str = ".unfinished-";

/// How long tasks may take to end when the runtime closes.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process runtime is told.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Where units live, below `units`. Made when absent, for its owner alone.
    pub data_dir: PathBuf,
    /// The instance: part of every unit's mark. Two agents of one host must not share it.
    pub instance: String,
    /// The words that start a shim; the unit's directory follows. For example `[/proc/self/exe, "shim"]`.
    pub shim: Vec<OsString>,
    /// `PATH` of units that declare none.
    pub path: String,
    /// A directory put before `path`, so that units find a program that ships with Towline.
    pub extra_path: Option<PathBuf>,
    /// Whether anything may be changed. Each operation below takes a turn of it.
    pub mark: Mark,
}

/// A replica to start.
#[derive(Debug, Clone)]
pub struct UnitSpec {
    /// The app as defined.
    pub manifest: Arc<Manifest>,
    /// Digest of the definition; tells old units from new.
    pub generation: String,
}

/// Runs apps as processes. Cheap to clone; all clones are one runtime.
#[derive(Debug, Clone)]
pub struct ProcessRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ProcessConfig,
    units_dir: PathBuf,
    units: Mutex<Units>,
    ports: Mutex<Ports>,
    /// Held while a unit is made.
    creating: Arc<tokio::sync::Mutex<()>>,
    /// Held while a file is copied into a unit.
    copying: tokio::sync::Mutex<()>,
    changes: Changes,
    limits: Limits,
    tasks: Tasks,
}

impl ProcessRuntime {
    /// Opens the runtime and finds the units of an earlier agent again: running ones with the same pids, those whose
    /// shim died meanwhile as errors, with nothing left of them.
    ///
    /// # Errors
    /// When the data directory cannot be made or read.
    pub async fn open(config: ProcessConfig) -> Result<Self, RuntimeError> {
        let units_dir = config.data_dir.join("units");
        let failed = |source| RuntimeError::io(format!("cannot use {}", units_dir.display()), source);
        DirBuilder::new().recursive(true).mode(0o700).create(&units_dir).map_err(failed)?;
        // Shims get this path and run in another directory.
        let units_dir = fs::canonicalize(&units_dir).map_err(failed)?;
        let found = units_dir.clone();
        let records = blocking(move || {
            records(&found)
                .map_err(|error| RuntimeError::io(format!("cannot use {}", found.display()), error))
        })
        .await?;
        let inner = Inner {
            config,
            units_dir,
            units: Mutex::default(),
            ports: Mutex::default(),
            creating: Arc::default(),
            copying: tokio::sync::Mutex::default(),
            changes: Changes::default(),
            limits: Limits::of_host(),
            tasks: Tasks::new(),
        };
        let runtime = Self { inner: Arc::new(inner) };
        let mut stillborn = Vec::new();
        for record in records {
            stillborn.extend(runtime.adopt(record).await);
        }
        // When all are known, so that files they share are left to those who live.
        for unit in stillborn {
            // It is listed then, and shown as the error that it is: no reason to serve nothing at all.
            if let Err(error) = runtime.delete(&unit).await {
                tracing::warn!(unit, %error, "a unit that never came to start cannot be removed");
            }
        }
        Ok(runtime)
    }

    /// Starts a new unit; returns when its command was executed.
    ///
    /// Not cancel safe: a unit whose start was abandoned exists and is listed.
    ///
    /// # Errors
    /// Why it does not run: a port in use, a file in the way, a user or program that does not exist. Nothing is left of
    /// it then.
    pub async fn start(&self, spec: &UnitSpec) -> Result<UnitStatus, RuntimeError> {
        let turn = self.mark().turn().await?;
        // One at a time, so that nobody else declares the same file between look and label.
        let creating = Arc::clone(&self.inner.creating).lock_owned().await;
        let (runtime, spec) = (self.clone(), spec.clone());
        let create = move || {
            let _creating = creating;
            runtime.create(&spec)
        };
        let unit = blocking(create).await?;
        match self.launch(&unit, true, turn).await {
            Ok(()) => Ok(unit.status()),
            Err(error) => {
                // The first error is the one worth telling; what cannot be removed stays listed.
                if let Err(second) = self.delete(unit.id()).await {
                    tracing::warn!(unit = unit.id(), error = %second, "a unit that did not start cannot be removed");
                }
                Err(error)
            }
        }
    }

    /// Starts a unit again that has ended, with its ports and files; returns when its command was executed. One that
    /// runs stays as it is.
    ///
    /// # Errors
    /// As [`ProcessRuntime::start`], or that there is no such unit. The unit stays, as it was.
    pub async fn start_again(&self, unit: &str) -> Result<UnitStatus, RuntimeError> {
        let turn = self.mark().turn().await?;
        let unit = self.find(unit)?;
        self.launch(&unit, false, turn).await?;
        Ok(unit.status())
    }

    /// Ends a unit: its stop signal, its grace period, then SIGKILL. Returns when its whole group has gone. One that
    /// has ended already stays as it is.
    ///
    /// # Errors
    /// That there is no such unit, or that something of it cannot be killed.
    pub async fn stop(&self, unit: &str) -> Result<(), RuntimeError> {
        self.find(unit)?.stop(self.mark().turn().await?).await
    }

    /// Stops a unit, and removes its directory, its ports and the files that were written for it.
    ///
    /// # Errors
    /// As [`ProcessRuntime::stop`], or what cannot be removed; the unit stays listed then.
    pub async fn delete(&self, unit: &str) -> Result<(), RuntimeError> {
        let unit = self.find(unit)?;
        unit.stop(self.mark().turn().await?).await?;
        // Another one: the grace period of a unit has no bound that others would want to wait for.
        let (runtime, turn) = (self.clone(), self.mark().turn().await?);
        let remove = move || {
            let _turn = turn;
            runtime.remove(&unit)
        };
        blocking(remove).await
    }

    fn remove(&self, unit: &Unit) -> Result<(), RuntimeError> {
        files::remove(unit, &self.others_files(unit))?;
        // Left where its shim was killed.
        if let Ok(spec) = ShimSpec::read(&unit.dir) {
            spec.bounds.remove();
        }
        self.remove_dir(unit)
            .map_err(|source| RuntimeError::io(format!("cannot remove {}", unit.dir.display()), source))?;
        self.ports().release(unit.id());
        self.units().remove(unit.id());
        Ok(())
    }

    /// How units are held to what they declare on this host.
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Tells which apps' units change from now on.
    pub(crate) fn changes(&self) -> Watcher {
        self.inner.changes.watch()
    }

    /// All units, by id.
    pub fn list(&self) -> Vec<UnitStatus> {
        self.units().values().map(|unit| unit.status()).collect()
    }

    /// The units of one app, by id.
    pub fn units_of(&self, app: &str) -> Vec<UnitStatus> {
        self.units().of_app(app).map(|unit| unit.status()).collect()
    }

    /// Deletes every unit, many at a time, with all that was written for them. For the end of a trial run.
    ///
    /// # Errors
    /// The first that could not be deleted; the others are, none the less.
    pub async fn delete_all(&self) -> Result<(), RuntimeError> {
        let units: Vec<String> = self.units().values().map(|unit| unit.id().to_owned()).collect();
        let deletes = stream::iter(units).map(|unit| async move { self.delete(&unit).await });
        let results: Vec<Result<(), RuntimeError>> = deletes.buffer_unordered(STOPS_AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    /// Waits at most `patience` for a unit to run no more, or not to work; says whether that came.
    pub(crate) async fn falls_within(&self, unit: &str, patience: Duration) -> bool {
        let Ok(unit) = self.find(unit) else { return true };
        let mut states = unit.state.subscribe();
        let fell = states.wait_for(|state| !state.is_up());
        tokio::time::timeout(patience, fell).await.is_ok()
    }

    /// Stops every unit, many at a time. Returns when all are gone.
    ///
    /// # Errors
    /// The first that could not be stopped; the others are, none the less.
    pub async fn stop_all(&self) -> Result<(), RuntimeError> {
        let units: Vec<Arc<Unit>> = self.units().values().cloned().collect();
        let stops = stream::iter(units).map(|unit| async move { unit.stop(self.mark().turn().await?).await });
        let results: Vec<Result<(), RuntimeError>> = stops.buffer_unordered(STOPS_AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    /// The log lines of an app's units, ordered by time, through a bounded queue. The stream ends after the last line
    /// or, when following, with the receiver or the runtime. A unit that starts meanwhile joins in.
    pub fn logs(&self, query: LogQuery) -> LogLines {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let inner = Arc::downgrade(&self.inner);
        self.inner
            .tasks
            .spawn("log-reader", logs::run(inner, query, sender, self.inner.tasks.stopping().clone()));
        receiver
    }

    /// Lets go of all units, which run on, and ends the runtime's tasks. For the end of an agent.
    pub async fn close(&self) {
        if !self.inner.tasks.stop(PATIENCE).await {
            tracing::warn!("some tasks of the process runtime did not end in time");
        }
    }

    /// Removes a unit's directory: at once by name, then what is in it. A crash between leaves what the next agent
    /// clears away.
    fn remove_dir(&self, unit: &Unit) -> io::Result<()> {
        let gone = self.inner.units_dir.join(format!("{UNFINISHED}{}", unit.id()));
        match fs::rename(&unit.dir, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        remove_all(&gone)
    }

    /// The right to act on this host.
    pub(crate) fn mark(&self) -> &Mark {
        &self.inner.config.mark
    }

    fn find(&self, unit: &str) -> Result<Arc<Unit>, RuntimeError> {
        self.units().get(unit).cloned().ok_or_else(|| RuntimeError::NotFound { unit: unit.to_owned() })
    }

    fn units(&self) -> MutexGuard<'_, Units> {
        self.inner.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.inner.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files elsewhere that other units than `unit` have, with the app that owns them.
    fn others_files(&self, unit: &Unit) -> BTreeMap<PathBuf, String> {
        let units = self.units();
        let others = units.values().filter(|other| other.id() != unit.id());
        others
            .flat_map(|other| {
                let files = other.files().elsewhere.into_iter();
                files.map(|path| (path, other.record.app.clone()))
            })
            .collect()
    }
}

impl Inner {
    /// Log directories of the units of `app`, by unit id.
    fn log_dirs(&self, app: &str, only: Option<&str>) -> Vec<(String, PathBuf)> {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |unit: &&Arc<Unit>| only.is_none_or(|only| only == unit.id());
        units
            .of_app(app)
            .filter(wanted)
            .map(|unit| (unit.id().to_owned(), unit.dir.join(crate::shim::LOG_DIR)))
            .collect()
    }
}

/// Removes a directory with all that is in it. A unit may have left directories that their owner cannot write to: where
/// they are ours, they are opened first.
fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_dirs(dir);
            fs::remove_dir_all(dir)
        }
        removed => removed,
    }
}

/// Lets the owner into `dir` and every directory below it, as far as that is possible.
fn open_dirs(dir: &Path) {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        // What cannot be opened is what the next attempt complains about.
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).ok();
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        // Not through links: what they point to is not ours.
        dirs.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}

/// What stands in the unit directories. One that was being made or removed when an agent died is cleared away: nothing
/// runs in it yet, or any more.
fn records(units_dir: &Path) -> io::Result<Vec<UnitRecord>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(units_dir)? {
        let dir = entry?.path();
        if dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes())) {
            // It takes room, and no more than that.
            if let Err(error) = remove_all(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "what is left of a unit cannot be removed");
            }
            continue;
        }
        match UnitRecord::read(&dir) {
            Ok(record) if dir.file_name().is_some_and(|name| name.to_str() == Some(record.unit.as_str())) => {
                records.push(record);
            }
            Ok(_) => {
                tracing::warn!(dir = %dir.display(), "a unit directory bears another unit's label; left alone")
            }
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "a unit directory without a readable label; left alone")
            }
        }
    }
    Ok(records)
}
