//! Reading `/proc`, and killing exactly whom we mean.
//!
//! A pid alone names nobody: it is reused. A process is identified by pid and start time, and belongs to a unit by its
//! ancestry (below the unit's shim) or by the environment mark that every process of a unit inherits.

use std::{fs, io, str::FromStr};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// Environment variable that names the unit a process belongs to.
pub(crate) const UNIT_MARK: &str = "TOWLINE_UNIT";
/// Environment variable that names the instance whose agent started a process.
pub(crate) const INSTANCE_MARK: &str = "TOWLINE_INSTANCE";

/// A process that was seen: pid and start time, which together are unique until the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: i32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
    /// Ended, and only waits for its parent to notice.
    pub(crate) zombie: bool,
    /// Stopped by a signal, until another lets it go on.
    pub(crate) stopped: bool,
}

/// The process `pid` as it is now, if there is one.
pub(crate) fn inspect(pid: Pid) -> Option<Process> {
    read_stat(pid, &fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

/// What the system says of the process `pid`.
pub(crate) fn read_stat(pid: Pid, stat: &[u8]) -> Option<Process> {
    // The name stands in parentheses and may hold anything, also what is no text, so fields count from the last one.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> =
        std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).copied();
    Some(Process {
        pid,
        parent: i32::from_str(number(1)?).ok()?,
        start_time: u64::from_str(number(19)?).ok()?,
        zombie: matches!(number(0)?, "Z" | "X"),
        stopped: number(0)? == "T",
    })
}

/// The process with this pid and start time, if it still lives.
pub(crate) fn find((pid, start_time): (i32, u64)) -> Option<Process> {
    let found = Pid::from_raw(pid).and_then(inspect);
    found.filter(|process| process.start_time == start_time && !process.zombie)
}

/// Whether the process with this pid and start time lives.
pub(crate) fn lives(identity: (i32, u64)) -> bool {
    find(identity).is_some()
}

/// All processes that can be seen.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter_map(inspect)
        .collect()
}

/// Living processes that carry both marks in the environment they were started with.
pub(crate) fn marked(instance: &str, unit: &str) -> Vec<Process> {
    let instance = format!("{INSTANCE_MARK}={instance}");
    let unit = format!("{UNIT_MARK}={unit}");
    bearing(|entries| entries.contains(&instance.as_bytes()) && entries.contains(&unit.as_bytes()))
}

/// Living processes that carry `mark` (`NAME=value`) in the environment they were started with.
pub(crate) fn carriers(mark: &str) -> Vec<Process> {
    bearing(|entries| entries.contains(&mark.as_bytes()))
}

/// Living processes of whose environment, `NAME=value` each, as they were started with it, `is_meant` says so.
pub(crate) fn bearing(is_meant: impl Fn(&[&[u8]]) -> bool) -> Vec<Process> {
    let is_ours = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid.as_raw_nonzero()));
        environment.is_ok_and(|text| is_meant(&text.split(|byte| *byte == 0).collect::<Vec<_>>()))
    };
    all().into_iter().filter(|process| !process.zombie && is_ours(process)).collect()
}

/// Living children of this process.
pub(crate) fn children() -> Vec<Process> {
    let own = getpid();
    let living = |process: &Process| !process.zombie && process.parent == own.as_raw_nonzero().get();
    match listed_children() {
        Some(children) => children.into_iter().filter_map(inspect).filter(living).collect(),
        // A kernel that keeps no such lists: look at everyone.
        None => all().into_iter().filter(living).collect(),
    }
}

fn listed_children() -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let list = fs::read_to_string(thread.path().join("children")).ok()?;
        found
            .extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)));
    }
    Some(found)
}

/// Sends SIGKILL to `process`, never to another that was given its pid since.
///
/// # Errors
/// Those of the system; a process that has gone already is none.
pub(crate) fn kill(process: Process) -> io::Result<()> {
    let gone = |error: rustix::io::Errno| match error {
        rustix::io::Errno::SRCH => Ok(()),
        other => Err(io::Error::from(other)),
    };
    let handle = match pidfd_open(process.pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(error) => return gone(error),
    };
    // The handle pins whoever has the pid now; only then is the start time worth comparing.
    if inspect(process.pid).is_none_or(|now| now.start_time != process.start_time) {
        return Ok(());
    }
    pidfd_send_signal(&handle, Signal::KILL).or_else(gone)
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
        process::Command,
    };

    use super::*;

    #[test]
    fn no_name_hides_a_process() {
        let dir = tempfile::tempdir().unwrap();
        // What the system calls a process is the file that it was started from.
        let program = dir.path().join(OsStr::from_bytes(b"\xff) Z 1 (\xfe"));
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg0("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        // The system tells whoever started it before it gives it its name.
        let name = || fs::read(format!("/proc/{}/comm", child.id())).unwrap();
        let is_named = (0..1_000_000).any(|_| name() == b"\xff) Z 1 (\xfe\n");
        let found = inspect(pid);
        let ended = found.map(kill);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_named);
        let found = found.unwrap();
        assert_eq!(found.parent, getpid().as_raw_nonzero().get());
        assert!(!found.zombie && !found.stopped && matches!(ended, Some(Ok(()))));
    }
}
