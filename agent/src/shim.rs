//! The supervisor that stands over each unit, so that units, their logs and their exit status outlive the agent.
//!
//! ```text
//! agent ─ spawns ─► shim (own session, subreaper) ─ spawns ─► exec stage ─ becomes ─► the unit's command
//!   ▲                 │ owns stdout and stderr, logs, restarts, state.json
//!   └── shim.sock ────┘ states out, one JSON line each; commands in
//! ```
//!
//! In: a unit directory with `spec.json`, and as standard input a listening socket (or none: then it binds its own).
//! Out: `state.json`, `logs/`, and states on the socket. It ends when the unit is stopped or has ended for good; the
//! last state stays in `state.json`.
//!
//! The command is started by a second stage of the same program, because what must happen between fork and exec
//! (session, umask, user, death signal) takes unsafe code there, and is a few safe calls in a process of its own.

mod beside;
mod bounds;
mod checks;
mod file_op;
mod link;
mod logs;
mod pipes;
mod policy;
mod reaper;
mod role;
mod spawn;
mod spec;
mod stage;
mod state;
mod supervise;
mod sweep;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(crate) use self::bounds::{Bounds, Group};
pub(crate) use self::file_op::{FileAnswer, FileOp};
pub(crate) use self::link::bind;
pub(crate) use self::logs::{LOG_DIR, segments};
pub use self::logs::{LogLine, LogStream, ParseLogLineError};
pub use self::role::Role;
pub(crate) use self::spec::{HOOK_MAX, RestartRule, RunAs, ShimHealth, ShimProbe, ShimSpec, write_durably};
pub use self::state::{Ended, Status, UnitState};
pub(crate) use self::sweep::sweep_marked;
pub use crate::health::Health;

/// Name of the socket in a unit directory.
pub(crate) const SOCKET: &str = "shim.sock";

/// Arguments of the `shim` subcommand; embed it in any program that starts shims by its own name.
#[derive(Debug, Clone, clap::Args)]
pub struct ShimArgs {
    /// Directory of the unit.
    pub dir: PathBuf,
    /// Become the unit's command (the second stage; set by the shim itself).
    #[arg(long, hide = true, value_name = "SHIM_PID")]
    pub exec: Option<i32>,
    /// Keep a command that runs beside the unit's, for an agent.
    #[arg(long, hide = true, value_name = "AGENT_PID")]
    pub beside: Option<i32>,
    /// Do something with a file as the unit's user, for an agent.
    #[arg(long, hide = true, value_name = "JSON")]
    pub file: Option<String>,
    /// The command that runs beside the unit's.
    #[arg(last = true, hide = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Which command of the unit that is.
    #[arg(long, hide = true, value_enum, default_value_t)]
    pub role: Role,
}

/// Runs a shim, or its second stage, until the unit has ended. Blocks; call it from `main` before anything else, in
/// particular before any thread is started.
pub fn run(args: &ShimArgs) -> ExitCode {
    match (args.exec, &args.file, args.command.as_slice()) {
        (Some(shim), _, []) => return stage::exec(&args.dir, shim, args.role),
        (Some(keeper), _, argv) => return stage::exec_beside(&args.dir, keeper, argv),
        (None, Some(op), _) => return stage::at_file(&args.dir, op),
        (None, None, _) => {}
    }
    if let Some(agent) = args.beside {
        return beside::keep(&args.dir, agent);
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(supervise::supervise(&args.dir)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the unit's `shim.err`, or the terminal of someone who tries a shim by hand.
            complain(&args.dir, &error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a process of its own, with nobody else to tell")]
fn complain(dir: &Path, error: &io::Error) {
    eprintln!("shim of {}: {error}", dir.display());
}

/// What the agent may ask of a shim; one JSON line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Command {
    /// End the unit: signal, grace period, kill.
    Stop,
}

impl Command {
    /// None of what is no command: a newer agent may know more of them.
    fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// Reads a line from the socket and writes the command again; none when it is none.
#[must_use]
pub fn reread_command(line: &str) -> Option<String> {
    serde_json::to_string(&Command::read(line)?).ok()
}

/// A path for `name` in the open directory `dir` that fits a socket address, however long the directory's own path.
pub(crate) fn short_path(dir: &std::fs::File, name: &str) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}
