//! The process runtime and its shims, through the real binary.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

use std::{fs, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use towline_agent::{
    manifest::{self, Manifest},
    runtime::process::{
        DEFAULT_PATH, LogQuery, ProcessConfig, ProcessRuntime, RuntimeError, UnitLogLine, UnitSpec,
        UnitStatus,
    },
    shim::{LogStream, Status},
};

/// A runtime in a directory of its own; whatever a test leaves is killed with it.
struct Bench {
    dir: TempDir,
    runtime: ProcessRuntime,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = open(dir.path()).await;
        Self { dir, runtime }
    }

    async fn start(&self, spec: &str) -> Result<UnitStatus, RuntimeError> {
        self.runtime.start(&unit(spec)).await
    }

    fn status(&self, unit: &str) -> UnitStatus {
        self.runtime.list().into_iter().find(|status| status.unit == unit).unwrap()
    }

    async fn until(&self, unit: &str, what: &str, holds: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        wait(
            what,
            || Some(self.status(unit)).filter(|status| holds(status)),
            || format!("{:?}", self.status(unit)),
        )
        .await
    }

    fn instance(&self) -> String {
        instance(self.dir.path())
    }

    /// Pids of all processes that carry this bench's mark.
    fn marked(&self) -> Vec<u32> {
        pids_with(&format!("TOWLINE_INSTANCE={}", self.instance()))
    }

    async fn end(self) {
        self.runtime.stop_all().await.unwrap();
        assert_eq!(self.marked(), Vec::<u32>::new());
        for status in self.runtime.list() {
            self.runtime.delete(&status.unit).await.unwrap();
        }
        assert_eq!(fs::read_dir(self.dir.path().join("units")).unwrap().count(), 0);
        self.runtime.close().await;
    }
}

fn instance(dir: &Path) -> String {
    dir.file_name().unwrap().to_string_lossy().into_owned()
}

async fn open(dir: &Path) -> ProcessRuntime {
    let config = ProcessConfig {
        data_dir: dir.to_owned(),
        instance: instance(dir),
        shim: vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()],
        path: DEFAULT_PATH.to_owned(),
        extra_path: None,
    };
    ProcessRuntime::open(config).await.unwrap()
}

fn app(spec: &str) -> Arc<Manifest> {
    let yaml = format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{spec}");
    Arc::new(manifest::parse("test", yaml.as_bytes()).unwrap_or_else(|error| panic!("{error}")).remove(0))
}

fn unit(spec: &str) -> UnitSpec {
    UnitSpec { manifest: app(spec), generation: "g1".to_owned() }
}

/// `command: [/bin/sh, -c, …]`.
fn shell(script: &str) -> String {
    format!("  command: [/bin/sh, -c, {}]\n", serde_json::to_string(script).unwrap())
}

fn pids_with(mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// Waits until `look` finds something; panics with `describe` after a deadline that no healthy machine reaches.
async fn wait<T>(what: &str, look: impl Fn() -> Option<T>, describe: impl Fn() -> String) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain for {what}: {}", describe());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn lines(mut receiver: mpsc::Receiver<UnitLogLine>, count: usize) -> Vec<UnitLogLine> {
    let mut lines = Vec::new();
    while lines.len() < count {
        match timeout(Duration::from_secs(20), receiver.recv()).await {
            Ok(Some(line)) => lines.push(line),
            Ok(None) => break,
            Err(_) => panic!("only {} of {count} lines came", lines.len()),
        }
    }
    lines
}

fn query() -> LogQuery {
    LogQuery { app: "default/App/web".to_owned(), ..LogQuery::default() }
}

fn texts(lines: &[UnitLogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.text.as_str()).collect()
}

#[tokio::test]
async fn a_unit_starts_stops_and_leaves_nothing() {
    let bench = Bench::new().await;
    let started = bench.start("  command: [sleep, \"1000\"]\n").await.unwrap();
    assert_eq!(started.state.status, Status::Started);
    let pid = started.state.pid.unwrap();
    assert_eq!(bench.marked(), [u32::try_from(pid).unwrap()]);
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep\x001000"));
    bench.runtime.stop(&started.unit).await.unwrap();
    let stopped = bench.status(&started.unit);
    assert_eq!((stopped.state.status, stopped.state.reason), (Status::Stopped, None));
    assert!(!bench.dir.path().join("units").join(&started.unit).join("shim.sock").exists());
    bench.runtime.stop(&started.unit).await.unwrap();
    let again = bench.runtime.start_again(&started.unit).await.unwrap();
    assert_eq!(again.state.status, Status::Started);
    assert_ne!(again.state.pid, Some(pid));
    bench.end().await;
}

