//! Network namespaces with links between them, to be cut and joined; gone afterwards, with whatever runs in them.
//!
//! Only root may make them. Whoever is not root is it in a user namespace, and all happens in there.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// Namespaces of one test. Dropping them kills what runs in them.
#[derive(Debug)]
pub struct Namespaces {
    realm: Option<Realm>,
    prefix: String,
    names: Vec<String>,
}

/// A user namespace where we are root, for as long as a process of ours keeps it.
#[derive(Debug)]
struct Realm(Child);

impl Realm {
    fn new() -> Self {
        // `ip` notes namespaces below /run, which there is one of its own.
        let keep = "mount -t tmpfs tmpfs /run && echo kept && exec sleep infinity";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c", keep]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot run unshare: {error}"));
        let mut said = String::new();
        let stdout = child.stdout.take().map(std::io::BufReader::new);
        // A line, or the end: then it has complained on standard error.
        let read = stdout.map(|mut stdout| stdout.read_line(&mut said));
        let realm = Self(child);
        assert_eq!(said, "kept\n", "no user namespace ({read:?}); scripts/netns-tools says what to do");
        realm
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Namespaces {
    /// None yet.
    ///
    /// # Panics
    /// When this machine has no namespaces for us; the message says what is missing.
    #[must_use]
    pub fn new() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/netns-tools");
        let made_sure = Command::new(&script).stdin(Stdio::null()).output();
        let made_sure = made_sure.unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
        assert!(made_sure.status.success(), "{}", String::from_utf8_lossy(&made_sure.stderr));
        let random = uuid::Uuid::new_v4().simple().to_string();
        let realm = (!geteuid().is_root()).then(Realm::new);
        Self { realm, prefix: format!("tl-{}-", random.get(..8).unwrap_or(&random)), names: Vec::new() }
    }

    /// A new namespace that reaches nobody but itself.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn add(&mut self, name: &str) {
        let full = self.full(name);
        self.ip(&["netns", "add", &full]);
        self.names.push(full.clone());
        self.ip(&["-n", &full, "link", "set", "lo", "up"]);
    }

    /// A link between two namespaces. In each the end is named after the other; `a` gets the address `<subnet>.1`, `b`
    /// `<subnet>.2`.
    ///
    /// # Panics
    /// When it cannot be laid.
    pub fn link(&self, a: &str, b: &str, subnet: &str) {
        let (in_a, in_b) = (self.full(a), self.full(b));
        self.ip(&["link", "add", b, "netns", &in_a, "type", "veth", "peer", "name", a, "netns", &in_b]);
        for (namespace, device, host) in [(&in_a, b, 1), (&in_b, a, 2)] {
            self.ip(&["-n", namespace, "address", "add", &format!("{subnet}.{host}/24"), "dev", device]);
            self.ip(&["-n", namespace, "link", "set", device, "up"]);
        }
    }

    /// Cuts the link that [`Self::link`] laid: what is sent goes nowhere, and nobody is told.
    ///
    /// # Panics
    /// When there is none.
    pub fn cut(&self, a: &str, b: &str) {
        self.ip(&["-n", &self.full(a), "link", "set", b, "down"]);
    }

    /// Joins it again.
    ///
    /// # Panics
    /// When there is none.
    pub fn join(&self, a: &str, b: &str) {
        self.ip(&["-n", &self.full(a), "link", "set", b, "up"]);
    }

    /// A command to run in a namespace. `ip netns exec` becomes what it starts, so the pid is the program's own.
    #[must_use]
    pub fn command(&self, name: &str, program: &str) -> Command {
        let mut command = self.command_ip();
        command.args(["netns", "exec", &self.full(name), program]);
        command
    }

    /// `ip`, where we are root. `nsenter` becomes what it starts, too.
    fn command_ip(&self) -> Command {
        let Some(Realm(keeper)) = &self.realm else { return Command::new("ip") };
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(keeper.id().to_string());
        command.args(["--user", "--mount", "--net", "--preserve-credentials", "ip"]);
        command
    }

    fn try_ip(&self, args: &[&str]) -> Output {
        let output = self.command_ip().args(args).stdin(Stdio::null()).output();
        output.unwrap_or_else(|error| panic!("cannot run ip: {error}"))
    }

    fn ip(&self, args: &[&str]) {
        let output = self.try_ip(args);
        assert!(
            output.status.success(),
            "ip {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            // A namespace lives as long as anything in it: nothing may stay.
            let pids = self.try_ip(&["netns", "pids", name]);
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                let pid = pid.parse().ok().and_then(Pid::from_raw);
                // It may have ended meanwhile.
                let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
            }
            // A failed test may panic only once.
            let _ = self.try_ip(&["netns", "delete", name]);
        }
    }
}
