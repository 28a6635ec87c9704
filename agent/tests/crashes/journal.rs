//! What units say themselves: each appends its starts and its stops to one file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

/// `unit.sh JOURNAL APP TAG`. Its start is written first: a stop without one is none.
pub(crate) const UNIT: &str = r#"
echo "start $TOWLINE_UNIT $2 $3 $$" >> "$1"
trap 'echo "stop $TOWLINE_UNIT $2 $3 $$" >> "$1"; kill $!; exit 0' TERM
sleep 100000 &
wait $!
"#;

/// `hook.sh FILE NAME`.
pub(crate) const HOOK: &str = "echo \"$2 $TOWLINE_UNIT\" >> \"$1\"\n";

/// Whether an app has hooks, by its name: some have, and some have not.
pub(crate) fn has_hooks(app: &str) -> bool {
    app.ends_with("-1")
}

pub(crate) fn hooks_path(dir: &Path) -> PathBuf {
    dir.join("hooks")
}

/// The hooks that ran, of each unit, in their order.
pub(crate) fn hooks(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(hooks_path(dir)).unwrap_or_default();
    let mut hooks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let (hook, unit) = line.split_once(' ').unwrap();
        hooks.entry(unit.to_owned()).or_default().push(hook.to_owned());
    }
    hooks
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// One process that a unit was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incarnation {
    pub(crate) unit: String,
    pub(crate) app: String,
    pub(crate) tag: String,
    pub(crate) pid: i32,
    pub(crate) stopped: bool,
}

impl Incarnation {
    /// It has not stopped, as far as it said, and is there. One that was killed says nothing.
    pub(crate) fn lives(&self) -> bool {
        !self.stopped && unit_of(self.pid).is_some_and(|unit| unit == self.unit)
    }
}

/// All that units wrote, in the order of their starts. Each unit starts and stops in turn: none starts twice at the same
/// time, and none stops that did not start.
pub(crate) fn read(dir: &Path) -> Vec<Incarnation> {
    let text = fs::read_to_string(path(dir)).unwrap_or_default();
    let mut all: Vec<Incarnation> = Vec::new();
    let mut newest: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, unit, app, tag, pid] = words[..] else { panic!("a unit wrote {line:?}") };
        let of_line = Incarnation {
            unit: unit.to_owned(),
            app: app.to_owned(),
            tag: tag.to_owned(),
            pid: pid.parse().unwrap(),
            stopped: false,
        };
        if what == "start" {
            newest.insert(unit.to_owned(), all.len());
            all.push(of_line);
            continue;
        }
        // Of the process that started last under this name: an earlier one that says so was there beside it.
        let known = newest.get(unit).and_then(|index| all.get_mut(*index)).filter(|known| **known == of_line);
        known.unwrap_or_else(|| panic!("{line:?} is no stop of what started last in:\n{text}")).stopped =
            true;
    }
    all
}

/// Units of this instance that have a process.
pub(crate) fn running(instance: &str) -> BTreeSet<String> {
    processes(instance).filter_map(unit_of).collect()
}

/// Processes of this instance: units, whatever they started, and supervisors of what is below `units`.
pub(crate) fn left(instance: &str, units: &Path) -> Vec<i32> {
    let below = format!("{}/", units.display());
    let stands_over = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word.starts_with(below.as_bytes()))
    };
    processes(instance).chain(pids().filter(stands_over)).collect()
}

/// Ends what a test that failed leaves.
pub(crate) fn kill_all(instance: &str) {
    for pid in processes(instance).filter_map(Pid::from_raw) {
        // It may have ended meanwhile.
        kill_process(pid, Signal::KILL).ok();
    }
}

fn processes(instance: &str) -> impl Iterator<Item = i32> {
    let mark = format!("TOWLINE_INSTANCE={instance}");
    pids().filter(move |pid| environment(*pid).contains(&mark))
}

fn unit_of(pid: i32) -> Option<String> {
    environment(pid).iter().find_map(|entry| entry.strip_prefix("TOWLINE_UNIT=")).map(str::to_owned)
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What a process was started with; nothing of one that has ended.
fn environment(pid: i32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    text.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}
