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

/// Kills all that bears the mark `$1`, but nobody who bears `$2`, if that is there, until none is left that could have started
/// another.
const KILL: &str = r#"
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for file in /proc/[0-9]*/environ; do
        if grep -q "$1" "$file" 2>/dev/null; then
            [ -n "$2" ] && grep -q "$2" "$file" 2>/dev/null && continue
            pid=${file#/proc/}
            kill -9 "${pid%/environ}" 2>/dev/null && found=1
        fi
    done
    [ -n "$found" ] || exit 0
done
exit 1
"#;

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
        let config = ExecConfig { attach_stdin: Some(true), ..shell(&[WAIT, KILL].concat(), &[mark]) };
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

/// Kills what bears `marked` in a container and does not bear `spared` (each the beginning of `NAME=value`), now.
///
/// # Errors
/// As [`Guard::strike`].
pub(super) async fn kill(
    host: &DockerHost,
    container: &str,
    marked: &str,
    spared: &str,
) -> Result<(), Refusal> {
    let (exec, output, _input) = host.start_exec(container, shell(KILL, &[marked, spared])).await?;
    killed(host, &exec, output).await
}

/// A script with its arguments, as root: the command may have become somebody else.
fn shell(script: &str, arguments: &[&str]) -> ExecConfig {
    let words = ["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
    ExecConfig {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(words.map(str::to_owned).collect()),
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
