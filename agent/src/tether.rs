//! Small parts that this program plays beside the agent: it ties another program to the agent's life, and tells `ssh` a password.

use std::{
    env,
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Names the file that holds the password, for [`tell_password`].
pub const PASSWORD_FILE: &str = "TOWLINE_SSH_PASSWORD_FILE";

/// What a program is tied to.
#[derive(Debug, clap::Args)]
pub struct TetherArgs {
    /// The process that it is not to outlive.
    agent: i32,
    /// The program and its words.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program, which the kernel ends when the agent ends, however that happens.
#[expect(clippy::print_stderr, reason = "the agent reads it, and tells it to a person")]
pub fn run(args: &TetherArgs) -> ExitCode {
    let Some((program, words)) = args.command.split_first() else { return ExitCode::FAILURE };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("cannot tie {} to the agent: {error}", program.display());
        return ExitCode::FAILURE;
    }
    // It may have ended before that, and then nobody will be told.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != args.agent) {
        return ExitCode::FAILURE;
    }
    let error = Command::new(program).args(words).exec();
    eprintln!("cannot run {}: {error}; install OpenSSH's client", program.display());
    ExitCode::FAILURE
}

/// Answers `ssh`, which asked for the password in `file`, if that is what it asked for; none if this process was not started for
/// that.
#[expect(clippy::print_stderr, reason = "ssh passes it on, and the agent tells it to a person")]
pub fn tell_password() -> Option<ExitCode> {
    let file = env::var_os(PASSWORD_FILE)?;
    let prompt = env::args().nth(1).unwrap_or_default();
    if prompt == "tether" {
        // What is tied, is to ask later.
        return None;
    }
    match password(&prompt, Path::new(&file)) {
        Ok(password) => {
            let told = std::io::stdout().write_all(&password);
            Some(if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(why) => {
            eprintln!("{why}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// The answer to `prompt`: the file's first line.
fn password(prompt: &str, file: &Path) -> Result<Vec<u8>, String> {
    let asked = prompt.to_lowercase();
    if !asked.contains("password") || asked.contains("passphrase") {
        // A password must not be told to whoever asks for something else.
        return Err(format!("ssh asks for something else than a password: {prompt}"));
    }
    let text = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut answer = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    answer.push(b'\n');
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_s1_a_password_is_told_to_whoever_asks_for_it_and_for_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "s3cret word\nsecond line\n").unwrap();
        for prompt in ["root@10.0.0.7's password: ", "(root@10.0.0.7) Password: "] {
            assert_eq!(password(prompt, &file), Ok(b"s3cret word\n".to_vec()));
        }
        for prompt in ["Enter passphrase for key '/key': ", "Are you sure (yes/no)? ", ""] {
            assert!(password(prompt, &file).is_err(), "{prompt}");
        }
        let missing = password("password: ", &dir.path().join("nowhere")).unwrap_err();
        assert!(missing.contains("nowhere"), "{missing}");
    }
}
