//! The real binary in a home of its own, and what it leaves there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A deadline that no healthy machine reaches.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user's home, empty at first. Output goes elsewhere, so that whatever is found in it was left behind.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
    elsewhere: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Panics unless it ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self { dir: TempDir::new().unwrap(), elsewhere: TempDir::new().unwrap() };
        for dir in ["tmp", "run"] {
            fs::create_dir(home.dir.path().join(dir)).unwrap();
        }
        home
    }

    /// A place for files that are the test's own.
    pub(crate) fn elsewhere(&self) -> &Path {
        self.elsewhere.path()
    }

    /// Writes a file that is the test's own.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.elsewhere.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_towline"));
        let home = self.dir.path();
        command.args(args).env_clear().current_dir(self.elsewhere.path()).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", home).env("TMPDIR", home.join("tmp")).env("XDG_RUNTIME_DIR", home.join("run"));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Running::start(self, args).end(args)
    }

    /// Runs a command in the background.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(self, args)
    }

    /// Starts `towline dev` on any port, and waits until it follows.
    pub(crate) fn dev(&self, args: &[&str]) -> Running {
        let args: Vec<&str> = ["dev", "--listen", "127.0.0.1:0"].iter().chain(args).copied().collect();
        let dev = Running::start(self, &args);
        dev.until("it follows", |_, stderr| stderr.contains("Ctrl-C stops everything"));
        dev
    }

    /// Files in the home, and processes that know of it.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let mut found = Vec::new();
        files_below(self.dir.path(), &mut found);
        let home = self.dir.path().to_str().unwrap().to_owned();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let knows = ["environ", "cmdline"].iter().any(|name| {
                let text = fs::read(entry.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&text).contains(&home)
            });
            if pid.bytes().all(|byte| byte.is_ascii_digit()) && knows {
                let cmdline = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("process {pid}: {}", cmdline.replace('\0', " ")));
            }
        }
        found
    }

    #[track_caller]
    pub(crate) fn expect_nothing_left(&self) {
        assert_eq!(self.left_behind(), Vec::<String>::new());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only a failing test leaves processes; they must not outlive it.
        for left in self.left_behind() {
            let pid = left.strip_prefix("process ").and_then(|rest| rest.split(':').next()?.parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn files_below(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files_below(&entry.path(), found);
        } else {
            found.push(entry.path().display().to_string());
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    output: [PathBuf; 2],
}

impl Running {
    fn start(home: &Home, args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("out").tempdir_in(home.elsewhere()).unwrap().keep();
        let output = [dir.join("stdout"), dir.join("stderr")];
        let [stdout, stderr] = output.clone().map(|path| fs::File::create(path).unwrap());
        let child = home.command(args).stdout(stdout).stderr(stderr).spawn().unwrap();
        Self { child, output }
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.output[0]).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.output[1]).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until what it said fulfils a condition.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&str, &str) -> bool) {
        wait_for(what, || {
            let (stdout, stderr) = (self.stdout(), self.stderr());
            if holds(&stdout, &stderr) { Ok(()) } else { Err(format!("stdout: {stdout}\nstderr: {stderr}")) }
        });
    }

    /// Waits until it ends.
    #[track_caller]
    pub(crate) fn end(mut self, args: &[&str]) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "{args:?} does not end: {}{}", self.stdout(), self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        };
        Ended { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.end(&["dev"])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until `look` says yes; panics with what it said last.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A manifest of one app.
pub(crate) fn app(name: &str, spec: &str) -> String {
    format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}
