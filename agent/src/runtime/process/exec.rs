//! Commands that run beside a unit, each under a keeper that ends with the agent (see `shim/beside.rs`).

use std::{io, process::Stdio, sync::Arc};

use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{ProcessRuntime, RuntimeError, unit::Unit};
use crate::{
    runtime::exec::{ENDING, Exec, ExecEvent, ExecSpec, PIECE, QUEUE},
    shim::{LogStream, UnitState},
};

type Events = mpsc::Sender<Result<ExecEvent, RuntimeError>>;

impl ProcessRuntime {
    /// Runs a command beside the unit's own; it ends with that.
    ///
    /// # Errors
    /// That there is no such unit, that it does not run, or that no keeper can be started.
    pub async fn exec(&self, unit: &str, spec: ExecSpec) -> Result<Exec, RuntimeError> {
        let _turn = self.mark().turn().await?;
        let unit = self.find(unit)?;
        // From here on whoever stops the unit waits for us.
        let token = unit.execs.token();
        let states = unit.state.subscribe();
        let run = run_of(&states.borrow());
        if run.is_none() {
            return Err(RuntimeError::NotRunning { unit: unit.id().to_owned() });
        }
        let child = self
            .keeper(&unit, &spec)
            .map_err(|error| RuntimeError::io("cannot start a keeper for the command", error))?;
        let (events, receiver) = mpsc::channel(QUEUE);
        let stopping = self.inner.tasks.stopping().clone();
        let kept = Kept { child, states, run, events, stopping, _token: token };
        self.inner.tasks.spawn_isolated("exec", kept.attend(spec.stdin));
        Ok(Exec::new(receiver))
    }

    fn keeper(&self, unit: &Arc<Unit>, spec: &ExecSpec) -> io::Result<Child> {
        let stdin = if spec.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut command = self.shim_command(unit)?;
        command.args(["--beside", &std::process::id().to_string(), "--"]).args(&spec.argv);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

/// The run of a unit, while it runs.
fn run_of(state: &UnitState) -> Option<(i32, Option<u64>)> {
    state.pid.map(|pid| (pid, state.start_time))
}

/// A keeper under way.
struct Kept {
    child: Child,
    states: watch::Receiver<UnitState>,
    run: Option<(i32, Option<u64>)>,
    events: Events,
    stopping: CancellationToken,
    _token: TaskTrackerToken,
}

impl Kept {
    async fn attend(mut self, stdin: Option<mpsc::Receiver<Bytes>>) {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let events = self.events.clone();
        // Both end with the keeper, and with nothing before.
        let mut reading = std::pin::pin!(async {
            tokio::join!(
                forward(stdout, LogStream::Stdout, &events),
                forward(stderr, LogStream::Stderr, &events)
            )
        });
        let fed = feed(stdin, self.child.stdin.take());
        let (states, run) = (&mut self.states, self.run);
        let over = async { drop(states.wait_for(|state| run_of(state) != run).await) };
        tokio::select! {
            _ = &mut reading => {}
            () = over => {
                terminate(&self.child);
                tokio::select! {
                    _ = &mut reading => {}
                    () = self.events.closed() => {}
                    () = self.stopping.cancelled() => {}
                }
            }
            () = self.events.closed() => terminate(&self.child),
            () = self.stopping.cancelled() => terminate(&self.child),
            () = fed => {}
        }
        let end = end(&mut self.child).await;
        tokio::select! {
            // Nobody need be there to hear it.
            _ = self.events.send(end) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

async fn forward(from: Option<impl AsyncRead + Unpin>, stream: LogStream, events: &Events) {
    let Some(mut from) = from else { return };
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        match from.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if events.send(Ok(ExecEvent::Output(stream, piece.freeze()))).await.is_err() {
            return;
        }
    }
}

/// Writes what the command is to read; never returns, for a command may go on after that.
async fn feed(from: Option<mpsc::Receiver<Bytes>>, to: Option<ChildStdin>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        while let Some(bytes) = from.recv().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}

/// Asks the keeper to end the command with all that it started.
fn terminate(keeper: &Child) {
    let pid = keeper.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Not waited for yet, so the pid is its own still.
        kill_process(pid, Signal::TERM).ok();
    }
}

async fn end(keeper: &mut Child) -> Result<ExecEvent, RuntimeError> {
    let unknown =
        |reason: String| RuntimeError::Unknown { runtime: "the command's keeper".to_owned(), reason };
    let waited = match timeout(ENDING, keeper.wait()).await {
        Ok(waited) => waited,
        Err(_) => {
            // The command dies with it.
            keeper.start_kill().ok();
            keeper.wait().await
        }
    };
    let status = waited.map_err(|error| unknown(error.to_string()))?;
    status.code().map(ExecEvent::Ended).ok_or_else(|| unknown(format!("it ended with {status}")))
}
