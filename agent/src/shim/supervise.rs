//! The life of one unit: start, watch, decide, start again or end.
//!
//! ```text
//! starting ─► preStart ─► the command ─► postStart ─► started ─► (ended) ─► postStop ─► decide ─► error, waiting ─► starting …
//!                                            looks at it │ ▲        ▲                      └────► stopped / error   (final)
//!                                    starting, unhealthy ▼ │        │
//!                                              stop ─► preStop ─► signal ─► grace ─► kill ─► … ─► stopped         (final)
//! ```

use std::{
    future::pending,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, getpid, kill_process_group, set_child_subreaper, setsid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, Interval, interval, sleep, timeout_at},
};

use super::{
    Command, SOCKET,
    checks::Checks,
    link,
    logs::{LineCutter, LogStream, LogWriter},
    policy::{Decision, History, decide},
    reaper::Reaper,
    role::Role,
    spawn::{Running, Spawner},
    spec::ShimSpec,
    state::{Ended, Status, UnitState},
    sweep::{group_lives, sweep},
};
use crate::{health::Verdict, manifest::StopSignal, proc};

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
    let mut tasks = JoinSet::new();
    let spawner =
        Spawner { spec: Arc::new(spec), log: Arc::new(Mutex::new(log)), reaper: Reaper::start(&mut tasks)? };
    let life = Life {
        dir: dir.to_owned(),
        spawner,
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
    tasks.shutdown().await;
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
    spawner: Spawner,
    stop: StopRequests,
    states: watch::Sender<UnitState>,
}

/// How one run went, from the hook before it to the hook after it.
struct Run {
    ended: Ended,
    lasted: Duration,
    /// The end was asked for.
    stopped: bool,
    /// Whether all of it has gone.
    swept: Result<(), String>,
}

/// Why a run comes to its end.
enum End {
    /// By itself.
    Own,
    Asked,
    /// It did not come to start, and is not to run on.
    Failed(String),
}