#[tokio::test]
async fn what_cannot_be_executed_says_why_and_leaves_nothing() {
    let bench = Bench::new().await;
    let table = [
        ("  command: [no-such-program]\n", "command `no-such-program` not found in PATH (/usr/local/sbin:"),
        ("  command: [/no/such]\n", "command `/no/such` does not exist"),
        ("  command: [/etc/passwd]\n", "command `/etc/passwd` may not be executed"),
        ("  command: [/bin/true]\n  workingDir: /no/such\n", "cannot enter the working directory /no/such"),
        ("  command: [/bin/true]\n  user: no-such-user\n", "there is no user \"no-such-user\""),
        (
            "  command: [/bin/true]\n  files: [{path: /no/such/file, content: x}]\n",
            "its directory does not exist",
        ),
    ];
    for (spec, expected) in table {
        let error = bench.start(spec).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(bench.runtime.list().is_empty(), "{spec}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_unit_sees_a_clean_environment_and_its_ports() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  env: {{COLOUR: red}}\n  umask: \"027\"\n  ports: [{{name: http-main, port: 80}}, {{name: dns, port: 53, protocol: udp}}]\n",
        shell("env | sort; umask; pwd; cat; exec sleep 1000")
    );
    let started = bench.start(&spec).await.unwrap();
    let ports: Vec<u16> = started.ports.iter().map(|port| port.host_port).collect();
    let work = bench.dir.path().canonicalize().unwrap().join("units").join(&started.unit).join("work");
    let expected = vec![
        "COLOUR=red".to_owned(),
        format!("HOME={}", work.display()),
        format!("PATH={DEFAULT_PATH}"),
        format!("PORT_DNS={}", ports[1]),
        format!("PORT_HTTP_MAIN={}", ports[0]),
        format!("PWD={}", work.display()),
        "TOWLINE_APP=default/App/web".to_owned(),
        "TOWLINE_GENERATION=g1".to_owned(),
        format!("TOWLINE_INSTANCE={}", bench.instance()),
        format!("TOWLINE_UNIT={}", started.unit),
        "0027".to_owned(),
        work.display().to_string(),
    ];
    let found = lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), expected.len()).await;
    assert_eq!(texts(&found), expected);
    bench.runtime.stop(&started.unit).await.unwrap();
    let again = bench.runtime.start_again(&started.unit).await.unwrap();
    assert_eq!(again.ports, started.ports, "ports are stable");
    bench.end().await;
}

#[tokio::test]
async fn a_fixed_port_in_use_is_refused_before_the_start() {
    let bench = Bench::new().await;
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let spec =
        format!("  command: [sleep, \"1000\"]\n  ports: [{{name: http, port: 80, hostPort: {port}}}]\n");
    let error = bench.start(&spec).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("port {port} (tcp on 127.0.0.1) of \"http\" is in use; free it")),
        "{error}"
    );
    drop(held);
    let first = bench.start(&spec).await.unwrap();
    let error = bench.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains(&format!("is in use by unit {}", first.unit)), "{error}");
    bench.runtime.delete(&first.unit).await.unwrap();
    bench.start(&spec).await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn the_restart_policy_holds() {
    let bench = Bench::new().await;
    let never = bench.start(&format!("{}  restart: {{condition: never}}\n", shell("exit 3"))).await.unwrap();
    let ended = bench.until(&never.unit, "the end", |status| status.state.final_state).await;
    assert_eq!(
        (ended.state.status, ended.state.reason.as_deref()),
        (Status::Error, Some("exited with status 3"))
    );

    let done =
        bench.start(&format!("{}  restart: {{condition: on-failure}}\n", shell("exit 0"))).await.unwrap();
    let ended = bench.until(&done.unit, "the end", |status| status.state.final_state).await;
    assert_eq!(
        (ended.state.status, ended.state.reason.as_deref()),
        (Status::Stopped, Some("exited with status 0"))
    );

    let spec = format!("{}  restart: {{delay: 10ms, maxDelay: 20ms, attempts: 5}}\n", shell("kill -9 $$"));
    let looping = bench.start(&spec).await.unwrap();
    let ended = bench.until(&looping.unit, "the end", |status| status.state.final_state).await;
    assert_eq!(ended.state.reason.as_deref(), Some("gave up after 5 restarts: killed by signal 9"));
    assert_eq!(ended.state.restarts, 5);

    let spec = format!("{}  restart: {{delay: 10ms, maxDelay: 1h}}\n", shell("exit 1"));
    let looping = bench.start(&spec).await.unwrap();
    let crash = |status: &UnitStatus| {
        status.state.reason.as_deref().is_some_and(|reason| reason.starts_with("crash-looping: exited"))
    };
    bench.until(&looping.unit, "a crash loop", crash).await;
    bench.end().await;
}

