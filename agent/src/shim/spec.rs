//! What a shim is told: `spec.json` in the unit directory, written by the agent and readable by its owner alone.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use crate::{
    health::Rule,
    manifest::{Condition, Hooks, StopSignal},
};

/// How long a hook may take before it is killed.
pub(crate) const HOOK_MAX: Duration = Duration::from_secs(60);

/// Name of the file in a unit directory.
const FILE: &str = "spec.json";

/// All that a shim needs to know about its unit. Unknown fields are ignored, so that shims of several versions read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    pub(crate) instance: String,
    pub(crate) unit: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: PathBuf,
    pub(crate) umask: u32,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) restart: RestartRule,
    pub(crate) stop_signal: StopSignal,
    pub(crate) grace: Duration,
    pub(crate) log_max_size: u64,
    pub(crate) log_max_files: u32,
    /// What it is held to.
    #[serde(default)]
    pub(crate) bounds: Bounds,
    /// How it is found out whether it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<ShimHealth>,
    /// What is run around it.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub(crate) hooks: Hooks,
}

/// How a shim finds out whether its unit works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimHealth {
    pub(crate) probe: ShimProbe,
    pub(crate) rule: Rule,
}

/// What a shim looks at. `port` is the one that people know, `address` is where the unit listens instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ShimProbe {
    Tcp { address: SocketAddr, port: u16 },
    Http { address: SocketAddr, port: u16, path: String, status: u16 },
    Exec { command: Vec<String> },
}

/// Whose rights a unit has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// When to start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestartRule {
    pub(crate) condition: Condition,
    pub(crate) delay: Duration,
    pub(crate) max_delay: Duration,
    /// 0 is no end.
    pub(crate) attempts: u32,
}

impl ShimSpec {
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let text = fs::read(dir.join(FILE))?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {error}")))
    }

    /// How long hooks may keep the unit from having started.
    pub(crate) fn start_hooks_max(&self) -> Duration {
        hooks_max([&self.hooks.pre_start, &self.hooks.post_start])
    }

    /// How long the unit may take to end when it is told to, if all goes as declared.
    pub(crate) fn stop_max(&self) -> Duration {
        self.grace.saturating_add(hooks_max([&self.hooks.pre_stop, &self.hooks.post_stop]))
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        write_atomically(dir, FILE, &serde_json::to_vec(self)?)
    }
}

fn hooks_max(hooks: [&Vec<String>; 2]) -> Duration {
    hooks.into_iter().filter(|hook| !hook.is_empty()).map(|_| HOOK_MAX).sum()
}

/// Writes `name` in `dir` so that a reader finds the old content or the new, never half of it. Mode 0600. After a loss
/// of power it may be empty: for what is written often, and worth nothing when the unit has gone.
pub(crate) fn write_atomically(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    replace(dir, name, content, |_| Ok(()))
}

/// As [`write_atomically`], and it stays through a loss of power.
pub(crate) fn write_durably(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    replace(dir, name, content, fs::File::sync_all)?;
    fs::File::open(dir)?.sync_all()
}

fn replace(
    dir: &Path,
    name: &str,
    content: &[u8],
    settle: impl FnOnce(&fs::File) -> io::Result<()>,
) -> io::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    settle(&file)?;
    drop(file);
    fs::rename(&temporary, dir.join(name))
}
