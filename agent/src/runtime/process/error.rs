//! What a process runtime may refuse or fail at.

use std::{io, path::PathBuf};

use crate::mark::Fenced;

/// Why a runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such unit.
    #[error("there is no unit {unit}")]
    NotFound {
        /// The unit that was asked for.
        unit: String,
    },
    /// The unit does not run, so nothing can be run in it.
    #[error("unit {unit} does not run")]
    NotRunning {
        /// The unit.
        unit: String,
    },
    /// A unit has no such file.
    #[error("{path}: there is no such file")]
    NoSuchFile {
        /// The path, as it was asked for.
        path: PathBuf,
    },
    /// A file that is not read or copied as a whole.
    #[error("{path} has {size} bytes; at most {max} are read or copied at once")]
    FileTooLarge {
        /// The path, as it was asked for.
        path: PathBuf,
        /// Bytes that it has.
        size: u64,
        /// [`FILE_BYTES_MAX`](crate::runtime::FILE_BYTES_MAX).
        max: usize,
    },
    /// What cannot be read or written as a file.
    #[error("{path} is {kind}, and no file")]
    NotAFile {
        /// The path, as it was asked for.
        path: PathBuf,
        /// What it is.
        kind: crate::runtime::FileKind,
    },
    /// A port that the app fixes is taken.
    #[error(
        "spec.ports: port {port} ({protocol} on {address}) of {name:?} is in use{by}; free it, or set hostPort to 0 for any free one"
    )]
    PortInUse {
        /// Name of the port in the app.
        name: String,
        /// Number on this host.
        port: u16,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// Address on this host.
        address: std::net::IpAddr,
        /// Who has it, if we know: ` by unit …`.
        by: String,
    },
    /// A file stands in the way that we did not write.
    #[error("spec.files: {path} exists and is not of this app ({owner}); remove it, or choose another path")]
    FileConflict {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// A user or group that does not exist.
    #[error("{field}: there is no {what} {name:?} on this host")]
    NoSuchUser {
        /// The field that names it.
        field: String,
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A bound that this host cannot hold a unit to.
    #[error("{field}: {why}")]
    Unbounded {
        /// The field that declares it.
        field: String,
        /// What is missing.
        why: String,
    },
    /// The command did not come to run.
    #[error("{reason}")]
    NotStarted {
        /// Why.
        reason: String,
    },
    /// Something of the unit would not die.
    #[error("unit {unit} could not be stopped: {reason}")]
    NotStopped {
        /// The unit.
        unit: String,
        /// Why.
        reason: String,
    },
    /// The runtime did not answer: what holds is not known, and nothing was done.
    #[error("{runtime} does not answer: {reason}")]
    Unknown {
        /// What was asked.
        runtime: String,
        /// What came instead of an answer.
        reason: String,
    },
    /// An engine refused.
    #[error("{what}: {reason}")]
    Engine {
        /// What was tried.
        what: String,
        /// What it said.
        reason: String,
    },
    /// Another agent acts for the instance.
    #[error("{reason}")]
    Fenced {
        /// Who, or why that is not known.
        reason: String,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and with which file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl From<Fenced> for RuntimeError {
    fn from(fenced: Fenced) -> Self {
        Self::Fenced { reason: fenced.to_string() }
    }
}

impl RuntimeError {
    pub(super) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}
