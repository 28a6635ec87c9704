//! A mark on the disk, and the locks beside it.
//!
//! ```text
//! <mark dir>/<tenant>.<name>          the mark, as JSON
//!            <tenant>.<name>.lock     held, shared, by whoever acts right now
//!            <tenant>.<name>.raise    held, alone, while the mark is read and written
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::FlockOperation;
use towline_protocol::InstanceId;

use super::rules::Shown;
use crate::{
    holder::Holder,
    lock_file::{self, LockFile, TakeError},
    shim::write_durably,
};

/// How long who raises the same mark may take to read and write it.
const RAISING: Duration = Duration::from_secs(5);

/// Where the mark of one instance is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
    name: String,
}

/// A turn to act. Whoever raises the mark waits until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "closing it unlocks")] File);

impl Place {
    /// Makes the directory when it is absent, for its owner alone.
    pub(super) fn make(dir: &Path, instance: &InstanceId) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_owned(), name: instance.to_string().replace('/', ".") })
    }

    /// What is shown; none where nobody ever acted.
    ///
    /// # Errors
    /// A sentence that names the file and what to do. Nobody may act then.
    pub(super) fn read(&self) -> Result<Option<Shown>, String> {
        let path = self.path("");
        let unreadable = |why: String| {
            format!(
                "nobody may act: the mark {} cannot be read: {why}; mend it, or stop every agent of this instance on this \
                 host and remove it",
                path.display()
            )
        };
        match fs::read(&path) {
            Ok(text) => Shown::read(&text).map(Some).map_err(|error| unreadable(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Shows `mark` from now on, durably. Call with [`Place::alone`] held.
    pub(super) fn write(&self, mark: &Shown) -> io::Result<()> {
        write_durably(&self.dir, &self.name, &mark.write()?)
    }

    /// The right to write the mark.
    ///
    /// # Errors
    /// Who has it, or why it cannot be had.
    pub(super) fn alone(&self, me: &Holder) -> Result<LockFile, String> {
        let path = self.path(".raise");
        LockFile::take(&path, me, RAISING).map_err(|error| match error {
            TakeError::Held(Some(holder)) => format!("{} is held by pid {}", path.display(), holder.pid),
            TakeError::Held(None) => format!("{} is held by a process unknown", path.display()),
            TakeError::Io(error) => format!("cannot use {}: {error}", path.display()),
        })
    }

    /// A turn, unless somebody is just waiting for all of them.
    pub(super) fn turn(&self) -> io::Result<Option<Turn>> {
        let file = lock_file::open(&self.turns())?;
        Ok(lock_file::try_lock(&file, FlockOperation::NonBlockingLockShared)?.then_some(Turn(file)))
    }

    /// Whether nobody has a turn now.
    pub(super) fn is_quiet(&self) -> io::Result<bool> {
        let file = lock_file::open(&self.turns())?;
        lock_file::try_lock(&file, FlockOperation::NonBlockingLockExclusive)
    }

    /// The lock that whoever acts holds.
    pub(super) fn turns(&self) -> PathBuf {
        self.path(".lock")
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}{suffix}", self.name))
    }
}
