//! An SSH server of the tests' own on this machine, with keys made for the occasion.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use towline_agent::runtime::docker::{RemoteEngine, SshConfig};

/// A server; it ends with this.
pub(crate) struct Sshd {
    child: Option<Child>,
    pub(crate) port: u16,
    dir: TempDir,
}

fn keygen(file: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status();
    assert!(made.unwrap().success());
}

impl Sshd {
    /// One that is not started yet; root may come with the key `client`.
    pub(crate) fn prepare() -> Self {
        Self::prepared("")
    }

    fn prepared(more: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("towline-sshd").tempdir().unwrap();
        // It lets other users see what they are to see.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all("/run/sshd").expect("an ssh server is started by root");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let sshd = Self { child: None, port, dir };
        for key in ["host", "client", "stranger"] {
            keygen(&sshd.path(key));
        }
        fs::copy(sshd.path("client.pub"), sshd.path("authorized")).unwrap();
        for (file, key) in [("known_hosts", "host.pub"), ("wrong_hosts", "stranger.pub")] {
            let key = fs::read_to_string(sshd.path(key)).unwrap();
            fs::write(sshd.path(file), format!("[127.0.0.1]:{port} {key}")).unwrap();
        }
        fs::write(sshd.path("no_hosts"), "").unwrap();
        let shown = sshd.dir.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host\nPidFile none\nUsePAM no\nStrictModes no\nLogLevel VERBOSE\n\
             AuthorizedKeysFile {shown}/authorized\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             MaxStartups 100\n{more}"
        );
        fs::write(sshd.path("config"), config).unwrap();
        sshd
    }

    pub(crate) fn started() -> Self {
        Self::configured("")
    }

    /// One with more lines of configuration.
    pub(crate) fn configured(more: &str) -> Self {
        let mut sshd = Self::prepared(more);
        sshd.start();
        sshd
    }

    pub(crate) fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.path("config")).stdin(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("`make test-real` installs an ssh server"));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How often somebody was let in.
    pub(crate) fn accepted(&self) -> usize {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        // Beside these it tells which key it would take.
        let lets_in = |line: &&str| line.starts_with("Accepted ") && line.contains(" for ");
        log.lines().filter(lets_in).count()
    }

    /// The way to `socket` through it, with the key that it takes.
    pub(crate) fn way(&self, socket: &Path) -> SshConfig {
        SshConfig {
            address: "127.0.0.1".to_owned(),
            port: self.port,
            user: "root".to_owned(),
            known_hosts: self.path("known_hosts"),
            key: Some(self.path("client")),
            agent: None,
            password_file: None,
            engine: RemoteEngine::Socket(socket.to_owned()),
            timeout: Duration::from_secs(30),
        }
    }

    /// Processes of `ssh` that were started with its files.
    pub(crate) fn connections(&self) -> Vec<String> {
        let mark = format!("UserKnownHostsFile={}", self.dir.path().display());
        let found = Command::new("pgrep").args(["--full", "--list-full", &mark]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