impl Life {
    /// Lives; returns the sender of states, so that whoever drops it ends the link.
    async fn run(mut self) -> watch::Sender<UnitState> {
        let mut history = History::default();
        loop {
            self.publish(|state| state.status = Status::Starting);
            let Run { ended, lasted, stopped, swept } = self.run_once().await;
            if let Err(left) = swept {
                self.last(Status::Error, Some(left), ended);
                break;
            }
            if stopped {
                self.last(Status::Stopped, None, ended);
                break;
            }
            // What never started at all will not do so next time either; and the agent waits to hear why.
            if let Ended::NotStarted(why) = &ended
                && self.states.borrow().restarts == 0
            {
                self.last(Status::Error, Some(why.clone()), ended);
                break;
            }
            let (after, reason) = match decide(&self.spawner.spec.restart, &mut history, &ended, lasted) {
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

    async fn run_once(&mut self) -> Run {
        let prepared = tokio::select! {
            prepared = self.spawner.hook(Role::PreStart) => prepared.map_err(End::Failed),
            () = self.stop.wait() => Err(End::Asked),
        };
        let started = prepared.and_then(|()| self.spawner.start().map_err(End::Failed));
        let (why, stopped) = match started {
            Ok(running) => return self.attend(running).await,
            Err(End::Failed(why)) => (why, false),
            Err(End::Asked | End::Own) => ("it was stopped before it came to start".to_owned(), true),
        };
        let swept = sweep(&self.spawner.reaper).await;
        Run { ended: Ended::NotStarted(why), lasted: Duration::ZERO, stopped, swept }
    }

    /// Watches a command until it has ended, and brings its end about when that is asked for.
    async fn attend(&mut self, mut running: Running) -> Run {
        let since = Instant::now();
        let end = match self.follow_up(&mut running).await {
            Some(end) => end,
            None => self.watch(&mut running).await,
        };
        if matches!(end, End::Asked) {
            self.hook(Role::PreStop).await;
        }
        if !matches!(end, End::Own) {
            self.end_group(&mut running).await;
        }
        let lasted = since.elapsed();
        // What outlives its leader is not the unit any more. One by one: the leader was reaped, so its pid and the group
        // of that number may be another's by now.
        let mut swept = sweep(&self.spawner.reaper).await;
        // At once, unless it cannot be killed; then this is how it ends when the kernel lets go of it.
        let ended = running.ended.now().unwrap_or(Ended::Signaled(Signal::KILL.as_raw()));
        running.pipes.drain().await;
        if !Role::PostStop.argv(&self.spawner.spec).is_empty() {
            self.hook(Role::PostStop).await;
            swept = swept.and(sweep(&self.spawner.reaper).await);
        }
        let (ended, stopped) = match end {
            End::Own => (ended, false),
            End::Asked => (ended, true),
            End::Failed(why) => (Ended::NotStarted(why), false),
        };
        Run { ended, lasted, stopped, swept }
    }

    /// Runs the hook after the start. Says why the run must end, unless all is well.
    async fn follow_up(&mut self, running: &mut Running) -> Option<End> {
        if Role::PostStart.argv(&self.spawner.spec).is_empty() {
            return None;
        }
        tokio::select! {
            done = self.spawner.hook(Role::PostStart) => done.err().map(End::Failed),
            () = self.stop.wait() => Some(End::Asked),
            ended = running.ended.end() => {
                Some(End::Failed(format!("it ended before hook {} was done: {ended}", Role::PostStart)))
            }
        }
    }

    /// Watches a command that has started, and looks whether it works, until it ends or is to end.
    async fn watch(&mut self, running: &mut Running) -> End {
        let health = self.spawner.spec.health.clone();
        let mut checks = health.map(|health| Checks::new(&self.spawner, &health));
        self.tell(running.pid, checks.as_ref().map(Checks::verdict));
        loop {
            let looks = async {
                match &mut checks {
                    Some(checks) => checks.next().await.clone(),
                    None => pending().await,
                }
            };
            let verdict = tokio::select! {
                _ = running.ended.end() => return End::Own,
                () = self.stop.wait() => return End::Asked,
                verdict = looks => verdict,
            };
            self.tell(running.pid, Some(&verdict));
        }
    }

    /// Tells how the command stands that runs.
    fn tell(&mut self, pid: Pid, verdict: Option<&Verdict>) {
        let start_time = proc::inspect(pid).map(|process| process.start_time);
        self.publish(|state| {
            (state.pid, state.start_time) = (Some(pid.as_raw_nonzero().get()), start_time);
            (state.status, state.reason, state.health) = match verdict.map(Verdict::told) {
                Some((status, reason, health)) => (status, reason, Some(health)),
                None => (Status::Started, None, None),
            };
        });
    }

    /// Runs a hook whose failure changes nothing: it is remarked upon in the log.
    async fn hook(&self, role: Role) {
        if let Err(why) = self.spawner.hook(role).await {
            let mut lines = Vec::new();
            LineCutter::new(LogStream::Stderr).push(
                format!("{why}\n").as_bytes(),
                Timestamp::now(),
                &mut lines,
            );
            self.spawner.log.lock().unwrap_or_else(PoisonError::into_inner).append(&lines);
        }
    }

    /// Sends the declared signal to the group and waits until it has gone or the grace period is over.
    async fn end_group(&self, running: &mut Running) {
        let (leader, spec) = (running.pid, &self.spawner.spec);
        let deadline = Instant::now() + spec.grace;
        kill_process_group(leader, signal_of(spec.stop_signal)).ok();
        let gone = async {
            running.ended.end().await;
            while group_lives(leader) {
                sleep(PAUSE).await;
                self.spawner.reaper.reap();
            }
        };
        timeout_at(deadline, gone).await.ok();
    }

    /// Changes the state, writes it down, then tells it.
    fn publish(&mut self, change: impl FnOnce(&mut UnitState)) {
        let mut state = self.states.borrow().clone();
        let before = (state.status, state.pid);
        (state.pid, state.start_time, state.health) = (None, None, None);
        change(&mut state);
        if before != (state.status, state.pid) {
            state.since = Timestamp::now();
        }
        // A full disk must not end the unit: whoever is connected still learns the state.
        state.write(&self.dir).ok();
        self.states.send_replace(state);
    }

    fn last(&mut self, status: Status, reason: Option<String>, ended: Ended) {
        let lost = self.spawner.log.lock().map_or(0, |log| log.lost());
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
