//! How a unit stands, as its shim knows: `state.json`, and the lines on the socket.

use std::{fmt, fs, io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::spec::write_atomically;
use crate::health::Health;

/// Name of the file in a unit directory.
const FILE: &str = "state.json";

/// The observed state of a unit (DESIGN 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being prepared: files, ports, directory.
    Building,
    /// The command is about to run, or it runs and nobody knows yet whether it works.
    Starting,
    /// The command runs, and works as far as it is looked at.
    Started,
    /// It ended and will be started again, or could not be, or it runs and does not work; the reason says which.
    Error,
    /// It ended and will not be started again: it was stopped, or was done.
    Stopped,
    /// The runtime could not tell.
    Unknown,
}

impl Status {
    /// The word that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Error => "error",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It never ran; the text says why.
    NotStarted(String),
    /// Its supervisor was lost, and the command with it.
    Lost,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signaled(signal) => write!(f, "killed by signal {signal}"),
            Self::NotStarted(why) => f.write_str(why),
            Self::Lost => f.write_str("its supervisor was lost"),
        }
    }
}

/// How a unit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Observed state.
    pub status: Status,
    /// Why it stands so, where that needs saying: `crash-looping: …`, `exited with status 1; …`.
    pub reason: Option<String>,
    /// When it came to stand so.
    pub since: Timestamp,
    /// Whether it works, while it runs and is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Process id of the command, while it runs.
    pub pid: Option<i32>,
    /// Start time of that process in clock ticks since boot: with the pid, its identity.
    pub start_time: Option<u64>,
    /// How often the command was started again since the unit was last started.
    pub restarts: u64,
    /// How the command ended last.
    pub last_end: Option<Ended>,
    /// The shim has nothing more to do: no further state follows.
    pub final_state: bool,
    /// Pid and start time of the shim itself.
    pub shim: Option<(i32, u64)>,
}

impl UnitState {
    /// A state without history.
    pub(crate) fn new(status: Status, since: Timestamp) -> Self {
        let (reason, health, pid, start_time, last_end, shim) = (None, None, None, None, None, None);
        let (restarts, final_state) = (0, false);
        Self { status, reason, since, health, pid, start_time, restarts, last_end, final_state, shim }
    }

    /// Whether it runs, and is not known not to work.
    pub(crate) fn is_up(&self) -> bool {
        self.status == Status::Started || self.health == Some(Health::Starting)
    }

    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let text = fs::read(dir.join(FILE))?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {error}")))
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        write_atomically(dir, FILE, &serde_json::to_vec(self)?)
    }
}
