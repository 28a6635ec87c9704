//! One unit: its label on disk, its state as last heard, and the way to its shim.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedMutexGuard, mpsc, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{changes::Changes, error::RuntimeError};
use crate::{
    failpoints::failpoint,
    manifest::Protocol,
    mark::Turn,
    proc,
    shim::{Command, Ended, ShimSpec, Status, UnitState, write_durably},
};

/// Name of the label in a unit directory.
const FILE: &str = "unit.json";
/// Between two looks whether a shim has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a shim may take beyond the grace period and its hooks to kill what is left and say so.
const SLACK: Duration = Duration::from_secs(10);
/// How long a shim may take to end after it said its last word, before that is an error.
const FAREWELL: Duration = Duration::from_secs(5);

/// A unit as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitStatus {
    /// Id of the unit, unique on this agent: `<app name>-<random>`.
    pub unit: String,
    /// Id of the app: `namespace/App/name`.
    pub app: String,
    /// Digest of the definition it was made from.
    pub generation: String,
    /// Observed state, its reason, pid, restarts, last end.
    pub state: UnitState,
    /// Its ports.
    pub ports: Vec<PortBinding>,
    /// When it was made.
    pub created: Timestamp,
    /// The host that it is on, where hosts are configured.
    pub host: Option<String>,
}

/// A port that a unit has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Name in the app.
    pub name: String,
    /// Number within the app, as declared.
    pub port: u16,
    /// Number on this host, which the unit listens on.
    pub host_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address on this host.
    pub address: IpAddr,
    /// The app fixes the number.
    pub fixed: bool,
}

impl PortBinding {
    /// Where it is reached from this host.
    pub(crate) fn reachable(&self) -> SocketAddr {
        let address = match self.address {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        SocketAddr::new(address, self.host_port)
    }
}

/// The label of a unit: what makes its directory ours, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnitRecord {
    pub(super) unit: String,
    pub(super) app: String,
    pub(super) generation: String,
    pub(super) ports: Vec<PortBinding>,
    /// Files outside the unit's directory that were written for it.
    pub(super) files: Vec<PathBuf>,
    /// All files that were written for it, with BLAKE3 of their content in hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) written: BTreeMap<PathBuf, String>,
    pub(super) created: Timestamp,
}

impl UnitRecord {
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let text = fs::read(dir.join(FILE))?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {error}")))
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        write_durably(dir, FILE, &serde_json::to_vec(self)?)
    }

    /// `PORT_<NAME>` for each port.
    pub(super) fn port_variables(&self) -> BTreeMap<String, String> {
        let variable =
            |port: &PortBinding| (crate::manifest::port_variable(&port.name), port.host_port.to_string());
        self.ports.iter().map(variable).collect()
    }
}

/// The files of a unit: what on its label changes while it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitFiles {
    /// Those outside its directory that are ours: noted before they are written.
    pub(super) elsewhere: Vec<PathBuf>,
    /// Those that were written, with the digest of their content: noted after.
    pub(super) written: BTreeMap<PathBuf, String>,
}

/// A unit in memory.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its label, as it was found or made; of its files, [`Unit::files`] tells.
    pub(super) record: UnitRecord,
    files: Mutex<UnitFiles>,
    pub(super) dir: PathBuf,
    pub(super) state: watch::Sender<UnitState>,
    changes: Changes,
    /// The way to the shim, while there is one.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    /// Held while the unit is launched or stopped, so that these never overlap.
    pub(super) gate: tokio::sync::Mutex<()>,
    /// Commands that run beside the unit's own.
    pub(super) execs: TaskTracker,
    /// Held by whoever follows a shim: the next shim comes when nobody follows the one before.
    following: Arc<tokio::sync::Mutex<()>>,
}

impl Unit {
    pub(super) fn new(record: UnitRecord, dir: PathBuf, state: UnitState, changes: Changes) -> Self {
        let (state, _) = watch::channel(state);
        let (commands, gate, following) = (Mutex::default(), tokio::sync::Mutex::default(), Arc::default());
        let files = UnitFiles { elsewhere: record.files.clone(), written: record.written.clone() };
        let files = Mutex::new(files);
        let execs = TaskTracker::new();
        // Whoever waits for it waits for those that there are; more may come later.
        execs.close();
        Self { record, files, dir, state, changes, commands, gate, execs, following }
    }

