//! Files that an app declares: written before a unit starts, removed with the app's last unit.
//!
//! Inside a unit's own directory a unit may have what it likes. Elsewhere a file is ours only if a unit's label says
//! so, and the label is written first: a crash leaves a label without file, never a file without label.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use super::{error::RuntimeError, unit::UnitRecord, users};
use crate::{manifest::FileSpec, shim::RunAs};

/// A file with its place on this host.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub(super) path: PathBuf,
    spec: &'a FileSpec,
}

/// Where the files go: absolute ones where they say, relative ones below `working_dir`.
pub(super) fn place<'a>(files: &'a [FileSpec], working_dir: &Path) -> Vec<Placed<'a>> {
    files.iter().map(|spec| Placed { path: working_dir.join(&spec.path), spec }).collect()
}

/// Refuses files elsewhere that exist and are not this app's. `others` maps files of other units to their app.
pub(super) fn check(
    files: &[Placed<'_>],
    app: &str,
    unit_dir: &Path,
    others: &BTreeMap<PathBuf, String>,
) -> Result<(), RuntimeError> {
    for file in files.iter().filter(|file| !file.path.starts_with(unit_dir)) {
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
    for (index, file) in files.iter().enumerate() {
        let own = |field: &str| format!("spec.files[{index}].{field}");
        let uid = file.spec.owner.as_deref().map(|name| users::uid(&own("owner"), name)).transpose()?;
        let gid = file.spec.group.as_deref().map(|name| users::gid(&own("group"), name)).transpose()?;
        let owner = (
            uid.or_else(|| account.map(|account| account.uid)),
            gid.or_else(|| account.map(|account| account.gid)),
        );
        let inside = file.path.starts_with(unit_dir);
        write_one(file, inside, owner, account).map_err(|source| {
            RuntimeError::io(format!("spec.files[{index}]: cannot write {}", file.path.display()), source)
        })?;
    }
    Ok(())
}

/// Writes one file that no unit has, whole or not at all.
pub(crate) fn write_file(spec: &FileSpec) -> Result<(), RuntimeError> {
    let owner = owner_of(spec.owner.as_deref(), spec.group.as_deref())?;
    let placed = Placed { path: spec.path.clone(), spec };
    write_one(&placed, false, owner, None).map_err(|source| {
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
    write_one(&Placed { path: path.to_owned(), spec: &spec }, false, owner, None)
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

fn write_one(
    file: &Placed<'_>,
    inside: bool,
    owner: (Option<u32>, Option<u32>),
    account: Option<&RunAs>,
) -> io::Result<()> {
    let parent = file.path.parent().ok_or_else(|| io::Error::other("it has no directory"))?;
    if inside {
        make_dirs(parent, account)?;
    } else if !parent.is_dir() {
        return Err(io::Error::other("its directory does not exist"));
    }
    let temporary = temporary(&file.path);
    // Of an agent that died while it wrote.
    fs::remove_file(&temporary).ok();
    let written = write_new(&temporary, file.spec, owner).and_then(|()| fs::rename(&temporary, &file.path));
    if written.is_err() {
        // Not there if it could not even be made.
        fs::remove_file(&temporary).ok();
    }
    written
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
    match fs::remove_file(temporary(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_file(path)
}

fn make_dirs(dir: &Path, account: Option<&RunAs>) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        DirBuilder::new().mode(0o700).create(dir)?;
        if let Some(account) = account {
            chown(dir, Some(account.uid), Some(account.gid))?;
        }
    }
    Ok(())
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

/// Removes the files elsewhere that were written for `record`'s unit and are not also another's.
pub(super) fn remove(record: &UnitRecord, others: &BTreeMap<PathBuf, String>) -> Result<(), RuntimeError> {
    for path in record.files.iter().filter(|path| !others.contains_key(*path)) {
        match remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RuntimeError::io(format!("cannot remove {}", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
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
