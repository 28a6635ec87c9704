//! Making units, starting their shims, and staying connected to them.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
            net::UnixStream as StdStream,
        },
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{OwnedMutexGuard, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    ProcessRuntime, UNFINISHED, UnitSpec,
    error::RuntimeError,
    files, ports,
    unit::{Unit, UnitRecord, lost},
    users::{self, Account},
};
use crate::{
    failpoints::failpoint,
    manifest::{AppSpec, ProbeSpec},
    mark::Turn,
    proc,
    shim::{self, Command, Ended, RestartRule, SOCKET, ShimHealth, ShimProbe, ShimSpec, Status, UnitState},
};

/// How long a unit may take from the start of its shim to the start of its command.
const START: Duration = Duration::from_secs(30);
/// Between two connections to the same shim.
const PAUSE: Duration = Duration::from_millis(10);
/// Name of the default working directory in a unit directory.
pub(super) const WORK: &str = "work";
/// What the shim complains about goes here.
const COMPLAINTS: &str = "shim.err";

impl ProcessRuntime {
    /// Makes the unit's directory, label, files and specification. Waits for the disk.
    pub(super) fn create(&self, spec: &UnitSpec) -> Result<Arc<Unit>, RuntimeError> {
        let app = &spec.manifest.spec;
        if let Some(complaint) = self.inner.limits.complaints(&app.resources).into_iter().next() {
            return Err(RuntimeError::Unbounded { field: complaint.path, why: complaint.text });
        }
        let account = app.user.as_deref().map(users::account).transpose()?;
        let (id, dir) = self.new_id(spec.manifest.name.as_str());
        let working_dir = app.working_dir.clone().unwrap_or_else(|| dir.join(WORK));
        let placed = files::place(&app.files, &working_dir);
        let record = UnitRecord {
            unit: id.clone(),
            app: spec.manifest.id.clone(),
            generation: spec.generation.clone(),
            ports: self.ports().assign(&id, &app.ports)?,
            files: placed
                .iter()
                .map(|file| file.path.clone())
                .filter(|path| !path.starts_with(&dir))
                .collect(),
            written: placed.iter().map(|file| (file.path.clone(), file.digest())).collect(),
            created: Timestamp::now(),
        };
        let shim_spec = self.shim_spec(spec, &record, working_dir, account.as_ref());
        let unit = Arc::new(Unit::new(
            record,
            dir,
            UnitState::new(Status::Building, Timestamp::now()),
            self.inner.changes.clone(),
        ));
        let others = self.others_files(&unit);
        let run_as = account.as_ref().map(|account| &account.run_as);
        let made = files::check(&placed, &spec.manifest.id, &unit.dir, &others).and_then(|()| {
            // From here on the files are ours by label, and a second app that wants them sees that.
            self.units().insert(Arc::clone(&unit));
            self.make_dir(&unit, &shim_spec)
                .map_err(|source| RuntimeError::io(format!("cannot make {}", unit.dir.display()), source))?;
            files::write(&placed, &unit.dir, run_as)?;
            failpoint!("unit.files-written");
            Ok(())
        });
        if let Err(error) = made {
            self.undo(&unit, &others);
            return Err(error);
        }
        Ok(unit)
    }

    /// Removes what [`Self::create`] made before it failed.
    fn undo(&self, unit: &Unit, others: &BTreeMap<PathBuf, String>) {
        // A conflict is found before anything is written or listed: then nothing elsewhere is ours to remove.
        if self.units().remove(unit.id()).is_some() {
            files::remove(unit, others).ok();
            self.remove_dir(unit).ok();
        }
        self.ports().release(unit.id());
    }

