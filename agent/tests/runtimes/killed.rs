//! An agent that is killed while a command of it runs in a unit: the command ends with it, and the unit does not.
//!
//! The agent is a process: this very program, started for the one test that [`Agent::begin`] names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use towline_agent::{
    manifest,
    runtime::{
        ExecSpec, Runtime, UnitSpec, UnitStatus,
        docker::{DockerConfig, DockerRuntime},
        process::ProcessRuntime,
    },
    shim::Status,
};

use crate::{
    docker::{GATE, bare_image},
    engine::{Engine, IMAGE},
    process, until,
};

/// For a process to begin or end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process that stands for an agent is told.
const TOLD: &str = "TOWLINE_TEST_TOLD";

/// The site of an agent, and what it is to do there.
#[derive(Serialize, Deserialize)]
struct Site {
    dir: PathBuf,
    instance: String,
    /// Of an engine; without one units are processes.
    socket: Option<PathBuf>,
    unit: String,
    command: Vec<String>,
    /// Lines of the app's `spec`.
    more: String,
}

impl Site {
    fn new(dir: &TempDir, instance: &str, engine: Option<&Engine>) -> Self {
        let socket = engine.map(|engine| engine.socket.clone());
        let (dir, instance) = (dir.path().to_owned(), instance.to_owned());
        Self { dir, instance, socket, unit: String::new(), command: Vec::new(), more: String::new() }
    }

    async fn open(&self) -> Arc<dyn Runtime> {
        match &self.socket {
            Some(socket) => {
                let mark = crate::mark(&self.dir);
                Arc::new(DockerRuntime::open(DockerConfig::unnamed(&self.instance, socket, mark)).await)
            }
            None => Arc::new(ProcessRuntime::open(process::config(&self.dir)).await.unwrap()),
        }
    }

    /// Starts a unit; the runtime is closed then.
    async fn start(&mut self, image: &str, command: &str) -> UnitStatus {
        let runtime = self.open().await;
        let image = if self.socket.is_some() { format!("  image: {image}\n") } else { String::new() };
        let yaml = format!(
            "apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{image}  command: [{command}, \"1000\"]\n  \
             stop: {{gracePeriod: 0s}}\n{}",
            self.more
        );
        let manifest = manifest::parse(runtime.kind(), "killed", yaml.as_bytes()).unwrap().remove(0);
        let spec = UnitSpec { manifest: Arc::new(manifest), generation: "g".to_owned() };
        let unit = runtime.start(&spec).await.unwrap();
        self.unit.clone_from(&unit.unit);
        runtime.close().await;
        unit
    }

    /// Has an agent of its own begin `command`, and kills the agent once `count` processes sleep.
    async fn begin_and_kill(&mut self, command: &[&str], (count, seconds): (usize, &str)) {
        self.command = command.iter().map(|word| (*word).to_owned()).collect();
        let begun = self.begun();
        let mut agent = Agent::begin(self);
        until(PATIENCE, "the command to be begun", async || begun.exists() && sleepers(seconds) == count)
            .await;
        agent.0.kill().unwrap();
        agent.0.wait().unwrap();
    }

    fn begun(&self) -> PathBuf {
        self.dir.join("begun")
    }

    /// Sees that the unit runs on as it was, and ends it.
    async fn end(&self, unit: &UnitStatus) {
        let runtime = self.open().await;
        let found = runtime.list().into_iter().find(|found| found.unit == unit.unit).unwrap();
        assert_eq!((found.state.status, found.state.pid), (Status::Started, unit.state.pid), "{found:?}");
        runtime.delete_all().await.unwrap();
        runtime.close().await;
    }
}

/// A process that stands for an agent; killed with this.
struct Agent(Child);

