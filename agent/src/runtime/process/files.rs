//! Files that an app declares: written before a unit starts, removed with the app's last unit.
//!
//! Inside a unit's own directory a unit may have what it likes. Elsewhere a file is ours only if a unit's label says
//! so, and the label is written first: a crash leaves a label without file, never a file without label.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};

use super::{
    beneath::{Dir, Missing},
    error::RuntimeError,
    unit::Unit,
    users,
};
use crate::{manifest::FileSpec, runtime::How, shim::RunAs};

/// A file with its place on this host.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub(super) path: PathBuf,
    /// Where its definition stands.
    field: String,
    spec: &'a FileSpec,
}

/// Where the files go: absolute ones where they say, relative ones below `working_dir`.
pub(super) fn place<'a>(files: &'a [FileSpec], working_dir: &Path) -> Vec<Placed<'a>> {
    let placed = |(index, spec): (usize, &'a FileSpec)| Placed {
        path: working_dir.join(&spec.path),
        field: format!("spec.files[{index}]"),
        spec,
    };
    files.iter().enumerate().map(placed).collect()
}

/// Refuses files elsewhere that exist and are not this app's. `others` maps files of other units to their app.
pub(super) fn check<'a>(
    files: impl IntoIterator<Item = &'a Placed<'a>>,
    app: &str,
    unit_dir: &Path,
    others: &BTreeMap<PathBuf, String>,
) -> Result<(), RuntimeError> {
    for file in files.into_iter().filter(|file| !file.is_within(unit_dir)) {
        let owner = match others.get(&file.path) {
            Some(owner) if owner == app => continue,
            Some(owner) => format!("it is of {owner}"),
            None if fs::symlink_metadata(&file.path).is_ok() => "nobody declared it".to_owned(),
            None => continue,
        };
        return Err(RuntimeError::FileConflict { path: file.path.clone(), owner });
    }
    Ok(())
}

/// Writes the files, each whole or not at all, owned by `account` where they do not say otherwise.
pub(super) fn write(
    files: &[Placed<'_>],
    unit_dir: &Path,
    account: Option<&RunAs>,
) -> Result<(), RuntimeError> {
    files.iter().try_for_each(|file| file.write(unit_dir, account))
}

impl Placed<'_> {
    /// BLAKE3 of what it is to hold, in hex.
    pub(super) fn digest(&self) -> String {
        blake3::hash(&self.spec.content).to_hex().to_string()
    }

    /// Whether it is in the unit's own directory.
    pub(super) fn is_within(&self, unit_dir: &Path) -> bool {
        self.path.starts_with(unit_dir)
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, unit_dir: &Path, account: Option<&RunAs>) -> Result<(), RuntimeError> {
        let owner = self.owner(account)?;
        let written = Door::open(&self.path, Some(unit_dir), Missing::Make(account))
            .and_then(|door| door.write(self.spec, owner));
        written.map_err(|source| {
            RuntimeError::io(format!("{}: cannot write {}", self.field, self.path.display()), source)
        })
    }

    /// In which way it is not as declared; none if it is.
    pub(super) fn look(&self, unit_dir: &Path, account: Option<&RunAs>) -> Result<Option<How>, RuntimeError> {
        let owner = self.owner(account)?;
        let looked = match Door::open(&self.path, Some(unit_dir), Missing::Fails) {
            Ok(door) => differs(&door.file, self.spec, owner),
            Err(error) if is_no_way(&error) => Ok(Some(How::Gone)),
            Err(error) => Err(error),
        };
        looked.map_err(|source| {
            RuntimeError::io(format!("{}: cannot look at {}", self.field, self.path.display()), source)
        })
    }

    /// The numbers of those it is to belong to, where that is said.
    fn owner(&self, account: Option<&RunAs>) -> Result<(Option<u32>, Option<u32>), RuntimeError> {
        let own = |field: &str| format!("{}.{field}", self.field);
        let uid = self.spec.owner.as_deref().map(|name| users::uid(&own("owner"), name)).transpose()?;
        let gid = self.spec.group.as_deref().map(|name| users::gid(&own("group"), name)).transpose()?;
        Ok((
            uid.or_else(|| account.map(|account| account.uid)),
            gid.or_else(|| account.map(|account| account.gid)),
        ))
    }
}

/// Writes one file that no unit has, whole or not at all.
pub(crate) fn write_file(spec: &FileSpec) -> Result<(), RuntimeError> {
    let owner = owner_of(spec.owner.as_deref(), spec.group.as_deref())?;
    let written = Door::open(&spec.path, None, Missing::Fails).and_then(|door| door.write(spec, owner));
    written.map_err(|source| {
        RuntimeError::io(format!("spec.path: cannot write {}", spec.path.display()), source)
    })
}

/// Writes a file into a directory that exists, whole or not at all. One at a time for each path.
///
/// # Errors
/// Those of the system.
pub(crate) fn write_whole(
    path: &Path,
    content: Vec<u8>,
    mode: u32,
    owner: (Option<u32>, Option<u32>),
) -> io::Result<()> {
    let spec = FileSpec { path: path.to_owned(), content, mode, owner: None, group: None };
    Door::open(path, None, Missing::Fails)?.write(&spec, owner)
}

/// What `spec.owner` and `spec.group` stand for.
pub(crate) fn owner_of(
    owner: Option<&str>,
    group: Option<&str>,
) -> Result<(Option<u32>, Option<u32>), RuntimeError> {
    let uid = owner.map(|name| users::uid("spec.owner", name)).transpose()?;
    let gid = group.map(|name| users::gid("spec.group", name)).transpose()?;
    Ok((uid, gid))
}

/// The way to one file: good as long as it is held.
struct Door {
    file: PathBuf,
    temporary: PathBuf,
    _dir: Option<Dir>,
}