    /// Makes the unit's directory with all that makes it one, under another name first: it appears whole or not at all.
    fn make_dir(&self, unit: &Unit, spec: &ShimSpec) -> io::Result<()> {
        let dir = self.inner.units_dir.join(format!("{UNFINISHED}{}", unit.id()));
        let make = |dir: &Path| DirBuilder::new().mode(0o700).create(dir);
        let work = dir.join(WORK);
        let made = make(&dir).and_then(|()| make(&work)).and_then(|()| {
            if let Some(run_as) = &spec.run_as {
                chown(&work, Some(run_as.uid), Some(run_as.gid))?;
                // The way there is passed, not looked about in; what stands beside it is closed by its own mode.
                for way in [&self.inner.config.data_dir, &self.inner.units_dir, &dir] {
                    let mode = fs::metadata(way)?.permissions().mode();
                    if mode & 0o011 != 0o011 {
                        fs::set_permissions(way, Permissions::from_mode(mode & 0o7777 | 0o011))?;
                    }
                }
            }
            unit.record.write(&dir)?;
            spec.write(&dir)?;
            failpoint!("unit.created");
            fs::rename(&dir, &unit.dir)?;
            failpoint!("unit.renamed");
            Ok(())
        });
        if made.is_err() {
            // Not there if it could not even be made.
            fs::remove_dir_all(&dir).ok();
        }
        made
    }

    fn new_id(&self, name: &str) -> (String, PathBuf) {
        loop {
            let random = uuid::Uuid::new_v4().simple().to_string();
            let id = format!("{name}-{}", random.get(..8).unwrap_or(&random));
            let dir = self.inner.units_dir.join(&id);
            if !dir.exists() && self.units().get(&id).is_none() {
                return (id, dir);
            }
        }
    }

    fn shim_spec(
        &self,
        spec: &UnitSpec,
        record: &UnitRecord,
        dir: PathBuf,
        account: Option<&Account>,
    ) -> ShimSpec {
        let app = &spec.manifest.spec;
        let config = &self.inner.config;
        let home = account.and_then(|account| account.home.as_deref()).unwrap_or(&dir);
        let path = config
            .extra_path
            .as_ref()
            .map_or_else(|| config.path.clone(), |extra| format!("{}:{}", extra.display(), config.path));
        let mut env =
            BTreeMap::from([("PATH".to_owned(), path), ("HOME".to_owned(), home.display().to_string())]);
        env.extend(app.env.clone());
        env.extend(record.port_variables());
        let marks = [
            (proc::INSTANCE_MARK, &config.instance),
            ("TOWLINE_APP", &record.app),
            (proc::UNIT_MARK, &record.unit),
            ("TOWLINE_GENERATION", &record.generation),
        ];
        env.extend(marks.map(|(name, value)| (name.to_owned(), value.clone())));
        ShimSpec {
            instance: config.instance.clone(),
            unit: record.unit.clone(),
            argv: app.command.iter().chain(&app.args).cloned().collect(),
            env,
            dir,
            umask: app.umask,
            run_as: account.map(|account| account.run_as.clone()),
            restart: RestartRule {
                condition: app.restart.condition,
                delay: app.restart.delay.get(),
                max_delay: app.restart.max_delay.get(),
                attempts: app.restart.attempts,
            },
            stop_signal: app.stop.signal,
            grace: app.stop.grace_period.get(),
            log_max_size: app.logs.max_size.get(),
            log_max_files: app.logs.max_files,
            bounds: self.inner.limits.bounds(&app.resources, &record.unit),
            health: health(app, record),
            hooks: app.hooks.clone(),
        }
    }

