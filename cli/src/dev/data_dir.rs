//! Where hub and agent keep their data: a fresh directory that goes with them, or one that the user named.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::{Failure, plainly};

/// How the names of fresh directories begin.
pub(super) const PREFIX: &str = "towline-dev-";

/// Where data lives.
#[derive(Debug)]
pub(super) enum DataDir {
    Kept(PathBuf),
    Fresh(TempDir),
}

impl DataDir {
    /// Makes it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let refused = |what: &Path, error: &io::Error| {
            Failure::error(format!("cannot use `{}`: {}", what.display(), plainly(error)))
                .with_help("choose a directory that can be written with --data-dir")
        };
        match path {
            Some(path) => {
                let made = DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
                    .and_then(|()| path.canonicalize());
                made.map(Self::Kept).map_err(|error| refused(path, &error))
            }
            None => {
                let parent = std::env::temp_dir();
                let made = tempfile::Builder::new()
                    .prefix(PREFIX)
                    .permissions(Permissions::from_mode(0o700))
                    .tempdir_in(&parent);
                made.map(Self::Fresh).map_err(|error| refused(&parent, &error))
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Fresh(dir) => dir.path(),
        }
    }

    /// Whether it stays when everything has ended.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    /// The directory, if it goes when everything has ended.
    pub(super) fn scratch(&self) -> Option<PathBuf> {
        (!self.is_kept()).then(|| self.path().to_owned())
    }

    /// A directory in which units find this very program as `towline`, whatever it was called by.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn program_dir(&self) -> Result<PathBuf, Failure> {
        let dir = self.path().join("bin");
        let link = dir.join("towline");
        let made = std::env::current_exe().and_then(|program| {
            fs::create_dir_all(&dir)?;
            // Of an earlier run, perhaps of another build.
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            symlink(program, &link)
        });
        made.map(|()| dir)
            .map_err(|error| Failure::error(format!("cannot make `{}`: {}", link.display(), plainly(&error))))
    }

    /// Removes it, unless it is kept.
    ///
    /// # Errors
    /// What could not be removed.
    pub(super) fn close(self) -> io::Result<()> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Fresh(dir) => dir.close(),
        }
    }

    /// Leaves it where it is, in any case.
    pub(super) fn keep(self) -> PathBuf {
        match self {
            Self::Kept(path) => path,
            Self::Fresh(dir) => dir.keep(),
        }
    }
}
