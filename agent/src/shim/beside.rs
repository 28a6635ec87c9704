//! The keeper of a command that runs beside the unit's own, for as long as somebody wants it.
//!
//! ```text
//! agent ─ spawns ─► keeper (own session, subreaper) ─ spawns ─► exec stage ─ becomes ─► the command
//! ```
//!
//! Whatever ends the command ends all that it started: the command itself, SIGTERM to the keeper, or the agent's end.

use std::{
    io,
    path::Path,
    process::{Child, Command, ExitCode},
    time::Duration,
};

use rustix::process::{Pid, Signal, getpid, getppid, set_child_subreaper, setsid};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::interval,
};

use super::{complain, reaper::Reaper, state::Ended, sweep::sweep};

/// Between two looks whether the agent is still there: it takes no command along that it could not tell of.
const LOOK: Duration = Duration::from_millis(500);

/// Keeps the command that this process was started for, beside the unit in `dir`; ends as it does.
pub(super) fn keep(dir: &Path, agent: i32) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(attend(agent))) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(dir, &error);
            ExitCode::FAILURE
        }
    }
}

async fn attend(agent: i32) -> io::Result<u8> {
    // Signals to the agent's group are not meant for what it runs.
    setsid().ok();
    set_child_subreaper(Some(getpid()))?;
    let mut tasks = JoinSet::new();
    let reaper = Reaper::start(&mut tasks)?;
    let mut term = signal(SignalKind::terminate())?;
    let child = stage()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut command = reaper.watch(pid.ok_or_else(|| io::Error::other("the command has no process id"))?);
    let mut looks = interval(LOOK);
    let gone = async {
        while getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == agent) {
            looks.tick().await;
        }
    };
    tokio::select! {
        _ = command.end() => {}
        _ = term.recv() => {}
        () = gone => {}
    }
    sweep(&reaper).await.map_err(io::Error::other)?;
    tasks.shutdown().await;
    let ended = command.now().unwrap_or(Ended::Signaled(Signal::KILL.as_raw()));
    Ok(match ended {
        Ended::Exited(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        Ended::Signaled(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        Ended::NotStarted(_) | Ended::Lost => u8::MAX,
    })
}

/// The second stage, by the words that this process was started with, and with its standard streams.
fn stage() -> io::Result<Child> {
    let keeper = getpid().as_raw_nonzero().to_string();
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let command = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (words, command) = words.split_at(command);
    Command::new("/proc/self/exe").args(words).args(["--exec", &keeper]).args(command).env_clear().spawn()
}