impl Agent {
    fn begin(site: &Site) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "killed::what_an_agent_does_that_will_be_killed"]);
        command.env(TOLD, serde_json::to_string(site).unwrap()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the others start it"]
async fn what_an_agent_does_that_will_be_killed() {
    // Somebody runs all that is ignored.
    let Ok(told) = std::env::var(TOLD) else { return };
    let site: Site = serde_json::from_str(&told).unwrap();
    let runtime = site.open().await;
    let _exec = runtime.exec(&site.unit, ExecSpec::new(site.command.iter())).await.unwrap();
    fs::write(site.begun(), "").unwrap();
    std::future::pending().await
}

/// Processes of this host, and so of the containers of its engine, that sleep for so long.
fn sleepers(seconds: &str) -> usize {
    let words = format!("sleep\0{seconds}\0");
    processes(|process| shows(process, "cmdline", |line| line.ends_with(&words))).len()
}

/// Shells in containers of `instance` that run a script with `words` in it.
fn scripts(instance: &str, words: &str) -> Vec<PathBuf> {
    let entry = format!("TOWLINE_INSTANCE={instance}");
    let is_there = |environ: &str| environ.split('\0').any(|found| found == entry);
    processes(|process| {
        shows(process, "cmdline", |line| line.contains(words)) && shows(process, "environ", is_there)
    })
}

fn processes(are_meant: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    all.filter(|process| are_meant(process)).collect()
}

fn shows(process: &Path, file: &str, holds: impl Fn(&str) -> bool) -> bool {
    fs::read(process.join(file)).is_ok_and(|text| holds(&String::from_utf8_lossy(&text)))
}

/// Nobody else sleeps so long.
fn seconds(base: u32) -> String {
    (base + std::process::id()).to_string()
}

/// Of a command that ignores its signals, and so does what it started.
async fn ends_with_its_agent(mut site: Site, base: u32) {
    let (unit, seconds) = (site.start(IMAGE, "sleep").await, seconds(base));
    let script =
        format!("trap '' TERM HUP INT PIPE; sleep {seconds} & sh -c 'sleep {seconds}; true' & wait; wait");
    site.begin_and_kill(&["sh", "-c", &script], (2, &seconds)).await;
    // Nobody comes after the agent.
    until(PATIENCE, "the command to end", async || sleepers(&seconds) == 0).await;
    site.end(&unit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_ends_with_its_agent_on_processes() {
    let dir = tempfile::tempdir().unwrap();
    ends_with_its_agent(Site::new(&dir, "test/killed", None), 20_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_ends_with_its_agent_on_docker() {
    let (_among_others, dir) = (GATE.read().await, tempfile::tempdir().unwrap());
    ends_with_its_agent(Site::new(&dir, "test/killed", Some(&Engine::shared())), 30_000_000).await;
}

/// No guard stands there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_ends_with_the_next_agent_where_there_is_no_shell() {
    let (_among_others, dir) = (GATE.read().await, tempfile::tempdir().unwrap());
    let (engine, seconds) = (Engine::shared(), seconds(40_000_000));
    let image = bare_image(&engine, "towline-bare:2");
    let mut site = Site::new(&dir, "test/killed-bare", Some(&engine));
    let unit = site.start(&image, "/sleep").await;
    site.begin_and_kill(&["/sleep", &seconds], (1, &seconds)).await;
    assert_eq!(sleepers(&seconds), 1, "there is nobody who could end it");
    let next = site.open().await;
    until(PATIENCE, "the command to end", async || sleepers(&seconds) == 0).await;
    next.close().await;
    site.end(&unit).await;
    engine.docker(&["rmi", &image]);
}

/// A container with `pidMode: host` sees what runs in all others, whosever they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_other_instances_are_none_of_the_next_agents_business() {
    let (_among_others, engine) = (GATE.read().await, Engine::shared());
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, others) = (seconds(50_000_000), seconds(60_000_000));
    // Its name begins like the one whose commands are to be ended.
    let mut other = Site::new(&other_dir, "test/killed-host-2", Some(&engine));
    let other_unit = other.start(IMAGE, "sleep").await;
    let neighbour = other.open().await;
    let mut command = neighbour.exec(&other.unit, ExecSpec::new(["sleep", &others])).await.unwrap();
    until(PATIENCE, "the other's command to be begun", async || sleepers(&others) == 1).await;

    let mut site = Site::new(&dir, "test/killed-host", Some(&engine));
    site.more = "  docker: {pidMode: host}\n".to_owned();
    let unit = site.start(IMAGE, "sleep").await;
    site.command = vec!["sleep".to_owned(), own.clone()];
    let mut agent = Agent::begin(&site);
    let guards = || scripts(&site.instance, "read -r word");
    until(PATIENCE, "a command with its guard", async || sleepers(&own) == 1 && guards().len() == 1).await;
    // Neither ends it: that is left to the next agent.
    for guard in guards() {
        let pid = guard.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    until(PATIENCE, "no guard", async || guards().is_empty()).await;
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    assert_eq!(sleepers(&own), 1, "there is nobody who could end it");

    let next = site.open().await;
    until(PATIENCE, "the command to end", async || sleepers(&own) == 0).await;
    until(PATIENCE, "the look for it to end", async || scripts(&site.instance, "for round in").is_empty())
        .await;
    assert_eq!(sleepers(&others), 1, "another instance's command runs on");
    assert!(tokio::time::timeout(Duration::ZERO, command.next()).await.is_err(), "and has told of no end");
    next.close().await;
    site.end(&unit).await;
    drop(command);
    neighbour.close().await;
    other.end(&other_unit).await;
}
