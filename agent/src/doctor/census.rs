//! Looking at processes, data directories and marks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::Pid;

use super::{
    Places,
    verdict::{Group, Home, Homes, Mark},
};
use crate::{
    holder::Holder,
    mark,
    proc::{self, INSTANCE_MARK, UNIT_MARK},
};

/// What supervisors call themselves.
const SHIM: &[u8] = b"towline-shim";
/// What an agent holds open in its data directory.
const LOCK: &str = "agent.lock";
/// What is in a data directory that has a store. A damaged one was set aside beside it.
const STORE: [&str; 2] = ["agent.redb", "identity.json"];
/// What the system says behind the path of a file that was removed.
const DELETED: &str = " (deleted)";

/// What there is.
#[derive(Debug)]
pub(super) struct Census {
    pub(super) groups: Vec<Group>,
    pub(super) homes: Homes,
    pub(super) marks: Vec<Mark>,
}

impl Census {
    /// Looks now; at the data directories of `places`, and at those that anything names. Waits for the disk.
    ///
    /// Processes come first: what a unit's processes need is there before them and goes after them.
    pub(super) fn take(places: &Places, named: Vec<PathBuf>) -> io::Result<Self> {
        let own_files = fs::read_link("/proc/self/ns/mnt")?;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let mut held: BTreeSet<PathBuf> = BTreeSet::new();
        let mut running = BTreeSet::new();
        for process in proc::all().into_iter().filter(|process| !process.zombie) {
            let dir = PathBuf::from(format!("/proc/{}", process.pid.as_raw_nonzero()));
            let (homes, instances) = held_by(&dir);
            held.extend(homes);
            running.extend(instances);
            let Some(found) = unit_of(&dir, process.pid, process.start_time) else { continue };
            let same_files = fs::read_link(dir.join("ns/mnt")).is_ok_and(|theirs| theirs == own_files);
            let group = groups.entry(found.unit.clone()).or_insert_with(|| Group {
                unit: found.unit.clone(),
                same_files: true,
                ..Group::default()
            });
            group.same_files &= same_files;
            let is_shim = !found.shims.is_empty();
            group.shims.extend(found.shims);
            group.members.extend(found.members);
            group.instances.extend(found.instances);
            // A supervisor knows best: it is told its directory.
            let known = group.dir.take();
            group.dir = if is_shim { found.dir.or(known) } else { known.or(found.dir) };
        }
        let groups: Vec<Group> = groups.into_values().collect();
        let marks = marks(&places.mark_dirs);
        let of_units =
            groups.iter().filter_map(|group| Some(group.dir.as_ref()?.parent()?.parent()?.to_owned()));
        let of_marks = marks.iter().filter_map(|mark| mark.home.clone());
        let all = places.data_dirs.iter().map(|dir| canonical(dir));
        let all: BTreeSet<PathBuf> =
            all.chain(named).chain(of_units).chain(of_marks).chain(held.iter().cloned()).collect();
        let homes = all.into_iter().map(|path| {
            let home = home(&path, held.contains(&path));
            (path, home)
        });
        let homes = Homes { homes: homes.collect(), running };
        Ok(Self { groups, homes, marks })
    }
}

