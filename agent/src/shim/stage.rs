//! The second stage: a fresh process that prepares itself and then becomes a command of the unit.
//!
//! Standard input is the report channel. It carries [`GO`] and is closed by exec when the command runs; anything else says
//! why it does not. The environment is the shim's, so that nothing in a unit's can mislead the stage itself.

use std::{
    fs::File,
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use rustix::{
    fs::Mode,
    process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid, umask},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use super::{
    file_op::{FileAnswer, FileOp},
    role::Role,
    spec::{RunAs, ShimSpec},
};

/// What is reported right before the command takes over.
pub(super) const GO: &str = "go\n";

/// Exit codes of what is not executed, as shells have them.
const NO_SUCH_PROGRAM: u8 = 127;
const CANNOT_EXECUTE: u8 = 126;

const NOT_THE_USER: &str = "cannot become the declared user (the agent needs to be root for that)";

/// Becomes a command of the unit in `dir`, on behalf of the shim with pid `shim`. Returns only on failure.
pub(super) fn exec(dir: &Path, shim: i32, role: Role) -> ExitCode {
    // Moved off standard input, which the command gets empty; close-on-exec is what reports success.
    let Ok(report) = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3) else {
        return ExitCode::FAILURE;
    };
    let mut report = File::from(report);
    let why = match prepare(dir, shim) {
        Ok(spec) => {
            report.write_all(GO.as_bytes()).ok();
            become_command(&spec, role.argv(&spec), Stdio::null()).why
        }
        Err(why) => why,
    };
    // If the shim is gone, there is nobody to tell.
    report.write_all(why.as_bytes()).ok();
    ExitCode::FAILURE
}

/// Becomes another command beside the unit in `dir`, on behalf of the process with pid `keeper`, with the standard streams that
/// it was given. Returns only on failure: says why where the command would have complained.
pub(super) fn exec_beside(dir: &Path, keeper: i32, argv: &[String]) -> ExitCode {
    let failed = match prepare(dir, keeper) {
        Ok(spec) => become_command(&spec, argv, Stdio::inherit()),
        Err(why) => Failed { why, code: CANNOT_EXECUTE },
    };
    // Nobody may be there to read it any more.
    writeln!(io::stderr(), "towline: {}", failed.why).ok();
    ExitCode::from(failed.code)
}

/// Does something with a file as the user of the unit in `dir` would. Content comes and goes by the standard streams.
pub(super) fn at_file(dir: &Path, op: &str) -> ExitCode {
    let (answer, content) = match as_user(dir, op) {
        Ok(done) => done,
        Err(why) => (FileAnswer::Failed { why }, Vec::new()),
    };
    // Who does not hear the answer counts it as a failure.
    match answer.tell(&content, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn as_user(dir: &Path, op: &str) -> Result<(FileAnswer, Vec<u8>), String> {
    let spec = ShimSpec::read(dir).map_err(|error| format!("its specification is not readable: {error}"))?;
    let op: FileOp = serde_json::from_str(op).map_err(|error| format!("not understood: {error}"))?;
    let content = op.content(&mut io::stdin().lock()).map_err(|error| text(&error))?;
    if let Some(run_as) = &spec.run_as {
        switch_user(run_as).map_err(|error| format!("{NOT_THE_USER}: {}", text(&error.into())))?;
    }
    Ok(op.perform(content))
}

fn prepare(dir: &Path, shim: i32) -> Result<ShimSpec, String> {
    let spec = ShimSpec::read(dir).map_err(|error| format!("its specification is not readable: {error}"))?;
    let failed =
        |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {}", text(&error.into()));
    // A session of its own is a process group of its own: what is signalled and killed as a whole.
    setsid().map_err(failed("cannot start a session"))?;
    std::env::set_current_dir(&spec.dir).map_err(|error| {
        format!("cannot enter the working directory {}: {}", spec.dir.display(), text(&error))
    })?;
    umask(Mode::from_raw_mode(spec.umask));
    // Before the change of user, who may not.
    spec.bounds.enter().map_err(|error| format!("cannot be held to its resources: {}", text(&error)))?;
    if let Some(run_as) = &spec.run_as {
        switch_user(run_as).map_err(failed(NOT_THE_USER))?;
    }
    // After the change of user, which would clear it again.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("cannot bind its life to the supervisor's"))?;
    // The shim may have died before the signal was armed: then nobody stands over us.
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|parent| parent.get() != shim) {
        return Err("its supervisor has gone".to_owned());
    }
    Ok(spec)
}

fn switch_user(run_as: &RunAs) -> rustix::io::Result<()> {
    use rustix::{
        fs::{Gid, Uid},
        process::{getegid, geteuid},
    };
    if !geteuid().is_root() && geteuid().as_raw() == run_as.uid && getegid().as_raw() == run_as.gid {
        // Already so; an agent without rights may say who it is.
        return Ok(());
    }
    let groups: Vec<Gid> = run_as.groups.iter().copied().map(Gid::from_raw).collect();
    // This process has one thread, so its rights are the thread's.
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(run_as.gid))?;
    set_thread_uid(Uid::from_raw(run_as.uid))
}

/// Why a command did not take over, and the exit code that says so.
struct Failed {
    why: String,
    code: u8,
}

fn become_command(spec: &ShimSpec, argv: &[String], stdin: Stdio) -> Failed {
    let Some((program, args)) = argv.split_first() else {
        return Failed { why: "the command is empty".to_owned(), code: CANNOT_EXECUTE };
    };
    let error = Command::new(program).args(args).env_clear().envs(&spec.env).stdin(stdin).exec();
    let by_path = program.contains('/');
    let why = match error.kind() {
        io::ErrorKind::NotFound if by_path && Path::new(program).exists() => {
            format!("command `{program}` names an interpreter (#! or loader) that does not exist")
        }
        io::ErrorKind::NotFound if by_path => format!("command `{program}` does not exist"),
        io::ErrorKind::NotFound => {
            let path = spec.env.get("PATH").map_or("", String::as_str);
            format!("command `{program}` not found in PATH ({path})")
        }
        io::ErrorKind::PermissionDenied => {
            format!("command `{program}` may not be executed: {}", text(&error))
        }
        _ => format!("command `{program}` cannot be executed: {}", text(&error)),
    };
    let code = if error.kind() == io::ErrorKind::NotFound { NO_SUCH_PROGRAM } else { CANNOT_EXECUTE };
    Failed { why, code }
}

/// The error in the house's style: lower case, with its number for those who look it up.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}