    /// The files that were written for it.
    pub(super) fn files(&self) -> UnitFiles {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes which files were written for it. Waits for the disk.
    pub(super) fn note_files(&self, files: UnitFiles) -> io::Result<()> {
        let mut now = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == files {
            return Ok(());
        }
        let UnitFiles { elsewhere, written } = files.clone();
        UnitRecord { files: elsewhere, written, ..self.record.clone() }.write(&self.dir)?;
        *now = files;
        Ok(())
    }

    /// It stands so from now on.
    pub(super) fn is_now(&self, state: UnitState) {
        self.state.send_replace(state);
        self.changes.tell(&self.record.app);
    }

    pub(super) fn id(&self) -> &str {
        &self.record.unit
    }

    pub(super) fn status(&self) -> UnitStatus {
        UnitStatus {
            unit: self.record.unit.clone(),
            app: self.record.app.clone(),
            generation: self.record.generation.clone(),
            state: self.state.borrow().clone(),
            ports: self.record.ports.clone(),
            created: self.record.created,
            host: None,
        }
    }

    pub(super) fn connect_commands(&self, commands: Option<mpsc::Sender<Command>>) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = commands;
    }

    /// Ends the unit and waits until nothing of it is left, its shim included. The turn is over when the shim is told: what
    /// follows is the shim's own doing, in the unit's own time.
    pub(super) async fn stop(&self, turn: Turn) -> Result<(), RuntimeError> {
        let _gate = self.gate.lock().await;
        if self.state.borrow().status == Status::Building {
            // Nothing was started yet, and nothing will be: who is about to start it sees this.
            let stopped = UnitState::new(Status::Stopped, Timestamp::now());
            self.is_now(UnitState { final_state: true, ..stopped });
            return Ok(());
        }
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(commands) = commands {
            // Refused only by a shim that has ended, which is what we want of it.
            commands.send(Command::Stop).await.ok();
        }
        drop(turn);
        let state = self.ended().await?;
        self.shim_gone(&state).await?;
        // They see that it has ended, as we do.
        let late = |_| self.not_stopped("a command beside it has not ended");
        timeout(SLACK, self.execs.wait()).await.map_err(late)?;
        failpoint!("unit.stopped");
        match state.reason {
            Some(reason) if reason.starts_with("could not kill") => Err(self.not_stopped(&reason)),
            _ => Ok(()),
        }
    }

    /// Waits until the shim that said its last word in `state` has ended.
    async fn shim_gone(&self, state: &UnitState) -> Result<(), RuntimeError> {
        let Some(shim) = state.shim else { return Ok(()) };
        let gone = async {
            while proc::lives(shim) {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let late = |_| self.not_stopped("its supervisor has not ended");
        timeout(FAREWELL, gone).await.map_err(late)
    }

    /// Waits until neither the earlier shim nor its follower is left: the one removes the socket as its last act, the
    /// other tells what it heard last, and both would spoil what the next shim does. Whoever holds what is returned is
    /// the next follower. Call with the gate held.
    pub(super) async fn free_of(&self, before: &UnitState) -> Result<OwnedMutexGuard<()>, RuntimeError> {
        self.shim_gone(before).await?;
        let late = |_| self.not_stopped("its supervisor is still being heard");
        timeout(FAREWELL, self.follow()).await.map_err(late)
    }

    /// For the one who follows the unit's shim, to be held until he does so no more.
    pub(super) async fn follow(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.following).lock_owned().await
    }

    /// Waits for the end that was asked for. A supervisor that does not bring it about in time is killed, and its unit
    /// with it.
    async fn ended(&self) -> Result<UnitState, RuntimeError> {
        let longest = ShimSpec::read(&self.dir).map_or(Duration::ZERO, |spec| spec.stop_max());
        if let Ok(state) = timeout(longest + SLACK, self.last_state()).await {
            return Ok(state);
        }
        tracing::warn!(unit = self.id(), "its supervisor does not stop it; killing both");
        let shim = self.state.borrow().shim;
        if let Some(process) = shim.and_then(proc::find) {
            proc::kill(process)
                .map_err(|error| self.not_stopped(&format!("its supervisor cannot be killed: {error}")))?;
        }
        let late = |_| self.not_stopped("its supervisor does not answer");
        timeout(SLACK, self.last_state()).await.map_err(late)
    }

    fn not_stopped(&self, reason: &str) -> RuntimeError {
        RuntimeError::NotStopped { unit: self.record.unit.clone(), reason: reason.to_owned() }
    }

    /// Waits until the unit has ended for good.
    pub(super) async fn last_state(&self) -> UnitState {
        let mut states = self.state.subscribe();
        let last = states.wait_for(|state| state.final_state).await.map(|state| state.clone());
        // The sender is ours, so it lives as long as this call.
        last.unwrap_or_else(|_| self.state.borrow().clone())
    }
}

/// The state of a unit whose shim is not there any more, though it had not said its last word.
pub(super) fn lost(before: UnitState, why: &str, now: Timestamp) -> UnitState {
    UnitState {
        status: Status::Error,
        reason: Some(why.to_owned()),
        since: now,
        health: None,
        pid: None,
        start_time: None,
        last_end: Some(Ended::Lost),
        final_state: true,
        shim: None,
        restarts: before.restarts,
    }
}