    /// Starts a shim for `unit`, unless one stands over it, and waits until the command runs and the hooks around its start
    /// are done. `first` is for a unit that was just made. The turn is over when the shim was started: what follows is the
    /// shim's own doing.
    pub(super) async fn launch(&self, unit: &Arc<Unit>, first: bool, turn: Turn) -> Result<(), RuntimeError> {
        let _gate = unit.gate.lock().await;
        let before = unit.state.borrow().clone();
        let building = before.status == Status::Building;
        if first && !building {
            return Err(RuntimeError::NotStarted {
                reason: "it was stopped before it came to start".to_owned(),
            });
        }
        if !building && !before.final_state {
            return Ok(());
        }
        let following = unit.free_of(&before).await?;
        unit.record.ports.iter().try_for_each(ports::check_free)?;
        unit.is_now(UnitState::new(Status::Starting, Timestamp::now()));
        let (runtime, spawned) = (self.clone(), Arc::clone(unit));
        let spawn = move || {
            let _turn = turn;
            runtime.spawn_shim(&spawned).map_err(|error| RuntimeError::io("cannot start a supervisor", error))
        };
        let stream = match blocking(spawn).await {
            Ok(stream) => stream,
            Err(error) => {
                let reason = error.to_string();
                unit.is_now(lost(before, &reason, Timestamp::now()));
                return Err(RuntimeError::NotStarted { reason });
            }
        };
        self.attach(unit, stream, following);
        let mut states = unit.state.subscribe();
        let runs = |state: &UnitState| state.status == Status::Started || state.health.is_some();
        let settled = states.wait_for(|state| runs(state) || state.final_state);
        let longest = START + ShimSpec::read(&unit.dir).map_or(Duration::ZERO, |spec| spec.start_hooks_max());
        let state = match timeout(longest, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => {
                return Err(RuntimeError::NotStarted {
                    reason: format!("not started within {}", humantime::format_duration(longest)),
                });
            }
        };
        match (state.final_state, state.last_end) {
            (true, Some(Ended::NotStarted(reason))) => Err(RuntimeError::NotStarted { reason }),
            (true, Some(Ended::Lost)) => {
                Err(RuntimeError::NotStarted { reason: state.reason.unwrap_or_default() })
            }
            // A command that is done already did run.
            _ => {
                failpoint!("unit.started");
                Ok(())
            }
        }
    }

    /// Starts a shim, and connects to it. Waits for the disk.
    fn spawn_shim(&self, unit: &Arc<Unit>) -> io::Result<UnixStream> {
        // Held until whoever else starts it finds this one's socket: two shims would run the command twice.
        let alone = File::open(&unit.dir)?;
        flock(&alone, FlockOperation::LockExclusive)?;
        if let Ok(stream) = connect(&unit.dir) {
            return Ok(stream);
        }
        // The socket is ours to bind, so that connecting needs no waiting and a refusal proves a dead shim.
        let listener = shim::bind(&unit.dir)?;
        // Before anyone could refuse: a shim that ends at once is then a connection that ends, like any other's.
        let stream = connect(&unit.dir)?;
        let complaints = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(unit.dir.join(COMPLAINTS))?;
        let mut command = self.shim_command(unit)?;
        command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(complaints);
        let program = command.as_std().get_program().display().to_string();
        let mut child =
            command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        let token = self.inner.tasks.stopping().clone();
        self.inner.tasks.spawn("shim-reaper", async move {
            // When the agent ends first, the shim goes to whoever adopts orphans.
            token.run_until_cancelled(child.wait()).await;
        });
        Ok(stream)
    }

    /// The words that start a shim for `unit`, or do something else on its behalf with more words.
    pub(super) fn shim_command(&self, unit: &Unit) -> io::Result<tokio::process::Command> {
        let no_words = || io::Error::other("no command for shims is configured");
        let (program, words) = self.inner.config.shim.split_first().ok_or_else(no_words)?;
        let mut command = tokio::process::Command::new(program);
        command.args(words).arg(&unit.dir).env_clear().current_dir("/").arg0("towline-shim");
        Ok(command)
    }

    /// Follows the shim at the other end of `stream` until it or the runtime ends.
    fn attach(&self, unit: &Arc<Unit>, stream: UnixStream, following: OwnedMutexGuard<()>) {
        let (sender, commands) = mpsc::channel(1);
        unit.connect_commands(Some(sender));
        let follower = Follower {
            unit: Arc::clone(unit),
            instance: self.inner.config.instance.clone(),
            token: self.inner.tasks.stopping().clone(),
            _following: following,
        };
        self.inner.tasks.spawn("shim-link", follower.run(stream, commands));
    }

    /// Takes over a unit that an earlier agent made. Returns its id if it never came to start: an agent died in the
    /// middle of making it, files may be missing, and it is not worth keeping.
    pub(super) async fn adopt(&self, record: UnitRecord) -> Option<String> {
        for binding in &record.ports {
            self.ports().reserve(&record.unit, binding);
        }
        let dir = self.inner.units_dir.join(&record.unit);
        let known = UnitState::read(&dir).ok();
        let (started, ended) = (known.is_some(), known.as_ref().is_some_and(|state| state.final_state));
        let state = known.unwrap_or_else(|| UnitState::new(Status::Starting, record.created));
        let unit = Arc::new(Unit::new(record, dir, state, self.inner.changes.clone()));
        self.units().insert(Arc::clone(&unit));
        match connect(&unit.dir) {
            Ok(stream) => {
                let following = unit.follow().await;
                self.attach(&unit, stream, following);
            }
            // It ended properly while nobody looked. Anything it could leave, its shim has killed.
            Err(_) if ended => {}
            Err(_) => settle(&unit, &self.inner.config.instance).await,
        }
        let living = unit.state.borrow().status != Status::Error;
        (!started && !living).then(|| unit.id().to_owned())
    }
}

