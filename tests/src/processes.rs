//! The real binaries as processes of their own, to be killed, frozen and cut off; gone afterwards, with their units.
//!
//! When a test fails, the ends of their logs are printed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::chain::{binary, instance};
use crate::docker::DockerEngine;
use crate::http_platform::HttpPlatform;
use crate::wait::{PATIENCE, until};

/// How much of a log a failed test shows.
const LINES_SHOWN: usize = 80;

/// A program under way. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
}

impl Program {
    /// Starts `command`; what it says is added to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).expect("the log can be written");
        let clone = file.try_clone().expect("a file can be cloned");
        // Nothing of the caller's own surroundings may tell it where to go.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TOWLINE_"))
        {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(clone).stderr(file).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, ended: None, log }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far, in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log holds a line with `text`, beginning at byte `from`; returns the line.
    ///
    /// # Panics
    /// When it ends before, or says nothing of the kind in time.
    pub async fn says(&mut self, text: &str, from: usize) -> String {
        until(&format!("{} to say `{text}`", self.name), || {
            let ended = self.child.try_wait().expect("its own child can be waited for");
            let log = self.log();
            let found = log.get(from..).unwrap_or_default().lines().find(|line| line.contains(text));
            assert!(found.is_some() || ended.is_none(), "{} ended ({ended:?}) without `{text}`", self.name);
            std::future::ready(found.map(str::to_owned))
        })
        .await
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "{} has ended", self.name);
        // Not waited for yet, so the pid is still its own.
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("its own child can be signalled");
    }

    /// Kills it with SIGKILL, if it runs.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            // It may have ended by itself; either way it is gone after the wait.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let name = format!("the end of {}", self.name);
        let look = || std::future::ready(self.child.try_wait().expect("its own child can be waited for"));
        let status = until(&name, look).await;
        self.ended = Some(status);
        status
    }

    /// Asks it to end with SIGTERM, and waits.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }
}

impl Drop for Program {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its programs said")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default().join("\n");
            eprintln!("---- {} ({:?}) ----\n{shown}", self.name, self.ended);
        }
    }
}

/// The word after `name=` in a line of a log.
fn field(line: &str, name: &str) -> Option<String> {
    let value = line.split_once(&format!("{name}="))?.1;
    value.split_whitespace().next().map(str::to_owned)
}

fn address(line: &str, name: &str) -> SocketAddr {
    let found = field(line, name).and_then(|text| text.parse().ok());
    found.unwrap_or_else(|| panic!("no address `{name}` in: {line}"))
}

/// A `towline-hub`.
#[derive(Debug)]
pub struct HubProcess {
    /// The process.
    pub program: Program,
    dir: TempDir,
    nats: String,
    api: SocketAddr,
    metrics: SocketAddr,
}

