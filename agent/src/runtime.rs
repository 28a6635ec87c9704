//! Runtimes: what runs units locally, behind one trait.
//!
//! | implementation | a unit is | whose it is, is told by |
//! |---|---|---|
//! | [`process`] | a process of this host under a shim of its own | its directory's `unit.json`, and a mark in its environment |
//! | [`docker`] | a container of an engine | its labels |
//!
//! What does not bear our label is never touched. A runtime that does not answer makes nothing `gone`: its units are
//! [`Status::Unknown`](crate::shim::Status::Unknown), keep their ids, and nobody plans anything from that.

mod astray;
pub mod battery;
pub mod docker;
mod exec;
mod files;
mod logs;
pub mod process;

use async_trait::async_trait;
use std::{fmt, path::Path, str::FromStr, time::Duration};

use bytes::Bytes;
use towline_bus::clock::{self, Moment};

use crate::{
    manifest::{AppSpec, HostChoice, Resources},
    mark::Mark,
};

pub use self::astray::{Astray, How};
pub use self::exec::{Exec, ExecEvent, ExecOutput, ExecSpec};
pub use self::files::{FILE_BYTES_MAX, FileAccess, FileKind, FileStat};
pub use self::logs::{LogLines, LogQuery, UnitLogLine};
pub use self::process::{Changed, Changes, PortBinding, RuntimeError, UnitSpec, UnitStatus, Watcher};

/// The runtimes that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeKind {
    /// Programs of this host.
    Process,
    /// Containers of a Docker engine.
    Docker,
}

impl RuntimeKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No runtime has this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no runtime {found:?}; there are process and docker")]
pub struct ParseRuntimeError {
    found: String,
}

impl FromStr for RuntimeKind {
    type Err = ParseRuntimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "process" => Ok(Self::Process),
            "docker" => Ok(Self::Docker),
            _ => Err(ParseRuntimeError { found: text.to_owned() }),
        }
    }
}