/// What a process tells of a unit.
fn unit_of(dir: &Path, pid: Pid, start_time: u64) -> Option<Group> {
    let words = fs::read(dir.join("cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    if let [SHIM, .., unit_dir] = words.as_slice()
        && !words.contains(&b"--exec".as_slice())
    {
        let unit_dir = path_of(unit_dir);
        return Some(Group {
            unit: unit_dir.file_name()?.to_str()?.to_owned(),
            shims: vec![(pid.as_raw_nonzero().get(), start_time)],
            dir: Some(unit_dir),
            ..Group::default()
        });
    }
    let environment = fs::read(dir.join("environ")).ok()?;
    let variable = |name: &str| {
        let begins = format!("{name}=");
        let mut all = environment.split(|byte| *byte == 0);
        all.find_map(|entry| {
            Some(String::from_utf8_lossy(entry.strip_prefix(begins.as_bytes())?).into_owned())
        })
    };
    let (instance, unit) = (variable(INSTANCE_MARK)?, variable(UNIT_MARK)?);
    let runs_in = fs::read_link(dir.join("cwd")).ok().into_iter();
    let dirs = runs_in.chain(variable("HOME").map(PathBuf::from));
    let dir = dirs.into_iter().find_map(|path| unit_dir(&path, &unit));
    let members = vec![pid.as_raw_nonzero().get()];
    Some(Group { unit, members, instances: BTreeSet::from([instance]), dir, ..Group::default() })
}

/// The directory of `unit` on the way to `path`.
fn unit_dir(path: &Path, unit: &str) -> Option<PathBuf> {
    let text = path.to_str()?;
    let path = Path::new(text.strip_suffix(DELETED).unwrap_or(text));
    let is_units = |dir: &Path| {
        dir.file_name().is_some_and(|name| name == unit)
            && dir.parent().and_then(Path::file_name).is_some_and(|name| name == "units")
    };
    path.ancestors().find(|dir| is_units(dir)).map(Path::to_owned)
}

fn path_of(word: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    PathBuf::from(std::ffi::OsStr::from_bytes(word))
}

/// Data directories that a process holds the locks of, and the instances that it does so for. Also of those removed under it.
fn held_by(dir: &Path) -> (Vec<PathBuf>, Vec<String>) {
    let (mut homes, mut instances) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let Some(text) = target.to_str() else { continue };
        let path = Path::new(text.strip_suffix(DELETED).unwrap_or(text));
        if path.file_name().is_none_or(|name| name != LOCK) {
            continue;
        }
        homes.extend(path.parent().map(Path::to_owned));
        let holder =
            fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice::<Holder>(&text).ok());
        instances.extend(holder.and_then(|holder| holder.instance));
    }
    (homes, instances)
}

fn home(path: &Path, is_held: bool) -> Home {
    let units = fs::read_dir(path.join("units")).into_iter().flatten().flatten();
    let is_unit = |entry: &fs::DirEntry| entry.path().join("unit.json").exists();
    let units = units.filter(is_unit).filter_map(|entry| entry.file_name().into_string().ok());
    Home {
        exists: !is_absent(path),
        has_store: STORE.iter().any(|name| !is_absent(&path.join(name))),
        is_held,
        units: units.collect(),
    }
}

/// Only what is certainly not there is absent; what cannot be seen may well be.
fn is_absent(path: &Path) -> bool {
    let looked = fs::symlink_metadata(path);
    looked.is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn marks(dirs: &[PathBuf]) -> Vec<Mark> {
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let mut found: Vec<Mark> = entries.filter_map(|entry| read_mark(&entry.path())).collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup();
    found
}

fn read_mark(path: &Path) -> Option<Mark> {
    let (tenant, name) = path.file_name()?.to_str()?.split_once('.')?;
    // The locks beside it have another dot in their names.
    if name.contains('.') {
        return None;
    }
    let told = mark::tell(path)?;
    Some(Mark {
        path: path.to_owned(),
        instance: format!("{tenant}/{name}"),
        home: told.home.map(|home| canonical(&home)),
        is_held: told.is_held,
    })
}

/// The control groups that were made for a unit.
pub(super) fn control_groups(group: &Group) -> BTreeSet<PathBuf> {
    let name = format!("towline-{}", group.unit);
    let mut found = BTreeSet::new();
    for pid in group.pids() {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let below = Path::new(path.trim_start_matches('/'));
            if below.file_name().is_some_and(|last| last == name.as_str()) {
                found.insert(Path::new("/sys/fs/cgroup").join(controllers).join(below));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_directory_is_found_on_the_way() {
        let dir = |path: &str| unit_dir(Path::new(path), "web-1");
        let found = Some(PathBuf::from("/data/units/web-1"));
        assert_eq!(dir("/data/units/web-1/work"), found);
        assert_eq!(dir("/data/units/web-1/work (deleted)"), found);
        assert_eq!(dir("/data/units/web-1"), found);
        assert_eq!(dir("/data/units/web-12/work"), None);
        assert_eq!(dir("/web-1/units"), None);
    }

    #[test]
    fn what_cannot_be_seen_is_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(is_absent(&dir.path().join("a/b")) && is_absent(&dir.path().join("file/b")));
        assert!(!is_absent(dir.path()));
        assert!(!is_absent(&dir.path().join("x".repeat(300))), "the system refuses to look");
    }

    #[test]
    fn locks_beside_a_mark_are_no_marks() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["default.x", "default.x.lock", "default.x.raise", "other"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        assert_eq!(marks(&[dir.path().to_owned()]), [], "and what is not readable is none of ours");
    }
}