/// What the shim of a unit looks at: where the unit listens, which is not where its app says.
fn health(app: &AppSpec, record: &UnitRecord) -> Option<ShimHealth> {
    let spec = app.health.as_ref()?;
    let of = |name: &str| record.ports.iter().find(|port| port.name == name);
    let probe = match &spec.probe {
        ProbeSpec::Tcp { port } => {
            let port = of(port.as_str())?;
            ShimProbe::Tcp { address: port.reachable(), port: port.port }
        }
        ProbeSpec::Http { port, path, status } => {
            let port = of(port.as_str())?;
            let (path, status) = (path.clone(), *status);
            ShimProbe::Http { address: port.reachable(), port: port.port, path, status }
        }
        ProbeSpec::Exec { command } => ShimProbe::Exec { command: command.clone() },
    };
    Some(ShimHealth { probe, rule: spec.into() })
}

/// Does work that waits for the disk on a thread for such things: the runtime's own beat the heart.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(RuntimeError::io("work on the disk was cut short", io::Error::other(error)))
    })
}

fn connect(dir: &Path) -> io::Result<UnixStream> {
    let stream = StdStream::connect(shim::short_path(&File::open(dir)?, SOCKET))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Finds out how a unit stands whose shim does not answer, and sees to it that nothing of it is left.
async fn settle(unit: &Unit, instance: &str) {
    let written = UnitState::read(&unit.dir);
    if let Ok(state) = written
        && state.final_state
    {
        unit.is_now(state);
        return;
    }
    let complaint = fs::read_to_string(unit.dir.join(COMPLAINTS)).unwrap_or_default();
    let complaint = complaint.lines().rev().find(|line| !line.trim().is_empty());
    let why = complaint.map_or_else(
        || "its supervisor was lost".to_owned(),
        |line| format!("its supervisor was lost: {line}"),
    );
    let why = match shim::sweep_marked(instance, unit.id()).await {
        Ok(()) => why,
        Err(left) => format!("{left} after its supervisor was lost"),
    };
    let state = lost(unit.state.borrow().clone(), &why, Timestamp::now());
    // If it cannot be written, the next agent comes to the same conclusion.
    state.write(&unit.dir).ok();
    unit.is_now(state);
}

/// One connection to one shim.
struct Follower {
    unit: Arc<Unit>,
    instance: String,
    token: CancellationToken,
    _following: OwnedMutexGuard<()>,
}

impl Follower {
    async fn run(self, mut stream: UnixStream, mut commands: mpsc::Receiver<Command>) {
        loop {
            let over =
                self.token.clone().run_until_cancelled(self.follow(stream, &mut commands)).await.is_none();
            if over || self.unit.state.borrow().final_state {
                break;
            }
            // A connection may end without its shim; the shim itself never does without closing the socket.
            match connect(&self.unit.dir) {
                Ok(again) => {
                    stream = again;
                    // A shim that is about to end may take a connection and close it again, a few times.
                    sleep(PAUSE).await;
                }
                Err(_) => {
                    settle(&self.unit, &self.instance).await;
                    break;
                }
            }
        }
        self.unit.connect_commands(None);
    }

    async fn follow(&self, stream: UnixStream, commands: &mut mpsc::Receiver<Command>) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let Ok(Some(line)) = line else { return };
                    match serde_json::from_str::<UnitState>(&line) {
                        Ok(state) => self.unit.is_now(state),
                        Err(error) => tracing::warn!(unit = self.unit.id(), %error, "a shim said what nobody understands"),
                    }
                }
                Some(command) = commands.recv() => {
                    let Ok(mut line) = serde_json::to_vec(&command) else { return };
                    line.push(b'\n');
                    if write.write_all(&line).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
