//! What holds a unit to its bounds: control groups that it is put into, and limits that its processes inherit.
//!
//! The agent decides which; the shim makes the groups and removes them; the second stage enters them before it becomes the
//! command, so that nothing of the unit was ever outside.

use std::{fs, io, path::PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Bounds of a unit. Without any, nothing is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// Control groups that it is in.
    #[serde(default)]
    pub(crate) groups: Vec<Group>,
    /// Bytes of address space that each of its processes may have.
    #[serde(default)]
    pub(crate) address_space: Option<u64>,
}

/// A control group of the unit's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) dir: PathBuf,
    /// Files in it and what is written to them, in this order.
    pub(crate) settings: Vec<(String, String)>,
}

impl Bounds {
    /// Makes the groups, empty, with their settings.
    ///
    /// # Errors
    /// Which could not be made.
    pub(super) fn make(&self) -> io::Result<()> {
        for group in &self.groups {
            let said = |what: &str| {
                let text = format!("{what} control group {}", group.dir.display());
                move |error: io::Error| io::Error::new(error.kind(), format!("{text}: {error}"))
            };
            match fs::create_dir(&group.dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(said("cannot make"))?,
            }
            for (file, value) in &group.settings {
                fs::write(group.dir.join(file), value).map_err(said(&format!("cannot set {file} of")))?;
            }
        }
        Ok(())
    }

    /// Puts the process that calls it into the groups, and under the limits.
    ///
    /// # Errors
    /// Which could not be.
    pub(super) fn enter(&self) -> io::Result<()> {
        for group in &self.groups {
            // Zero is whoever writes it.
            fs::write(group.dir.join("cgroup.procs"), "0").map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot enter control group {}: {error}", group.dir.display()),
                )
            })?;
        }
        if let Some(bytes) = self.address_space {
            setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
        }
        Ok(())
    }

    /// Removes the groups, as far as nobody is in them.
    pub(crate) fn remove(&self) {
        for group in &self.groups {
            match fs::remove_dir(&group.dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(dir = %group.dir.display(), %error, "a control group cannot be removed");
                }
                _ => {}
            }
        }
    }
}
