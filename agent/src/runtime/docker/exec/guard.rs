//! The guard of a command: a shell beside it in the container, which ends it when nobody wants it any more.
//!
//! ```text
//! agent ─ holds ─► the guard's input ─ a word: the command has ended ─► the guard goes
//!                                    └ its end, without a word ──────► it kills what bears the mark
//! ```
//!
//! The engine ends a guard's input when the connection to it ends, whatever ended that: so a command ends also with an agent that
//! is killed, and with a host that nobody reaches any more.

use bollard::models::ExecConfig;
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::{Input, Output};
use crate::runtime::docker::{engine::Refusal, host::DockerHost};

/// What a guard hears when its command has ended.
const WORD: &[u8] = b"over\n";

/// Waits for the word, or for the end of the input.
const WAIT: &str = r#"
read -r word
[ "$word" = over ] && exit 0
"#;

/// Kills what bears in its environment an entry like `$1` (the instance: with `pidMode: host` others' commands are seen, too) and
/// one like `$2`, but none like `$3`, if that is there; until none is left that could have started another. A newline in an entry
/// is read as a space, so that what matches begins where an entry does.
const KILL: &str = r#"
command -v grep >/dev/null && command -v tr >/dev/null || exit 127
bears() {
    tr '\000\n' '\n ' 2>/dev/null <"$file" | grep -q -e "$1"
}
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for file in /proc/[0-9]*/environ; do
        grep -q TOWLINE_EXEC "$file" 2>/dev/null || continue
        bears "$1" && bears "$2" || continue
        [ -n "$3" ] && bears "$3" && continue
        pid=${file#/proc/}
        kill -9 "${pid%/environ}" 2>/dev/null && found=1
    done
    [ -n "$found" ] || exit 0
done
exit 1
"#;

/// Entries of an environment, `NAME=value` each.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entries<'a> {
    /// This one.
    One(&'a str),
    /// All that begin so.
    Beginning(&'a str),
}

impl Entries<'_> {
    /// As `grep` has it.
    fn pattern(self) -> String {
        let (text, end) = match self {
            Self::One(text) => (text, "$"),
            Self::Beginning(text) => (text, ""),
        };
        let literal = |letter: char| {
            let escape = if matches!(letter, '.' | '*' | '[' | '\\' | '^' | '$') { "\\" } else { "" };
            format!("{escape}{letter}")
        };
        format!("^{}{end}", text.chars().map(literal).collect::<String>())
    }
}

/// A guard that stands.
pub(super) struct Guard {
    exec: String,
    output: Output,
    input: Input,
}

impl Guard {
    /// Has a guard stand over what bears `mark` (`NAME=value`).
    ///
    /// # Errors
    /// What the engine said. A container without a shell is none: [`Guard::strike`] says so.
    pub(super) async fn begin(host: &DockerHost, container: &str, mark: &str) -> Result<Self, Refusal> {
        let arguments = [host.own_entry(), Entries::One(mark).pattern()];
        let config = ExecConfig { attach_stdin: Some(true), ..shell(&[WAIT, KILL].concat(), arguments) };
        let (exec, output, input) = host.start_exec(container, config).await?;
        Ok(Self { exec, output, input })
    }

    /// Its command has ended; what that left in the background stays.
    pub(super) async fn dismiss(mut self) {
        // One that has gone need not hear it.
        if self.input.write_all(WORD).await.is_ok() && self.input.flush().await.is_ok() {
            self.input.shutdown().await.ok();
        }
    }

    /// Ends the command with all that it started.
    ///
    /// # Errors
    /// That it cannot: there is no shell, or the engine does not answer.
    pub(super) async fn strike(mut self, host: &DockerHost) -> Result<(), Refusal> {
        // Where that fails, it has ended already.
        self.input.shutdown().await.ok();
        killed(host, &self.exec, self.output).await
    }
}

/// Kills what bears `marked` in a container and does not bear `spared`, now; other instances' commands are none of it.
///
/// # Errors
/// As [`Guard::strike`].
pub(super) async fn kill(
    host: &DockerHost,
    container: &str,
    marked: Entries<'_>,
    spared: Option<Entries<'_>>,
) -> Result<(), Refusal> {
    let spared = spared.map(Entries::pattern).unwrap_or_default();
    let arguments = [host.own_entry(), marked.pattern(), spared];
    let (exec, output, _input) = host.start_exec(container, shell(KILL, arguments)).await?;
    killed(host, &exec, output).await
}

impl DockerHost {
    /// What all commands of the instance have in their environment, from their containers, as `grep` has it.
    fn own_entry(&self) -> String {
        Entries::One(&self.instance_mark()).pattern()
    }
}

/// A script with its arguments, as root: the command may have become somebody else.
fn shell(script: &str, arguments: impl IntoIterator<Item = String>) -> ExecConfig {
    let words = ["sh", "-c", script, "sh"].map(str::to_owned).into_iter().chain(arguments);
    ExecConfig {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(words.collect()),
        user: Some("0".to_owned()),
        ..ExecConfig::default()
    }
}

async fn killed(host: &DockerHost, exec: &str, mut output: Output) -> Result<(), Refusal> {
    while output.next().await.is_some() {}
    match host.exec_ended(exec).await? {
        0 => Ok(()),
        code => Err(Refusal::Said { status: 0, message: format!("exit code {code}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_matched_as_they_are_spelled() {
        assert_eq!(Entries::One("A=b.c/d-e").pattern(), r"^A=b\.c/d-e$");
        assert_eq!(Entries::Beginning("A=[$*\\^").pattern(), r"^A=\[\$\*\\\^");
    }
}