/// Runs units. All of it may be called at the same time; work on one unit is serial within the implementation.
///
/// No method is cancel safe unless it says so: what was begun when its future was dropped is found by the next look.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Which one it is: manifests are read for it.
    fn kind(&self) -> RuntimeKind;

    /// Who may act. Whatever changes something takes a turn of it.
    fn mark(&self) -> &Mark;

    /// Tells which apps' units change.
    fn changes(&self) -> Watcher;

    /// What holds a unit to `resources`, in a few words; none where nothing is declared.
    ///
    /// # Errors
    /// Each field that nothing holds it to, and why. Such an app is refused, for a limit that does not hold is none.
    fn limits(&self, resources: &Resources) -> Result<Option<String>, Vec<(String, String)>>;

    /// Whether there is a place for an app: the host that it names.
    ///
    /// # Errors
    /// Each field that names what there is not, and what there is. Such an app is refused.
    fn admits(&self, spec: &AppSpec) -> Result<(), Vec<(String, String)>>;

    /// Makes a new unit and starts it; returns when its command was executed.
    ///
    /// # Errors
    /// Why it does not run. Nothing is left of it then, unless that, too, was impossible: it is listed then.
    async fn start(&self, spec: &UnitSpec) -> Result<UnitStatus, RuntimeError>;

    /// Starts a unit again that has ended, with its ports and files; one that runs stays as it is.
    ///
    /// # Errors
    /// As [`Runtime::start`], or that there is no such unit. The unit stays, as it was.
    async fn start_again(&self, unit: &str) -> Result<UnitStatus, RuntimeError>;

    /// Ends a unit: its stop signal, its grace period, then SIGKILL. Returns when nothing of it runs. One that has ended
    /// already stays as it is.
    ///
    /// # Errors
    /// That there is no such unit, or that something of it cannot be ended.
    async fn stop(&self, unit: &str) -> Result<(), RuntimeError>;

    /// Stops a unit and removes it with all that was made for it.
    ///
    /// # Errors
    /// As [`Runtime::stop`], or what cannot be removed; the unit stays listed then.
    async fn delete(&self, unit: &str) -> Result<(), RuntimeError>;

    /// All units as they were last seen, by id.
    fn list(&self) -> Vec<UnitStatus>;

    /// The units of one app as they were last seen, by id.
    fn units_of(&self, app: &str) -> Vec<UnitStatus>;

    /// Looks at the units of one app now, wherever `choice` lets it be and it was seen before. Whoever plans from it may rely
    /// on it: what is not in it, is not there.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] when the runtime did not answer for all of them.
    async fn observe(&self, app: &str, choice: Option<&HostChoice>) -> Result<Vec<UnitStatus>, RuntimeError> {
        self.observe_since(app, choice, clock::now()).await
    }

    /// The same, where what was looked at since then is new enough: together with what was changed through this runtime
    /// meanwhile, which counts in any case.
    ///
    /// # Errors
    /// As [`Runtime::observe`].
    async fn observe_since(
        &self,
        app: &str,
        choice: Option<&HostChoice>,
        since: Moment,
    ) -> Result<Vec<UnitStatus>, RuntimeError>;

    /// Looks at the units of all apps at once, which spares those a look by themselves that are observed since before this
    /// began; they wait for it. May be dropped. What cannot be seen, observing tells.
    async fn look_around(&self);

    /// Why what is listed of one app may not be so, while the runtime does not answer for it; none while it does.
    fn trouble(&self, app: &str, choice: Option<&HostChoice>) -> Option<String>;

    /// Looks which files of units of `spec`'s generation are not as it declares them, ordered by unit. Changes nothing.
    ///
    /// # Errors
    /// Which could not be looked at: nothing is known of the files then.
    async fn look_at_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError>;

    /// Brings the files of units of `spec`'s generation to what it declares, under units that run on; says what was not so.
    /// What is as declared is not touched.
    ///
    /// # Errors
    /// Which could not be written or removed, and which were before it.
    async fn restore_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError>;

    /// Waits at most `patience` for a unit to run no more, or not to work; says whether that came. Cancel safe.
    async fn falls_within(&self, unit: &str, patience: Duration) -> bool;

    /// The log lines of an app's units, ordered by time within each unit, through a bounded queue. The stream ends after
    /// the last line or, when following, with the receiver or the runtime. A unit that starts meanwhile joins in; one that ends
    /// and starts again goes on, and so does one whose runtime fell silent and answers again, with no line left out or told twice.
    /// Lines that were gone before they were read leave a line that says so.
    fn logs(&self, query: LogQuery) -> LogLines;

    /// Runs a command in a unit that runs: as its user, in its working directory, with its environment. The command ends with
    /// the unit, with the runtime, and when [`Exec`] is dropped; see there for an agent that is killed. What a command that has
    /// ended by itself leaves in the background ends with it on processes, and with its container on docker.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::NotRunning`], or that the runtime did not answer. A program that cannot be
    /// executed is none: see [`ExecEvent::Ended`].
    async fn exec(&self, unit: &str, spec: ExecSpec) -> Result<Exec, RuntimeError>;

    /// The content of a unit's file, of at most [`FILE_BYTES_MAX`] bytes; links are followed, with the unit's own rights. A
    /// relative path is below its working directory. The unit need not run. Cancel safe.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] without the unit, [`RuntimeError::NoSuchFile`], [`RuntimeError::NotAFile`],
    /// [`RuntimeError::FileTooLarge`], or what the system or the engine said.
    async fn read(&self, unit: &str, path: &Path) -> Result<Bytes, RuntimeError>;

    /// Puts a file into a unit, in the place of what is there under this name; its directory must exist. Paths and rights are as
    /// for [`Runtime::read`], so an owner other than the unit's user takes a unit that is root.
    ///
    /// # Errors
    /// As [`Runtime::read`]; no directory is [`RuntimeError::NoSuchFile`]. The file is then as it was.
    async fn copy(
        &self,
        unit: &str,
        path: &Path,
        content: Bytes,
        access: &FileAccess,
    ) -> Result<(), RuntimeError>;

    /// What there is to know of a unit's file, besides its content. Paths and rights are as for [`Runtime::read`], but a link at
    /// the end of the path is not followed. Cancel safe.
    ///
    /// # Errors
    /// As [`Runtime::read`].
    async fn stat(&self, unit: &str, path: &Path) -> Result<FileStat, RuntimeError>;

    /// Stops every unit, many at a time. Returns when all are gone.
    ///
    /// # Errors
    /// The first that could not be stopped; the others are, none the less.
    async fn stop_all(&self) -> Result<(), RuntimeError>;

    /// Deletes every unit with all that was made for it. For the end of a trial run.
    ///
    /// # Errors
    /// The first that could not be deleted; the others are, none the less.
    async fn delete_all(&self) -> Result<(), RuntimeError>;

    /// Lets go of all units, which run on, and ends the runtime's tasks. For the end of an agent.
    async fn close(&self);
}
