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
    role::Role,
    spec::{RunAs, ShimSpec},
};

/// What is reported right before the command takes over.
pub(super) const GO: &str = "go\n";

/// Becomes a command of the unit in `dir`, on behalf of the shim with pid `shim`. Returns only on failure.
pub(super) fn exec(dir: &Path, shim: i32, role: Role) -> ExitCode {
    // Moved off standard input, which the command gets empty; close-on-exec is what reports success.
    let Ok(report) = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3) else {
        return ExitCode::FAILURE;
    };
    let mut report = File::from(report);
    let why = match prepare(dir, shim) {
        Ok(spec) => become_command(&spec, role.argv(&spec), &mut report),
        Err(why) => why,
    };
    // If the shim is gone, there is nobody to tell.
    report.write_all(why.as_bytes()).ok();
    ExitCode::FAILURE
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
        switch_user(run_as)
            .map_err(failed("cannot become the declared user (the agent needs to be root for that)"))?;
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

fn become_command(spec: &ShimSpec, argv: &[String], report: &mut File) -> String {
    let Some((program, args)) = argv.split_first() else { return "the command is empty".to_owned() };
    report.write_all(GO.as_bytes()).ok();
    let error = Command::new(program).args(args).env_clear().envs(&spec.env).stdin(Stdio::null()).exec();
    let by_path = program.contains('/');
    match error.kind() {
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
    }
}

/// The error in the house's style: lower case, with its number for those who look it up.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}
