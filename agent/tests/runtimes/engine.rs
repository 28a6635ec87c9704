//! A Docker engine of the tests' own, one for all tests of this process; gone with it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// The image that an engine of ours has: busybox, with a user `web`.
pub(crate) const IMAGE: &str = "towline-test:1";

/// An engine. It ends when this process does: the script behind it waits for the end of its input.
pub(crate) struct Engine {
    pub(crate) socket: PathBuf,
    script: Mutex<Script>,
}

struct Script {
    #[expect(dead_code, reason = "it ends by itself, after the input")]
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Engine {
    /// The one that all tests share. Whoever does something to it that others would notice takes one of his own.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Engine>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Arc::new(Self::start("docker", &[]))))
    }

    /// Another one, which has no network; `name` is its own among those of this process.
    pub(crate) fn without_network(name: &str) -> Self {
        Self::start(name, &["without-network"])
    }

    /// One with options of `dockerd`.
    pub(crate) fn start(name: &str, options: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("towline-{name}-{}", std::process::id()));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/docker-engine");
        let mut child = Command::new(&script)
            .arg(&dir)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut script = Script { child, input, output };
        let socket = script.read();
        assert!(!socket.is_empty(), "no Docker engine could be started; `make test` installs what it needs");
        Self { socket: socket.into(), script: Mutex::new(script) }
    }

    /// Runs the engine's own client.
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        let output = Command::new("docker")
            .args(words)
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Full ids of all containers with a label, sorted.
    pub(crate) fn containers(&self, label: &str) -> Vec<String> {
        let filter = format!("label={label}");
        let ids = self.docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        let mut ids: Vec<String> = ids.split_whitespace().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    pub(crate) fn is_running(&self, container: &str) -> bool {
        let filter = format!("id={container}");
        !self.docker(&["ps", "--quiet", "--filter", &filter]).is_empty()
    }

    /// Lets the script do something to the engine: `freeze`, `thaw`, `kill`, `start`.
    pub(crate) fn tell(&self, word: &str) {
        let mut script = self.lock();
        writeln!(script.input, "{word}").unwrap();
        assert_eq!(script.read(), word);
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Script {
    fn read(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}