impl Door {
    /// To `path`; within `unit_dir` past no link, for the unit may have put it there.
    fn open(path: &Path, unit_dir: Option<&Path>, missing: Missing<'_>) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other("it has no directory"));
        };
        let temporary = temporary(path);
        let below = unit_dir.and_then(|dir| Some((dir, parent.strip_prefix(dir).ok()?)));
        let Some((base, way)) = below else {
            return match fs::metadata(parent) {
                Ok(meta) if meta.is_dir() => Ok(Self { file: path.to_owned(), temporary, _dir: None }),
                // Whether it is there is not known.
                Err(error) if !is_no_way(&error) => Err(error),
                _ => Err(io::Error::new(io::ErrorKind::NotFound, "its directory does not exist")),
            };
        };
        let dir = Dir::open(base, way, missing)?;
        let of_temporary = temporary.file_name().unwrap_or_default();
        Ok(Self {
            file: dir.path(name.as_ref()),
            temporary: dir.path(of_temporary.as_ref()),
            _dir: Some(dir),
        })
    }

    fn write(&self, spec: &FileSpec, owner: (Option<u32>, Option<u32>)) -> io::Result<()> {
        // Of an agent that died while it wrote.
        fs::remove_file(&self.temporary).ok();
        let written =
            write_new(&self.temporary, spec, owner).and_then(|()| fs::rename(&self.temporary, &self.file));
        if written.is_err() {
            // Not there if it could not even be made.
            fs::remove_file(&self.temporary).ok();
        }
        written
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::remove_file(&self.file)
    }
}

/// Whether a directory on the way is missing, or is none.
fn is_no_way(error: &io::Error) -> bool {
    let no_way = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    error.kind() == io::ErrorKind::NotFound
        || Errno::from_io_error(error).is_some_and(|errno| no_way.contains(&errno))
}

/// In which way the file at `path` is not as declared; none if it is.
fn differs(path: &Path, spec: &FileSpec, (uid, gid): (Option<u32>, Option<u32>)) -> io::Result<Option<How>> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(How::Gone)),
        meta => meta?,
    };
    if !meta.is_file() {
        return Ok(Some(How::NoFile));
    }
    let size = usize::try_from(meta.len()).unwrap_or(usize::MAX);
    if size != spec.content.len() || reads_otherwise(path, &meta, spec)? {
        return Ok(Some(How::Content));
    }
    if meta.permissions().mode() & 0o7777 != spec.mode {
        return Ok(Some(How::Mode));
    }
    let other = |wanted: Option<u32>, found: u32| wanted.is_some_and(|wanted| wanted != found);
    Ok((other(uid, meta.uid()) || other(gid, meta.gid())).then_some(How::Owner))
}

/// Whether it holds something else. What is closed to its reader as declared is not read.
fn reads_otherwise(path: &Path, meta: &fs::Metadata, spec: &FileSpec) -> io::Result<bool> {
    // It may have been replaced since it was looked at: not past a link, and not waiting for the other end of a pipe.
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(careful.bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return if meta.permissions().mode() & 0o7777 == spec.mode { Ok(false) } else { Ok(true) };
        }
        file => file?,
    };
    let mut found = Vec::with_capacity(spec.content.len());
    let most = u64::try_from(spec.content.len()).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut found)?;
    Ok(found != spec.content)
}

/// Where a file is written before it is renamed into its place: always the same, so that one that was left is found again.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digest = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    let mark: String = digest.chars().take(16).collect();
    path.with_file_name(format!(".{name}.towline-{mark}"))
}

/// Removes a file that was written here, with what is left of one that was not written to its end.
///
/// # Errors
/// Those of the system; also that there is no such file.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    Door { file: path.to_owned(), temporary: temporary(path), _dir: None }.remove()
}

/// Removes a file that was written for the unit in `unit_dir`; one that is not there is no error.
pub(super) fn remove_one(path: &Path, unit_dir: &Path) -> Result<(), RuntimeError> {
    let removed = Door::open(path, Some(unit_dir), Missing::Fails).and_then(|door| door.remove());
    match removed {
        Err(error) if !is_no_way(&error) => {
            Err(RuntimeError::io(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn write_new(path: &Path, spec: &FileSpec, (uid, gid): (Option<u32>, Option<u32>)) -> io::Result<()> {
    // Closed to others from the first moment; opened to the declared mode once it has its owner and content.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&spec.content)?;
    if uid.is_some() || gid.is_some() {
        std::os::unix::fs::fchown(&file, uid, gid)?;
    }
    file.set_permissions(Permissions::from_mode(spec.mode))
}

/// Removes the files elsewhere that were written for `unit` and are not also another's.
pub(super) fn remove(unit: &Unit, others: &BTreeMap<PathBuf, String>) -> Result<(), RuntimeError> {
    let files = unit.files();
    let own = files.elsewhere.iter().filter(|path| !others.contains_key(*path));
    own.into_iter().try_for_each(|path| remove_one(path, &unit.dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_left_that_died_while_it_wrote_goes_with_the_next_write_or_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, content) = (dir.path().join("conf"), b"whole".to_vec());
        let spec = FileSpec { path: path.clone(), content, mode: 0o600, owner: None, group: None };
        let names =
            || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        fs::write(temporary(&path), "hal").unwrap();
        write_file(&spec).unwrap();
        assert_eq!((names(), fs::read(&path).unwrap()), (vec![path.clone()], spec.content));
        fs::write(temporary(&path), "hal").unwrap();
        remove_file(&path).unwrap();
        assert_eq!(names(), Vec::<PathBuf>::new());
        fs::write(temporary(&path), "hal").unwrap();
        assert_eq!(remove_file(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(names(), Vec::<PathBuf>::new(), "also of one that never came to be");
    }
}
