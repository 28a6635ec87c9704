//! Network namespaces with links between them, to be cut and joined; gone afterwards, with whatever runs in them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Namespaces of one test. Dropping them kills what runs in them.
#[derive(Debug)]
pub struct Namespaces {
    prefix: String,
    names: Vec<String>,
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
        Self { prefix: format!("tl-{}-", random.get(..8).unwrap_or(&random)), names: Vec::new() }
    }

    /// A new namespace that reaches nobody but itself.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn add(&mut self, name: &str) {
        let full = self.full(name);
        ip(&["netns", "add", &full]);
        self.names.push(full.clone());
        ip(&["-n", &full, "link", "set", "lo", "up"]);
    }

    /// A link between two namespaces. In each the end is named after the other; `a` gets the address `<subnet>.1`, `b`
    /// `<subnet>.2`.
    ///
    /// # Panics
    /// When it cannot be laid.
    pub fn link(&self, a: &str, b: &str, subnet: &str) {
        let (in_a, in_b) = (self.full(a), self.full(b));
        ip(&["link", "add", b, "netns", &in_a, "type", "veth", "peer", "name", a, "netns", &in_b]);
        for (namespace, device, host) in [(&in_a, b, 1), (&in_b, a, 2)] {
            ip(&["-n", namespace, "address", "add", &format!("{subnet}.{host}/24"), "dev", device]);
            ip(&["-n", namespace, "link", "set", device, "up"]);
        }
    }

    /// Cuts the link that [`Self::link`] laid: what is sent goes nowhere, and nobody is told.
    ///
    /// # Panics
    /// When there is none.
    pub fn cut(&self, a: &str, b: &str) {
        ip(&["-n", &self.full(a), "link", "set", b, "down"]);
    }

    /// Joins it again.
    ///
    /// # Panics
    /// When there is none.
    pub fn join(&self, a: &str, b: &str) {
        ip(&["-n", &self.full(a), "link", "set", b, "up"]);
    }

    /// A command to run in a namespace. `ip netns exec` becomes what it starts, so the pid is the program's own.
    #[must_use]
    pub fn command(&self, name: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.full(name), program]);
        command
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
            let pids = try_ip(&["netns", "pids", name]);
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
                // It may have ended meanwhile.
                let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            }
            // A failed test may panic only once.
            let _ = try_ip(&["netns", "delete", name]);
        }
    }
}

fn try_ip(args: &[&str]) -> Output {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("cannot run ip: {error}"))
}

fn ip(args: &[&str]) {
    let output = try_ip(args);
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}
