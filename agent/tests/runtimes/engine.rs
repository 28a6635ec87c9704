//! A Docker engine of the tests' own, one for all tests of this process; gone with it.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The image that an engine of ours has: busybox, with a user `web`.
pub(crate) const IMAGE: &str = "towline-test:1";

/// How long a call of the client may take, in seconds, and how `timeout` says that it took longer.
const CLIENT_SECONDS: u32 = 120;
const TIMED_OUT: i32 = 124;

/// An engine. It ends when this process does: the script behind it waits for the end of its input.
pub(crate) struct Engine {
    pub(crate) socket: PathBuf,
    script: Mutex<Script>,
}

/// A registry of images that wants a login; gone with its last user.
pub(crate) struct Registry {
    /// `host:port`.
    pub(crate) address: String,
    #[expect(dead_code, reason = "dropped to end it")]
    script: Script,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let mut script = Script::start("docker-registry", "registry", &[]);
        let address = script.read();
        assert!(!address.is_empty(), "no registry could be started; `make test` installs what it needs");
        Self { address, script }
    }

    /// Writes a `config.json` with a login here into `dir`.
    pub(crate) fn login(&self, dir: &Path, password: &str) -> PathBuf {
        let (file, address) = (dir.join("config.json"), &self.address);
        let auths = serde_json::json!({"auths": {address: {"auth": base64(&format!("towline:{password}"))}}});
        std::fs::write(&file, auths.to_string()).unwrap();
        file
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

struct Script {
    /// It ends by itself, after the input.
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
        let mut script = Script::start("docker-engine", name, options);
        let socket = script.read();
        assert!(!socket.is_empty(), "no Docker engine could be started; `make test` installs what it needs");
        Self { socket: socket.into(), script: Mutex::new(script) }
    }

    /// Runs the engine's own client, which may take as long as no healthy engine takes.
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        self.docker_within(CLIENT_SECONDS, words).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Runs the engine's own client, and ends it after so many seconds.
    ///
    /// # Errors
    /// What it said, or that it was ended.
    pub(crate) fn docker_within(&self, seconds: u32, words: &[&str]) -> Result<String, String> {
        let output = Command::new("timeout")
            .args(["--kill-after=5", &seconds.to_string(), "docker"])
            .args(words)
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .output()
            .unwrap();
        if output.status.code() == Some(TIMED_OUT) {
            return Err(format!("docker {words:?}: no end within {seconds} s"));
        }
        if !output.status.success() {
            return Err(format!("docker {words:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
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

    /// Has the engine fall silent until what is returned is dropped: also by a test that fails, for whoever uses the engine
    /// beside it, and whoever ends it.
    #[must_use = "dropped, it thaws the engine"]
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        self.tell("freeze");
        Frozen(self)
    }

    /// Has it answer again, whoever froze it.
    pub(crate) fn thaw(&self) {
        self.tell("thaw");
    }

    /// Kills it with SIGKILL; its containers run on.
    pub(crate) fn kill(&self) {
        self.tell("kill");
    }

    /// Starts it again after [`Engine::kill`], and waits until it answers.
    pub(crate) fn start_again(&self) {
        self.tell("start");
        for _ in 0..CLIENT_SECONDS {
            if self.docker_within(1, &["version"]).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        panic!("the engine does not come back");
    }

    /// Ends it, and waits until nothing is left of it.
    pub(crate) fn end(self) {
        let Script { mut child, input, output } =
            self.script.into_inner().unwrap_or_else(PoisonError::into_inner);
        drop(input);
        child.wait().unwrap();
        drop(output);
    }

    fn tell(&self, word: &str) {
        assert_eq!(self.lock().tell(word).unwrap(), word);
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An engine that was made to fall silent.
pub(crate) struct Frozen<'a>(&'a Engine);

impl Frozen<'_> {
    /// Has it answer again.
    pub(crate) fn thaw(self) {}
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let told = self.0.lock().tell("thaw");
        // Whoever fails already is not to fail twice.
        assert!(
            std::thread::panicking() || told.is_ok_and(|word| word == "thaw"),
            "the engine's script has ended"
        );
    }
}

impl Script {
    /// Starts one of our scripts in a folder of its own.
    fn start(script: &str, name: &str, options: &[&str]) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("towline-{name}-{}-{number}", std::process::id()));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(script);
        let mut child = Command::new(&script)
            .arg(&dir)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn read(&mut self) -> String {
        self.heard().unwrap()
    }

    fn heard(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Says a word to it, and hears its answer.
    fn tell(&mut self, word: &str) -> io::Result<String> {
        writeln!(self.input, "{word}")?;
        self.heard()
    }
}
