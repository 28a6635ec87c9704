//! `towline` as a process, and a place for the files that it is given.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use towline_tests::chain::binary;
use towline_tests::wait::PATIENCE;

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ended {
    #[track_caller]
    pub(super) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// What was printed, one JSON object a line.
    #[track_caller]
    pub(super) fn objects(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Who types commands against one hub.
pub(super) struct Operator {
    url: String,
    token_file: PathBuf,
    pub(super) dir: TempDir,
}

impl Operator {
    pub(super) fn new(url: &str, token: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, token).unwrap();
        Self { url: url.to_owned(), token_file, dir }
    }

    /// Writes a file; its path is returned as text, for a command line.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(super) fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = Command::new(binary("towline"));
        command.arg("--hub").arg(&self.url).arg("--token-file").arg(&self.token_file);
        let mut command = tokio::process::Command::from(command);
        command.args(args).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(super) async fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "").await
    }

    pub(super) async fn run_with(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("towline can be started");
        // Whoever does not read it has ended, or ends without it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
        let output = tokio::time::timeout(PATIENCE * 3, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("`towline {args:?}` hangs")).unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("people read it");
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs a command whose answer is one JSON object.
    pub(super) async fn json(&self, args: &[&str]) -> Value {
        let all: Vec<_> = ["--output", "json"].iter().chain(args).copied().collect();
        self.run(&all).await.expect(0).objects().remove(0)
    }
}
