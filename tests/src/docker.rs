//! A Docker engine of the tests' own (`scripts/docker-engine`); gone with what holds it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// The image that an engine of ours has: busybox.
pub const IMAGE: &str = "towline-test:1";

/// How long a call of the client may take, in seconds, and how `timeout` says that it took longer.
const CLIENT_SECONDS: &str = "120";
const TIMED_OUT: i32 = 124;

/// An engine. It ends when this is dropped: the script behind it waits for the end of its input.
#[derive(Debug)]
pub struct DockerEngine {
    /// Where it listens.
    pub socket: PathBuf,
    script: Child,
    #[expect(dead_code, reason = "open as long as the script writes")]
    output: BufReader<ChildStdout>,
}

impl DockerEngine {
    /// Starts one; waits while another test of this machine has one. `name` is its own among those of this process,
    /// and `options` are the engine's.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(name: &str, options: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("towline-{name}-{}", std::process::id()));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/docker-engine");
        let started = Command::new(&script)
            .arg(&dir)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = started.unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
        let mut output = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut socket = String::new();
        output.read_line(&mut socket).expect("the script writes text");
        assert!(!socket.is_empty(), "no Docker engine could be started; `make test` installs what it needs");
        Self { socket: PathBuf::from(socket.trim()), script: child, output }
    }

    /// Runs the engine's own client; returns what it printed.
    ///
    /// # Panics
    /// When it fails, or takes longer than any healthy engine has it take.
    pub fn docker(&self, words: &[&str]) -> String {
        let host = format!("unix://{}", self.socket.display());
        let bounded = ["--kill-after=5", CLIENT_SECONDS, "docker"];
        let output = Command::new("timeout").args(bounded).args(words).env("DOCKER_HOST", host).output();
        let output = output.expect("`timeout` is part of every system");
        assert_ne!(
            output.status.code(),
            Some(TIMED_OUT),
            "docker {words:?}: no end within {CLIENT_SECONDS} s"
        );
        assert!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What it was asked so far, in the words of its own log: `GET /containers/json?…`. Only with the option `--debug`.
    ///
    /// # Panics
    /// When it was started without.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        let log =
            std::fs::read_to_string(self.socket.with_file_name("log")).expect("the script writes a log");
        let call = |line: &str| Some(line.split_once("msg=\"Calling ")?.1.trim_end_matches('"').to_owned());
        let calls: Vec<String> = log.lines().filter_map(call).collect();
        assert!(!calls.is_empty(), "it tells its calls with --debug alone");
        calls
    }

    /// Full ids of all containers of an instance, sorted.
    pub fn containers(&self, instance: &str) -> Vec<String> {
        let filter = format!("label=dev.towline.instance={instance}");
        let ids = self.docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        let mut ids: Vec<String> = ids.split_whitespace().map(str::to_owned).collect();
        ids.sort();
        ids
    }
}

impl Drop for DockerEngine {
    fn drop(&mut self) {
        // Its end is what the script waits for; then it ends the engine, and removes its folder.
        drop(self.script.stdin.take());
        self.script.wait().ok();
    }
}