#[tokio::test]
async fn what_ignores_its_signal_is_killed_after_the_grace_period() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  stop: {{gracePeriod: 300ms}}\n",
        shell("trap '' TERM; echo ready; while :; do sleep 1; done")
    );
    let started = bench.start(&spec).await.unwrap();
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 1).await;
    let begun = tokio::time::Instant::now();
    bench.runtime.stop(&started.unit).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let ended = bench.status(&started.unit).state.last_end.map(|ended| ended.to_string());
    assert_eq!(ended.as_deref(), Some("killed by signal 9"));
    bench.end().await;
}

#[tokio::test]
async fn the_declared_signal_is_what_is_sent() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  stop: {{signal: SIGUSR1}}\n",
        shell("trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    );
    let started = bench.start(&spec).await.unwrap();
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 1).await;
    bench.runtime.stop(&started.unit).await.unwrap();
    let found = lines(bench.runtime.logs(query()), 9).await;
    // The shell itself may remark on its child, which got the signal, too.
    assert_eq!(texts(&found).last(), Some(&"caught"));
    assert_eq!(
        bench.status(&started.unit).state.last_end.map(|ended| ended.to_string()).as_deref(),
        Some("exited with status 7")
    );
    bench.end().await;
}

#[tokio::test]
async fn the_whole_group_and_those_who_fled_it_are_killed() {
    let bench = Bench::new().await;
    let script = "sleep 1000 & setsid sleep 1000 & (setsid env -i /bin/sleep 1234567 &) ; echo ready; wait";
    let started = bench.start(&shell(script)).await.unwrap();
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 1).await;
    let unmarked = || {
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| {
                fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"/bin/sleep\x001234567\0")
            })
            .count()
    };
    wait(
        "three sleepers",
        || (bench.marked().len() == 3 && unmarked() == 1).then_some(()),
        || format!("{:?}", bench.marked()),
    )
    .await;
    bench.runtime.stop(&started.unit).await.unwrap();
    assert_eq!((bench.marked().len(), unmarked()), (0, 0));
    bench.end().await;
}

#[tokio::test]
async fn leftovers_of_a_crash_do_not_meet_the_next_run() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  restart: {{delay: 10ms, maxDelay: 50ms}}\n",
        shell("setsid sleep 1000 & sleep 0.05; exit 1")
    );
    let started = bench.start(&spec).await.unwrap();
    bench.until(&started.unit, "some restarts", |status| status.state.restarts >= 4).await;
    assert!(bench.marked().len() <= 4, "{:?}", bench.marked());
    bench.end().await;
}

#[tokio::test]
async fn log_lines_come_in_order_and_survive_rotation() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  logs: {{maxSize: 64Ki, maxFiles: 100}}\n  restart: {{condition: never}}\n",
        shell(
            "i=0; while [ $i -lt 5000 ]; do echo \"line $i\"; i=$((i+1)); done; echo oops >&2; printf unfinished"
        )
    );
    let receiver = bench.runtime.logs(LogQuery { follow: true, ..query() });
    let started = bench.start(&spec).await.unwrap();
    let found = lines(receiver, 5002).await;
    let numbered: Vec<&str> = texts(&found).into_iter().filter(|text| text.starts_with("line ")).collect();
    let expected: Vec<String> = (0..5000).map(|number| format!("line {number}")).collect();
    assert_eq!(numbered, expected);
    assert!(found.iter().any(|line| line.line.stream == LogStream::Stderr && line.line.text == "oops"));
    bench.until(&started.unit, "the end", |status| status.state.final_state).await;
    let segments =
        fs::read_dir(bench.dir.path().join("units").join(&started.unit).join("logs")).unwrap().count();
    assert!(segments > 2, "{segments} segments");
    let all = lines(bench.runtime.logs(query()), 9999).await;
    assert_eq!(all, found);
    let last = lines(bench.runtime.logs(LogQuery { tail: Some(3), ..query() }), 9).await;
    assert_eq!(last, found[found.len() - 3..]);
    let late =
        lines(bench.runtime.logs(LogQuery { since: Some(found[4000].line.time), ..query() }), 9999).await;
    assert!(late.len() < 5002 && late.contains(&found[4000]));
    bench.end().await;
}

#[tokio::test]
async fn logs_stay_bounded() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  logs: {{maxSize: 64Ki, maxFiles: 2}}\n  restart: {{condition: never}}\n",
        shell(
            "head -c 1000000 /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 9000 ]; do echo \"a line of text $i\"; i=$((i+1)); done"
        )
    );
    let started = bench.start(&spec).await.unwrap();
    bench.until(&started.unit, "the end", |status| status.state.final_state).await;
    let logs = bench.dir.path().join("units").join(&started.unit).join("logs");
    let size: u64 = fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 2 * 64 * 1024, "{size}");
    let found = lines(bench.runtime.logs(query()), 99999).await;
    assert_eq!(found.last().unwrap().line.text, "a line of text 8999");
    bench.end().await;
}

