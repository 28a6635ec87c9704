//! The life of one unit: start, watch, decide, start again or end.
//!
//! ```text
//! starting ─► started ─► (ended) ─► decide ─► error, waiting ─► starting …
//!                │ stop                 └────► stopped / error   (final)
//!                └──► signal ─► grace ─► kill ─► stopped         (final)
//! ```

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::FutureExt as _;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, getpid, kill_process_group, set_child_subreaper, setsid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, Interval, interval, sleep, timeout_at},
};

use super::{
    Command, SOCKET, link,
    logs::LogWriter,
    pipes::{Pipes, SharedLog},
    policy::{Decision, History, decide},
    reaper::Reaper,
    spec::ShimSpec,
    stage::GO,
    state::{Ended, Status, UnitState},
    sweep::{group_lives, sweep},
};
use crate::{manifest::StopSignal, proc};

/// How long the second stage may take to become the command.
const STAGE: Duration = Duration::from_secs(10);
/// Between two looks whether the unit's directory is still there.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks whether a stopped group has gone.
const PAUSE: Duration = Duration::from_millis(10);

/// Supervises the unit in `dir` until it has ended for good.
///
/// # Errors
/// When supervision cannot begin: specification, socket or log are not accessible.
pub(super) async fn supervise(dir: &Path) -> io::Result<()> {
    let spec = ShimSpec::read(dir)?;
    // Fails where the shim leads a session already, which is as good.
    setsid().ok();
    set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;
    let bounds = spec.bounds.clone();
    bounds.make()?;
    let listener = link::listener(dir)?;
    let log = LogWriter::open(dir, spec.log_max_size, spec.log_max_files)?;
    let own = proc::inspect(getpid()).map(|own| (own.pid.as_raw_nonzero().get(), own.start_time));
    let first = UnitState { shim: own, ..UnitState::new(Status::Starting, Timestamp::now()) };
    let (states, receiver) = watch::channel(first);
    // Commands are few and answered at once; more than these wait in the socket.
    let (sender, commands) = mpsc::channel(4);
    let link = link::Link::start(listener, receiver, sender);
    let life = Life {
        dir: dir.to_owned(),
        spec,
        log: Arc::new(Mutex::new(log)),
        reaper: Reaper::new()?,
        stop: StopRequests {
            commands,
            signal: signal(SignalKind::terminate())?,
            dir: dir.to_owned(),
            looks: interval(LOOK),
        },
        states,
    };
    let states = life.run().await;
    // Nobody is in them any more.
    bounds.remove();
    drop(states);
    link.finish().await;
    match std::fs::remove_file(dir.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Those who may ask for the end: the agent by command, anyone else by SIGTERM to the shim, or by removing the unit's
/// directory: without its label no agent would ever find the unit again.
struct StopRequests {
    commands: mpsc::Receiver<Command>,
    signal: tokio::signal::unix::Signal,
    dir: PathBuf,
    looks: Interval,
}

impl StopRequests {
    /// Waits for a request. Cancel safe.
    async fn wait(&mut self) {
        loop {
            tokio::select! {
                Some(Command::Stop) = self.commands.recv() => return,
                Some(()) = self.signal.recv() => return,
                _ = self.looks.tick() => if !self.dir.exists() {
                    return;
                },
            }
        }
    }
}

struct Life {
    dir: PathBuf,
    spec: ShimSpec,
    log: SharedLog,
    reaper: Reaper,
    stop: StopRequests,
    states: watch::Sender<UnitState>,
}

/// A command that runs.
struct Run {
    pid: Pid,
    pipes: Pipes,
    since: Instant,
}

impl Life {
    /// Lives; returns the sender of states, so that whoever drops it ends the link.
    async fn run(mut self) -> watch::Sender<UnitState> {
        let mut history = History::default();
        loop {
            self.publish(|state| state.status = Status::Starting);
            let (ended, lasted, stopped, swept) = match self.launch().await {
                Ok(run) => self.attend(run).await,
                // What never ran at all will not run next time either; and the agent waits to hear why.
                Err(why) if self.states.borrow().restarts == 0 => {
                    self.last(Status::Error, Some(why.clone()), Ended::NotStarted(why));
                    break;
                }
                Err(why) => {
                    let swept = sweep(&mut self.reaper).await;
                    (Ended::NotStarted(why), Duration::ZERO, false, swept)
                }
            };
            if let Err(left) = swept {
                self.last(Status::Error, Some(left), ended);
                break;
            }
            if stopped {
                self.last(Status::Stopped, None, ended);
                break;
            }
            let (after, reason) = match decide(&self.spec.restart, &mut history, &ended, lasted) {
                Decision::Restart { after, reason } => (after, reason),
                Decision::Finish { status, reason } => {
                    self.last(status, Some(reason), ended);
                    break;
                }
            };
            self.publish(|state| {
                (state.status, state.reason, state.last_end) =
                    (Status::Error, Some(reason), Some(ended.clone()));
            });
            tokio::select! {
                () = self.stop.wait() => {
                    self.last(Status::Stopped, None, ended);
                    break;
                }
                () = sleep(after) => self.publish(|state| state.restarts += 1),
            }
        }
        self.states
    }

    /// Watches a run until it has ended: `(how, how long it lasted, whether it was asked to, whether all of it has gone)`.
    async fn attend(&mut self, run: Run) -> (Ended, Duration, bool, Result<(), String>) {
        let start_time = proc::inspect(run.pid).map(|process| process.start_time);
        self.publish(|state| {
            (state.status, state.reason) = (Status::Started, None);
            (state.pid, state.start_time) = (Some(run.pid.as_raw_nonzero().get()), start_time);
        });
        let stopped = tokio::select! {
            _ = self.reaper.ended() => false,
            () = self.stop.wait() => true,
        };
        if stopped {
            self.end_group(run.pid).await;
        }
        let lasted = run.since.elapsed();
        // What outlives its leader is not the unit any more. One by one: the leader was reaped, so its pid and the group
        // of that number may be another's by now.
        let swept = sweep(&mut self.reaper).await;
        // At once, unless it cannot be killed; then this is how it ends when the kernel lets go of it.
        let ended = self.reaper.ended().now_or_never().unwrap_or(Ended::Signaled(Signal::KILL.as_raw()));
        run.pipes.drain().await;
        (ended, lasted, stopped, swept)
    }

    /// Sends the declared signal to the group and waits until it has gone or the grace period is over.
    async fn end_group(&mut self, leader: Pid) {
        let deadline = Instant::now() + self.spec.grace;
        kill_process_group(leader, signal_of(self.spec.stop_signal)).ok();
        let gone = async {
            self.reaper.ended().await;
            while group_lives(leader) {
                sleep(PAUSE).await;
                self.reaper.reap();
            }
        };
        timeout_at(deadline, gone).await.ok();
    }

    /// Starts the second stage and waits until it has become the command.
    async fn launch(&mut self) -> Result<Run, String> {
        let failed = |error: io::Error| format!("the command cannot be started: {error}");
        let (mut report, theirs) = UnixStream::pair().map_err(failed)?;
        let mut child = stage(theirs).map_err(failed)?;
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the system gave out a bad pid")?;
        self.reaper.watch(pid);
        let pipes =
            outputs(&mut child).and_then(|(out, err)| Pipes::start(out, err, &self.log)).map_err(failed)?;
        // Blocks the shim for the few milliseconds of an exec; nothing else waits for it then.
        report.set_read_timeout(Some(STAGE)).map_err(failed)?;
        let mut why = String::new();
        match report.read_to_string(&mut why) {
            Ok(_) => match why.strip_prefix(GO) {
                Some("") => Ok(Run { pid, pipes, since: Instant::now() }),
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

    /// Changes the state, writes it down, then tells it.
    fn publish(&mut self, change: impl FnOnce(&mut UnitState)) {
        let mut state = self.states.borrow().clone();
        (state.pid, state.start_time) = (None, None);
        let before = state.status;
        change(&mut state);
        if state.status != before || state.pid.is_some() {
            state.since = Timestamp::now();
        }
        // A full disk must not end the unit: whoever is connected still learns the state.
        state.write(&self.dir).ok();
        self.states.send_replace(state);
    }

    fn last(&mut self, status: Status, reason: Option<String>, ended: Ended) {
        let lost = self.log.lock().map_or(0, |log| log.lost());
        let reason = match (reason, lost) {
            (reason, 0) => reason,
            (None, lost) => Some(format!("{lost} log lines could not be written")),
            (Some(reason), lost) => Some(format!("{reason}; {lost} log lines could not be written")),
        };
        self.publish(|state| {
            (state.status, state.reason, state.last_end, state.final_state) =
                (status, reason, Some(ended), true);
        });
    }
}

fn stage(report: UnixStream) -> io::Result<Child> {
    // The very program that runs now, even if its file was replaced since; the words it was started with, and one more.
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let shim = getpid().as_raw_nonzero().to_string();
    Process::new("/proc/self/exe")
        .args(words)
        .args(["--exec", &shim])
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

fn signal_of(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::SigTerm => Signal::TERM,
        StopSignal::SigInt => Signal::INT,
        StopSignal::SigQuit => Signal::QUIT,
        StopSignal::SigHup => Signal::HUP,
        StopSignal::SigUsr1 => Signal::USR1,
        StopSignal::SigUsr2 => Signal::USR2,
        StopSignal::SigWinch => Signal::WINCH,
        StopSignal::SigKill => Signal::KILL,
    }
}
