//! Commands that run in a container.
//!
//! The engine has no call that ends one, and one whose caller went away goes on. So each bears a mark in its environment, by
//! which it is found and killed with all that it started: by a guard in the container, if that has a shell (`exec/guard.rs`), else
//! from this host if the engine is on it. What a guard did not end, the next agent does (`exec/left.rs`).

mod guard;
pub(super) mod left;

use std::{pin::Pin, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    errors::Error,
    exec::{StartExecOptions, StartExecResults},
    models::ExecConfig,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::guard::{Entries, Guard};
use super::{
    engine::{QUICK, Refusal},
    host::{DockerHost, Seen},
};
use crate::{
    proc::{self, INSTANCE_MARK, Process},
    runtime::{
        RuntimeError,
        exec::{ENDING, Exec, ExecEvent, ExecSpec, PIECE, QUEUE},
    },
    shim::LogStream,
};

/// Environment variable that every process of a command bears: which command it is.
const MARK: &str = "TOWLINE_EXEC";

/// Another: which runtime began it, and which time.
const OWN: &str = "TOWLINE_EXEC_RUN";

/// Between two looks whether a command has ended whose output has: at first, and at most.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The exit code of what went with its container: SIGKILL.
const KILLED: i32 = 128 + 9;

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;
type Events = mpsc::Sender<Result<ExecEvent, RuntimeError>>;

impl DockerHost {
    /// Runs a command in a unit's container.
    ///
    /// # Errors
    /// That there is no such unit, that it does not run, or what the engine said.
    pub(super) async fn exec(&self, unit: &str, spec: ExecSpec) -> Result<Exec, RuntimeError> {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        self.exec_marked(&self.find(unit)?, spec, &mark).await
    }

    /// The same, with a mark that is known beforehand: [`DockerHost::kill_marked`] ends what bears it. `mark` is nobody else's.
    ///
    /// # Errors
    /// As [`DockerHost::exec`].
    pub(super) async fn exec_marked(
        &self,
        seen: &Seen,
        spec: ExecSpec,
        mark: &str,
    ) -> Result<Exec, RuntimeError> {
        let unit = &seen.status.unit;
        // The second is this one's alone: a hook bears the first once more when it is done again.
        let own = format!("{OWN}={}.{}", self.inner.run, uuid::Uuid::new_v4().simple());
        let marks = vec![format!("{MARK}={mark}"), own.clone()];
        let config = ExecConfig {
            attach_stdin: Some(spec.stdin.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(spec.argv),
            env: Some(marks),
            ..ExecConfig::default()
        };
        let refused = |refusal| match refusal {
            Refusal::NotFound(_) => RuntimeError::NotFound { unit: unit.clone() },
            // Not running, paused, or about to be started again.
            Refusal::Said { status: 409, .. } => RuntimeError::NotRunning { unit: unit.clone() },
            refusal => refusal.of("cannot run a command"),
        };
        // At the same time: a guard costs no time, then.
        let (guard, started) =
            tokio::join!(Guard::begin(self, &seen.container, &own), self.start_exec(&seen.container, config));
        let (id, output, input) = started.map_err(refused)?;
        let guard =
            guard.inspect_err(|why| tracing::debug!(container = seen.container, ?why, "no guard")).ok();
        let (events, receiver) = mpsc::channel(QUEUE);
        let command = Command { host: self.clone(), id, container: seen.container.clone(), own, events };
        let stopping = self.inner.tasks.stopping().clone();
        self.inner.tasks.spawn_isolated("exec", command.attend((output, input), spec.stdin, guard, stopping));
        Ok(Exec::new(receiver))
    }

    /// Through [`DockerHost::change`]: what a command does in its unit is a change as any other, and may take a while to be begun.
    async fn start_exec(
        &self,
        container: &str,
        config: ExecConfig,
    ) -> Result<(String, Output, Input), Refusal> {
        let create = async |client: Docker| client.create_exec(container, config).await;
        let id = self.change(create).await?.id;
        let start = async |client: Docker| client.start_exec(&id, None::<StartExecOptions>).await;
        match self.change(start).await? {
            StartExecResults::Attached { output, input } => Ok((id, output, input)),
            StartExecResults::Detached => Err(Refusal::Silent("it does not show what it runs".to_owned())),
        }
    }

    /// Waits for the end of a command; its exit code.
    async fn exec_ended(&self, exec: &str) -> Result<i32, Refusal> {
        let mut pause = PAUSE;
        loop {
            if let Some(code) = self.exit_code(exec).await? {
                return Ok(code);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The exit code of a command that has ended; none of one that runs.
    async fn exit_code(&self, exec: &str) -> Result<Option<i32>, Refusal> {
        let question = async |client: Docker| client.inspect_exec(exec).await;
        match self.inner.engine.ask(QUICK, question).await {
            Ok(found) if found.running == Some(true) => Ok(None),
            Ok(found) => Ok(found.exit_code.and_then(|code| code.try_into().ok())),
            Err(Refusal::NotFound(_)) => Ok(Some(KILLED)),
            Err(refusal) => Err(refusal),
        }
    }
}

/// A command under way.
struct Command {
    host: DockerHost,
    id: String,
    container: String,
    /// The mark that nothing else bears.
    own: String,
    events: Events,
}

impl Command {
    async fn attend(
        self,
        (output, input): (Output, Input),
        stdin: Option<mpsc::Receiver<Bytes>>,
        guard: Option<Guard>,
        stopping: CancellationToken,
    ) {
        let work = async {
            tokio::select! {
                read = forward(output, &self.events) => read?,
                () = feed(stdin, input) => {}
            }
            self.end().await
        };
        let end = tokio::select! {
            end = work => end,
            () = self.events.closed() => return self.kill(guard).await,
            () = stopping.cancelled() => return self.kill(guard).await,
        };
        if let (Ok(_), Some(guard)) = (&end, guard) {
            guard.dismiss().await;
        }
        tokio::select! {
            // Nobody need be there to hear it.
            _ = self.events.send(end) => {}
            () = stopping.cancelled() => {}
        }
    }

    /// Waits for the end.
    async fn end(&self) -> Result<ExecEvent, RuntimeError> {
        let ended = self.host.exec_ended(&self.id).await;
        ended.map(ExecEvent::Ended).map_err(|refusal| refusal.of("cannot tell how the command ended"))
    }

    /// Ends it with all that it started. No right is needed for that: who is not heard any more ends what he began, too.
    async fn kill(&self, guard: Option<Guard>) {
        let ended = timeout(ENDING, async {
            let struck = match guard {
                Some(guard) => guard.strike(&self.host).await,
                None => Err(Refusal::Silent("it has no guard".to_owned())),
            };
            if struck.is_err() {
                // The mark is random: on another host than the engine's nobody bears it.
                let own = self.own.clone();
                kill_from_here(move || proc::carriers(&own)).await;
            }
            self.end().await
        });
        if !matches!(ended.await, Ok(Ok(_))) {
            tracing::warn!(
                container = self.container,
                "a command that nobody wants any more cannot be ended: its image has no shell, and this is not its host"
            );
        }
    }
}

impl DockerHost {
    /// What every process of a container of the instance has in its environment.
    fn instance_mark(&self) -> String {
        format!("{INSTANCE_MARK}={}", self.inner.instance)
    }

    /// Kills what bears the mark of a command, if anything does.
    pub(super) async fn kill_marked(&self, container: &str, mark: &str) {
        let (instance, mark) = (self.instance_mark(), format!("{MARK}={mark}"));
        let killed = async {
            if guard::kill(self, container, Entries::One(&mark), None).await.is_err() {
                let is_meant = move |environment: &[&[u8]]| {
                    [&instance, &mark].into_iter().all(|entry| environment.contains(&entry.as_bytes()))
                };
                kill_from_here(move || proc::bearing(&is_meant)).await;
            }
        };
        if timeout(ENDING, killed).await.is_err() {
            tracing::warn!(container, "what is left of an earlier command cannot be ended");
        }
    }
}

/// Kills whom a look at this host finds, until it finds nobody who could have started another.
async fn kill_from_here(look: impl Fn() -> Vec<Process> + Send + 'static) {
    let looked = tokio::task::spawn_blocking(move || {
        // What it starts between two looks is seen by the second.
        for _ in 0..10 {
            let found = look();
            if found.is_empty() {
                break;
            }
            // One that cannot be killed is what the engine still shows as running.
            found.into_iter().for_each(|process| drop(proc::kill(process)));
        }
    });
    looked.await.ok();
}

/// Passes on what a command writes, to its end.
///
/// # Errors
/// That there is more, and it cannot be read. Without a guard's word the command ends then.
async fn forward(mut output: Output, events: &Events) -> Result<(), RuntimeError> {
    while let Some(output) = output.next().await {
        let output =
            output.map_err(|error| Refusal::from(error).of("cannot read what the command writes"))?;
        let (stream, mut bytes) = match output {
            LogOutput::StdErr { message } => (LogStream::Stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => (LogStream::Stdout, message),
            LogOutput::StdIn { .. } => continue,
        };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            if events.send(Ok(ExecEvent::Output(stream, piece))).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Writes what the command is to read; never returns, for a command may go on after that.
async fn feed(from: Option<mpsc::Receiver<Bytes>>, mut to: Input) {
    if let Some(mut from) = from {
        while let Some(bytes) = from.recv().await {
            if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                break;
            }
        }
        // The command sees the end of its input.
        to.shutdown().await.ok();
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn output_that_is_cut_off_is_no_end() {
        let (events, mut receiver) = mpsc::channel(QUEUE);
        let piece = LogOutput::StdOut { message: Bytes::from_static(b"one") };
        let cut = Error::IOError { err: std::io::ErrorKind::ConnectionReset.into() };
        let read = forward(Box::pin(stream::iter([Ok(piece.clone()), Err(cut), Ok(piece)])), &events).await;
        assert!(matches!(read, Err(RuntimeError::Unknown { .. })), "{read:?}");
        drop(events);
        let told = receiver.recv().await.unwrap().unwrap();
        assert_eq!(told, ExecEvent::Output(LogStream::Stdout, Bytes::from_static(b"one")));
        assert!(receiver.recv().await.is_none(), "nothing that comes after what is missing");
    }
}