impl HubProcess {
    /// Starts one with a data directory of its own, and waits until its API listens; it need not reach the bus for that.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(nats: String) -> Self {
        let dir = tempfile::tempdir().expect("a place for the hub");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (program, api, metrics) = launch_hub(&dir, &nats, any, any).await;
        Self { program, dir, nats, api, metrics }
    }

    /// Starts it again, where it was; it must have ended.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_again(&mut self) {
        self.program.kill();
        let (program, ..) = launch_hub(&self.dir, &self.nats, self.api, self.metrics).await;
        self.program = program;
    }

    /// `http://address` of the API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// The file with the API's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("data/token")
    }

    fn token(&self) -> String {
        fs::read_to_string(self.token_file()).expect("the hub made its token").trim().to_owned()
    }

    /// An instance, through the API.
    #[must_use]
    pub fn platform(&self, name: &str) -> HttpPlatform {
        HttpPlatform::new(&self.url(), &self.token(), &instance(name))
    }

    /// What the API says of an instance; `None` when it knows none of this name, or does not answer now.
    pub async fn instance(&self, name: &str) -> Option<Value> {
        let url = format!("{}/v1/instances/{}", self.url(), instance(name));
        let answer = reqwest::Client::new().get(url).bearer_auth(self.token()).send().await.ok()?;
        if answer.status().is_success() { answer.json().await.ok() } else { None }
    }

    /// Waits until an instance stands so (`connected`, `unreachable`); returns its epoch.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn until_state(&self, name: &str, state: &str) -> u64 {
        until(&format!("{name} to be {state}"), || async {
            let found = self.instance(name).await?;
            let is_so = found.pointer("/presence/state").and_then(Value::as_str) == Some(state);
            if is_so { found.pointer("/session/epoch")?.as_u64() } else { None }
        })
        .await
    }

    /// The value of one series, as `/metrics` shows it.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        metric(self.metrics, series).await
    }

    /// Runs `towline` against this hub.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn cli(&self, args: &[&str]) -> Output {
        self.cli_reading(Stdio::null(), args).await
    }

    /// Runs `towline FROM | towline TO` against this hub; returns how each ended, and what the second one printed.
    ///
    /// # Panics
    /// When they do not end in time.
    pub async fn cli_pipe(&self, from: &[&str], to: &[&str]) -> (ExitStatus, Output) {
        let mut first = self.cli_command(from);
        first.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut first = first.spawn().expect("towline can be started");
        let pipe: Stdio =
            first.stdout.take().expect("it was asked for").try_into().expect("a pipe can be passed on");
        let output = self.cli_reading(pipe, to).await;
        let ended = tokio::time::timeout(PATIENCE, first.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("`towline {from:?}` hangs"));
        (ended.expect("its own child can be waited for"), output)
    }

    async fn cli_reading(&self, stdin: Stdio, args: &[&str]) -> Output {
        let running = self.cli_command(args).stdin(stdin).output();
        let ended = tokio::time::timeout(PATIENCE, running).await;
        ended.unwrap_or_else(|_| panic!("`towline {args:?}` hangs")).expect("towline can be started")
    }

    fn cli_command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(binary("towline"));
        command.arg("--hub").arg(self.url()).arg("--token-file").arg(self.token_file()).args(args);
        command.kill_on_drop(true);
        command
    }

    /// Runs `towline --output json`, which must succeed; returns what it printed.
    ///
    /// # Panics
    /// When it fails, or prints no JSON.
    pub async fn cli_json(&self, args: &[&str]) -> Value {
        let all: Vec<_> = ["--output", "json"].iter().chain(args).copied().collect();
        let output = self.cli(&all).await;
        assert!(output.status.success(), "towline {args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
    }
}

async fn launch_hub(
    dir: &TempDir,
    nats: &str,
    api: SocketAddr,
    metrics: SocketAddr,
) -> (Program, SocketAddr, SocketAddr) {
    let mut command = Command::new(binary("towline-hub"));
    command.arg("--nats").arg(nats);
    command.arg("--listen").arg(api.to_string()).arg("--metrics-listen").arg(metrics.to_string());
    command.arg("--data-dir").arg(dir.path().join("data"));
    let log = dir.path().join("log");
    let from = fs::metadata(&log).map_or(0, |log| log.len());
    let mut program = Program::start("towline-hub", command, log);
    let line = program.says("the hub serves", usize::try_from(from).unwrap_or(0)).await;
    (program, address(&line, "api"), address(&line, "metrics"))
}

/// A `towline-agent`. Dropping it kills it and its units.
#[derive(Debug)]
pub struct AgentProcess {
    /// The process. Fields are dropped in this order: an agent that lives would start its units again.
    pub program: Program,
    #[expect(dead_code, reason = "dropped to end the units")]
    units: Units,
    name: String,
    dir: TempDir,
    marks: PathBuf,
    nats: String,
    options: Vec<OsString>,
    metrics: SocketAddr,
}

