//! The directory that a hub keeps its state in: made for its owner alone, and held by one hub at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use thiserror::Error;

/// Why a directory cannot be this hub's.
#[derive(Debug, Error)]
pub enum ClaimDataDirError {
    /// It is not there, and could not be made; or it is there, and nothing can be written to it.
    #[error(
        "the data directory `{}` cannot be written: choose one that can with --data-dir, or change its owner",
        path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another hub runs on it.
    #[error(
        "the data directory `{}` belongs to a running hub{}: stop that one, or choose another with --data-dir",
        path.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
}

/// A directory that is this hub's for as long as the value lives. The lock is the kernel's, so it ends with the process,
/// however that ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and claims it.
    ///
    /// # Errors
    /// When it cannot be written, or another hub holds it.
    pub fn claim(path: &Path) -> Result<Self, ClaimDataDirError> {
        let not_writable = |source| ClaimDataDirError::NotWritable { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(not_writable)?;
        warn_if_open_to_others(path);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("hub.lock"))
            .map_err(not_writable)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(ClaimDataDirError::InUse { path: path.to_owned(), pid: read_pid(&mut lock) });
            }
            Err(error) => return Err(not_writable(error.into())),
        }
        write_pid(&mut lock).map_err(not_writable)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// A directory that the operator made is theirs to open up; the files in it are for their owner alone all the same.
fn warn_if_open_to_others(path: &Path) {
    if let Ok(found) = path.metadata()
        && found.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(path = %path.display(), "others can look into the data directory; `chmod 700` keeps them out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_hubs_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep").join("hub");
        let held = DataDir::claim(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let error = DataDir::claim(&path).unwrap_err();
        assert!(
            matches!(error, ClaimDataDirError::InUse { pid: Some(pid), .. } if pid == std::process::id())
        );
        assert!(error.to_string().contains("--data-dir"), "{error}");
        drop(held);
        DataDir::claim(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_refused_with_a_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::claim(&file.path().join("hub")).unwrap_err();
        assert!(matches!(error, ClaimDataDirError::NotWritable { .. }));
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
