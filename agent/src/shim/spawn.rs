//! Starting commands of a unit through the second stage: the one that it is for, and those beside it.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command as Process, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, getpid, kill_process_group};
use tokio::time::timeout;

use super::{
    pipes::{Pipes, SharedLog},
    reaper::{Reaper, Watched},
    role::Role,
    spec::{HOOK_MAX, ShimSpec},
    stage::GO,
    state::Ended,
};

/// How long the second stage may take to become the command.
const STAGE: Duration = Duration::from_secs(10);

/// Starts commands of one unit. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Spawner {
    pub(super) spec: Arc<ShimSpec>,
    pub(super) log: SharedLog,
    pub(super) reaper: Reaper,
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) ended: Watched,
    pub(super) pipes: Pipes,
}

/// A command beside the unit's own, which is killed with its group when nobody waits for it any more.
struct Aside(Running);

impl Drop for Aside {
    fn drop(&mut self) {
        // Nobody else reaps in this thread, so the pid is still its own.
        if self.0.ended.now().is_none() {
            kill_process_group(self.0.pid, Signal::KILL).ok();
        }
    }
}

impl Spawner {
    /// Starts what the unit is for.
    ///
    /// # Errors
    /// Why it does not run.
    pub(super) fn start(&self) -> Result<Running, String> {
        self.spawn(Role::Main, Some(&self.log), Reaper::watch)
    }

    /// Runs a hook to its end, with its output in the unit's log; nothing if none is declared. Dropped, it is killed.
    ///
    /// # Errors
    /// That it failed, and its last words.
    pub(super) async fn hook(&self, role: Role) -> Result<(), String> {
        if role.argv(&self.spec).is_empty() {
            return Ok(());
        }
        let done = self.run(role, Some(&self.log), HOOK_MAX).await;
        done.map_err(|why| format!("hook {role} {why}"))
    }

    /// Runs the command of the health check.
    ///
    /// # Errors
    /// That it failed, and its last words.
    pub(super) async fn check(&self, limit: Duration) -> Result<(), String> {
        let program = Role::Health.argv(&self.spec).first().cloned().unwrap_or_default();
        self.run(Role::Health, None, limit).await.map_err(|why| format!("`{program}` {why}"))
    }

    async fn run(&self, role: Role, log: Option<&SharedLog>, limit: Duration) -> Result<(), String> {
        let mut aside = Aside(self.spawn(role, log, Reaper::watch_whole)?);
        let ended = timeout(limit, aside.0.ended.end()).await;
        if ended.is_err() {
            kill_process_group(aside.0.pid, Signal::KILL).ok();
            aside.0.ended.end().await;
        }
        let words = aside.0.pipes.drain().await;
        let words = words.map_or_else(String::new, |words| format!(": {words}"));
        match ended {
            Ok(Ended::Exited(0)) => Ok(()),
            Ok(ended) => Err(format!("{ended}{words}")),
            Err(_) => Err(format!("was killed after {}{words}", humantime::format_duration(limit))),
        }
    }

    /// Starts the second stage and waits until it has become the command.
    fn spawn(
        &self,
        role: Role,
        log: Option<&SharedLog>,
        watch: impl FnOnce(&Reaper, Pid) -> Watched,
    ) -> Result<Running, String> {
        let failed = |error: io::Error| format!("the command cannot be started: {error}");
        let (mut report, theirs) = UnixStream::pair().map_err(failed)?;
        let mut child = stage(theirs, role).map_err(failed)?;
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the system gave out a bad pid")?;
        let ended = watch(&self.reaper, pid);
        let pipes = outputs(&mut child).and_then(|(out, err)| Pipes::start(out, err, log)).map_err(failed)?;
        // Blocks the shim for the few milliseconds of an exec; nothing else waits for it then.
        report.set_read_timeout(Some(STAGE)).map_err(failed)?;
        let mut why = String::new();
        match report.read_to_string(&mut why) {
            Ok(_) => match why.strip_prefix(GO) {
                Some("") => Ok(Running { pid, ended, pipes }),
                Some(why) => Err(why.to_owned()),
                None if why.is_empty() => Err("the command's first stage ended without a word".to_owned()),
                None => Err(why),
            },
            Err(error) => Err(format!(
                "the command was not started within {}: {error}",
                humantime::format_duration(STAGE)
            )),
        }
    }
}

fn stage(report: UnixStream, role: Role) -> io::Result<Child> {
    // The very program that runs now, even if its file was replaced since; the words it was started with, and some more.
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let shim = getpid().as_raw_nonzero().to_string();
    Process::new("/proc/self/exe")
        .args(words)
        .args(["--exec", &shim, "--role", role.as_str()])
        .env_clear()
        .stdin(OwnedFd::from(report))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn outputs(child: &mut Child) -> io::Result<(OwnedFd, OwnedFd)> {
    let missing = || io::Error::other("no pipe to the command");
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    Ok((stdout.into(), stderr.into()))
}