#[tokio::test]
async fn lines_of_several_units_are_merged_by_time() {
    let bench = Bench::new().await;
    let spec = shell(
        "i=0; while [ $i -lt 30 ]; do echo $TOWLINE_UNIT $i; i=$((i+1)); sleep 0.01; done; exec sleep 1000",
    );
    let (one, two) = (bench.start(&spec).await.unwrap(), bench.start(&spec).await.unwrap());
    lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 60).await;
    let found = lines(bench.runtime.logs(query()), 999).await;
    assert_eq!(found.len(), 60);
    assert!(found.is_sorted_by_key(|line| line.line.time));
    let only = lines(bench.runtime.logs(LogQuery { unit: Some(two.unit.clone()), ..query() }), 999).await;
    assert!(only.len() == 30 && only.iter().all(|line| line.unit == two.unit && line.unit != one.unit));
    bench.end().await;
}

#[tokio::test]
async fn a_killed_shim_leaves_no_orphan() {
    let bench = Bench::new().await;
    let started = bench.start(&shell("setsid sleep 1000 & sleep 1000 & wait")).await.unwrap();
    wait("three processes", || (bench.marked().len() == 3).then_some(()), || format!("{:?}", bench.marked()))
        .await;
    kill(started.state.shim.unwrap().0);
    let lost = bench.until(&started.unit, "the loss", |status| status.state.final_state).await;
    assert_eq!(
        (lost.state.status, lost.state.reason.as_deref()),
        (Status::Error, Some("its supervisor was lost"))
    );
    assert_eq!(bench.marked(), Vec::<u32>::new());
    let again = bench.runtime.start_again(&started.unit).await.unwrap();
    assert_eq!(again.state.status, Status::Started);
    bench.end().await;
}

#[tokio::test]
async fn units_survive_their_agent() {
    let mut bench = Bench::new().await;
    let spec = format!("{}  ports: [{{name: http, port: 80}}]\n", shell("echo up; exec sleep 1000"));
    let mut before = Vec::new();
    for _ in 0..3 {
        before.push(bench.start(&spec).await.unwrap());
    }
    let dead = bench.start(&shell("setsid sleep 1000 & wait")).await.unwrap();
    bench.runtime.close().await;
    drop(bench.runtime);
    kill(dead.state.shim.unwrap().0);
    bench.runtime = open(bench.dir.path()).await;
    let state = bench.until(&dead.unit, "the loss", |status| status.state.final_state).await;
    assert_eq!(state.state.status, Status::Error);
    for status in &before {
        let found =
            bench.until(&status.unit, "its state", |status| status.state.status == Status::Started).await;
        assert_eq!(&found, status);
    }
    assert_eq!(bench.marked().len(), 3);
    let found = lines(bench.runtime.logs(query()), 99).await;
    assert_eq!(texts(&found), ["up", "up", "up"]);
    bench.end().await;
}

#[tokio::test]
async fn restarts_go_on_while_the_agent_is_away() {
    let mut bench = Bench::new().await;
    let started = bench
        .start(&format!("{}  restart: {{delay: 10ms, maxDelay: 20ms}}\n", shell("sleep 0.02; exit 1")))
        .await
        .unwrap();
    bench.runtime.close().await;
    drop(bench.runtime);
    tokio::time::sleep(Duration::from_millis(500)).await;
    bench.runtime = open(bench.dir.path()).await;
    bench.until(&started.unit, "restarts", |status| status.state.restarts > 3).await;
    bench.end().await;
}

#[tokio::test]
async fn files_are_written_owned_and_removed() {
    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("conf");
    let spec = format!(
        "{}  files: [{{path: a/b, content: inside}}, {{path: {}, content: outside, mode: \"0644\"}}]\n",
        shell("cat a/b; echo; exec sleep 1000"),
        path.display()
    );
    fs::write(&path, "theirs").unwrap();
    let error = bench.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("exists and is not of this app"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    fs::remove_file(&path).unwrap();
    let one = bench.start(&spec).await.unwrap();
    let two = bench.start(&spec).await.unwrap();
    let found = lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 2).await;
    assert_eq!(texts(&found), ["inside", "inside"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "outside");
    bench.runtime.delete(&one.unit).await.unwrap();
    assert!(path.exists(), "another unit of the app has it still");
    bench.runtime.delete(&two.unit).await.unwrap();
    assert!(!path.exists());
    bench.end().await;
}

#[tokio::test]
async fn a_log_reader_that_goes_away_ends() {
    let bench = Bench::new().await;
    bench.start("  command: [sleep, \"1000\"]\n").await.unwrap();
    drop(bench.runtime.logs(LogQuery { follow: true, ..query() }));
    let begun = tokio::time::Instant::now();
    bench.end().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