impl AgentProcess {
    /// Starts one with a data directory of its own, and waits until it has opened that; it need not reach the bus. Its
    /// marks are its own, too, as on another host: tests that run at once share names of instances.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(name: &str, nats: String) -> Self {
        Self::start_with(name, nats, &[]).await
    }

    /// The same for one that runs containers on `engine`. They are gone with the engine, not with this.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_on(name: &str, nats: String, engine: &DockerEngine) -> Self {
        let options: [&OsStr; 4] =
            ["--runtime".as_ref(), "docker".as_ref(), "--docker-socket".as_ref(), engine.socket.as_ref()];
        Self::start_with(name, nats, &options).await
    }

    async fn start_with(name: &str, nats: String, options: &[&OsStr]) -> Self {
        let dir = tempfile::tempdir().expect("a place for the agent");
        let marks = dir.path().join("marks");
        Self::start_in(name, dir, marks, nats, options.iter().map(OsString::from).collect()).await
    }

    /// Another agent of the same instance, as on the same host: with a data directory of its own, and the same marks.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_beside(&self) -> Self {
        let dir = tempfile::tempdir().expect("a place for the agent");
        Self::start_in(&self.name, dir, self.marks.clone(), self.nats.clone(), self.options.clone()).await
    }

    async fn start_in(
        name: &str,
        dir: TempDir,
        marks: PathBuf,
        nats: String,
        options: Vec<OsString>,
    ) -> Self {
        let units = Units::below(&dir.path().join("data"));
        let command = agent_command(name, &dir, &marks, &nats, &options);
        let (program, metrics) = launch_agent(name, command, &dir).await;
        Self { program, units, name: name.to_owned(), dir, marks, nats, options, metrics }
    }

    /// Starts it again on its data directory; it must have ended.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_again(&mut self) {
        self.start_again_as(self.command()).await;
    }

    /// The same, by another command line.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_again_as(&mut self, command: Command) {
        self.program.kill();
        (self.program, self.metrics) = launch_agent(&self.name, command, &self.dir).await;
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What `/healthz` answers: the status, and the text. `None` when nobody answers now.
    pub async fn healthz(&self) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("http://{}/healthz", self.metrics)).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// The command line of this agent, for another try at its data directory.
    #[must_use]
    pub fn command(&self) -> Command {
        agent_command(&self.name, &self.dir, &self.marks, &self.nats, &self.options)
    }

    /// Where its mark is.
    #[must_use]
    pub fn marks(&self) -> &Path {
        &self.marks
    }

    /// A place for files that are the test's own; gone with the agent.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The value of one series, as `/metrics` shows it.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        metric(self.metrics, series).await
    }
}

/// The units of an agent. Dropping this kills them.
#[derive(Debug)]
pub struct Units {
    dir: PathBuf,
}

impl Units {
    /// Those of the agent with this data directory.
    #[must_use]
    pub fn below(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("units") }
    }

    /// The units and their supervisors, however they came to be there: a unit carries its own id in its environment, and its
    /// supervisor the unit's directory on its command line. Both are random, so nobody else is meant.
    fn processes(&self) -> Vec<Pid> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mark = |entry: fs::DirEntry| format!("TOWLINE_UNIT={}", entry.file_name().to_string_lossy());
        let marks: Vec<String> = entries.map(mark).collect();
        processes().filter(|pid| belongs(*pid, &self.dir, &marks)).collect()
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        // A supervisor may be just starting its command again.
        loop {
            let found = self.processes();
            if found.is_empty() {
                return;
            }
            for pid in found {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::yield_now();
        }
    }
}

fn agent_command(name: &str, dir: &TempDir, marks: &Path, nats: &str, options: &[OsString]) -> Command {
    let mut command = Command::new(binary("towline-agent"));
    command.arg("--nats").arg(nats);
    command.arg("--instance").arg(name).arg("--metrics-listen").arg("127.0.0.1:0");
    command.arg("--data-dir").arg(dir.path().join("data")).arg("--mark-dir").arg(marks);
    command.args(options);
    command
}

async fn launch_agent(name: &str, command: Command, dir: &TempDir) -> (Program, SocketAddr) {
    let log = dir.path().join("log");
    let from = fs::metadata(&log).map_or(0, |log| log.len());
    let title = format!("towline-agent {name}");
    let mut program = Program::start(&title, command, log);
    let line = program.says("the agent serves as soon as", usize::try_from(from).unwrap_or(0)).await;
    (program, address(&line, "metrics"))
}

async fn metric(address: SocketAddr, series: &str) -> Option<f64> {
    let text = reqwest::get(format!("http://{address}/metrics")).await.ok()?.text().await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
}

/// Whether a process is one of these units, or stands over one below this directory. A zombie is nobody any more, and has
/// neither environment nor command line.
fn belongs(pid: Pid, units: &Path, ids: &[String]) -> bool {
    let read = |name: &str| fs::read(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap_or_default();
    let below = format!("{}/", units.display());
    let is_marked =
        read("environ").split(|byte| *byte == 0).any(|entry| ids.iter().any(|id| id.as_bytes() == entry));
    is_marked || read("cmdline").split(|byte| *byte == 0).any(|word| word.starts_with(below.as_bytes()))
}

/// Whether a process lives; one that has ended and only waits for its parent does not.
#[must_use]
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in parentheses and may hold anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
