//! Directories below a unit's own, entered without following links: the unit may have put any there, and the agent has rights
//! that the unit has not.

use std::{
    fs::{File, Permissions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{PermissionsExt as _, fchown},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, mkdirat, open, openat};

use crate::shim::RunAs;

/// An open directory: whatever is moved or replaced meanwhile, paths through it lead into that very directory.
#[derive(Debug)]
pub(super) struct Dir(File);

/// Whether directories on the way are made where they are missing, and whose they are then.
#[derive(Debug, Clone, Copy)]
pub(super) enum Missing<'a> {
    /// They are an error: [`io::ErrorKind::NotFound`].
    Fails,
    /// They are made, for their owner alone.
    Make(Option<&'a RunAs>),
}

impl Dir {
    /// Opens `way` below `base`, which is the agent's own.
    ///
    /// # Errors
    /// Those of the system; also that something on the way is a link, or no directory.
    pub(super) fn open(base: &Path, way: &Path, missing: Missing<'_>) -> io::Result<Self> {
        let mut dir = File::from(open(base, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
        for part in way.components() {
            let Component::Normal(name) = part else {
                return Err(io::Error::other("its path leaves the directory"));
            };
            let enter = |dir: &File| -> io::Result<OwnedFd> {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Ok(openat(dir, name, flags, Mode::empty())?)
            };
            dir = match (enter(&dir), missing) {
                (Err(error), Missing::Make(owner)) if error.kind() == io::ErrorKind::NotFound => {
                    mkdirat(&dir, name, Mode::RWXU)?;
                    let made = File::from(enter(&dir)?);
                    made.set_permissions(Permissions::from_mode(0o700))?;
                    if let Some(owner) = owner {
                        fchown(&made, Some(owner.uid), Some(owner.gid))?;
                    }
                    made
                }
                (entered, _) => entered?.into(),
            };
        }
        Ok(Self(dir))
    }

    /// A path to what is called `name` in it, good as long as it is open.
    pub(super) fn path(&self, name: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn no_link_leads_out() {
        let (base, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let way = Path::new("a/b");
        let gone = Dir::open(base.path(), way, Missing::Fails).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        let dir = Dir::open(base.path(), way, Missing::Make(None)).unwrap();
        fs::write(dir.path(Path::new("c")), "d").unwrap();
        assert_eq!(fs::read_to_string(base.path().join("a/b/c")).unwrap(), "d");
        fs::remove_dir_all(base.path().join("a")).unwrap();
        symlink(outside.path(), base.path().join("a")).unwrap();
        for missing in [Missing::Fails, Missing::Make(None)] {
            Dir::open(base.path(), Path::new("a"), missing).unwrap_err();
            Dir::open(base.path(), way, missing).unwrap_err();
            Dir::open(base.path(), Path::new("../a"), missing).unwrap_err();
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
