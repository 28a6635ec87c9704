//! What makes a container ours, and says what it is. Pure.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    manifest::{HealthSpec, Hooks, ProbeSpec, Protocol},
    runtime::UnitSpec,
};

/// The instance.
pub(super) const INSTANCE: &str = "dev.towline.instance";
/// The app: `namespace/App/name`.
pub(super) const APP: &str = "dev.towline.app";
/// The unit; also the container's name.
pub(super) const UNIT: &str = "dev.towline.unit";
/// Digest of the definition that it was made from.
pub(super) const GENERATION: &str = "dev.towline.generation";
/// When it was made.
const CREATED: &str = "dev.towline.created";
/// Its declared ports, as JSON.
const PORTS: &str = "dev.towline.ports";
/// How the agent finds out whether it works, as JSON; absent where the engine does, or nobody.
const HEALTH: &str = "dev.towline.health";
/// Its hooks, as JSON; absent where there are none.
const HOOKS: &str = "dev.towline.hooks";
/// The paths of its files from the root, as JSON; absent where no hook is to find them.
const FILES: &str = "dev.towline.files";

/// Where the agent that made it keeps its data, see [`Home`]. Says nothing about what it is.
const HOME: &str = "dev.towline.home";

/// What a container is for that is no unit.
pub(super) const ROLE: &str = "dev.towline.role";

/// The labels of a container that helps with something, and is no unit.
pub(super) fn of_helper(instance: &str, role: &str, home: Option<&Home>) -> HashMap<String, String> {
    let mut labels = HashMap::from(
        [(INSTANCE, instance), (ROLE, role)].map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    labels.extend(home.map(|home| (HOME.to_owned(), home.write())));
    labels
}

/// Where an agent keeps its data: on which host, and in which directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    host: String,
    dir: PathBuf,
}

impl Home {
    /// On this host.
    pub(super) fn here(dir: &Path) -> Self {
        Self { host: host(), dir: dir.to_owned() }
    }

    /// The directory, if it is on this host.
    pub(crate) fn on_this_host(self) -> Option<PathBuf> {
        (self.host == host()).then_some(self.dir)
    }

    pub(super) fn read(labels: &HashMap<String, String>) -> Option<Self> {
        let (host, dir) = labels.get(HOME)?.split_once(' ')?;
        Some(Self { host: host.to_owned(), dir: dir.into() })
    }

    fn write(&self) -> String {
        format!("{} {}", self.host, self.dir.display())
    }
}

/// What tells this host from others: the name of its installation, else its name on the network.
fn host() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    Some(id.trim()).filter(|id| !id.is_empty()).map_or_else(name, str::to_owned).replace(' ', "-")
}

/// A port as declared; which port of the host it got, the engine tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) fixed: bool,
}

/// What the labels say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) unit: String,
    pub(super) app: String,
    pub(super) generation: String,
    pub(super) created: Timestamp,
    pub(super) ports: Vec<Port>,
    /// Whose agent made it; those of older versions do not say.
    pub(super) home: Option<Home>,
    pub(super) health: Option<HealthSpec>,
    pub(super) hooks: Hooks,
    /// Where its files are, from the root; none where no hook is to find them.
    pub(super) files: Vec<PathBuf>,
}

impl Label {
    /// Of a new unit.
    pub(super) fn new(unit: String, spec: &UnitSpec, created: Timestamp) -> Self {
        let app = &spec.manifest.spec;
        let files = app.files.iter().map(|file| super::files::place(app, file));
        let ports = app.ports.iter().map(|port| Port {
            name: port.name.to_string(),
            port: port.port,
            protocol: port.protocol,
            fixed: port.host_port != 0,
        });
        Self {
            unit,
            app: spec.manifest.id.clone(),
            generation: spec.generation.clone(),
            created,
            ports: ports.collect(),
            home: None,
            health: app.health.clone().filter(is_looked_at_from_outside),
            hooks: app.hooks.clone(),
            files: if app.hooks.is_empty() { Vec::new() } else { files.collect() },
        }
    }

    /// As the engine keeps it.
    pub(super) fn write(&self, instance: &str) -> HashMap<String, String> {
        let ports = json(&self.ports);
        let home = self.home.iter().map(|home| (HOME.to_owned(), home.write()));
        let health = self.health.as_ref().map(|health| (HEALTH.to_owned(), json(health)));
        let hooks = (!self.hooks.is_empty())
            .then(|| [(HOOKS.to_owned(), json(&self.hooks)), (FILES.to_owned(), json(&self.files))]);
        let always = [
            (INSTANCE, instance),
            (APP, &self.app),
            (UNIT, &self.unit),
            (GENERATION, &self.generation),
            (CREATED, &self.created.to_string()),
            (PORTS, &ports),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        always.into_iter().chain(home).chain(health).chain(hooks.into_iter().flatten()).collect()
    }

    /// Reads it back; none of what is not ours, or was not made by us.
    pub(super) fn read(labels: &HashMap<String, String>, instance: &str) -> Option<Self> {
        let text = |name| labels.get(name).cloned();
        if labels.get(INSTANCE).map(String::as_str) != Some(instance) {
            return None;
        }
        Some(Self {
            unit: text(UNIT)?,
            app: text(APP)?,
            generation: text(GENERATION)?,
            created: labels.get(CREATED)?.parse().ok()?,
            ports: serde_json::from_str(labels.get(PORTS)?).ok()?,
            home: Home::read(labels),
            // What cannot be read was written by a newer agent, and the container is ours all the same.
            health: labels.get(HEALTH).and_then(|text| serde_json::from_str(text).ok()),
            hooks: labels.get(HOOKS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            files: labels.get(FILES).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        })
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names, numbers, texts and lists of them are JSON")
}

/// Whether it takes no command in the container.
fn is_looked_at_from_outside(health: &HealthSpec) -> bool {
    match health.probe {
        ProbeSpec::Tcp { .. } | ProbeSpec::Http { .. } => true,
        ProbeSpec::Exec { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        let port = Port { name: "http".to_owned(), port: 80, protocol: Protocol::Tcp, fixed: true };
        Label {
            unit: "web-1a2b3c4d".to_owned(),
            app: "default/App/web".to_owned(),
            generation: "0123456789abcdef".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            ports: vec![port],
            home: None,
            health: None,
            hooks: Hooks::default(),
            files: Vec::new(),
        }
    }

    #[test]
    fn a_home_is_read_again_and_is_here_or_elsewhere() {
        let home = Home::here(Path::new("/var/lib/a b"));
        let labels = Label { home: Some(home.clone()), ..label() }.write("default/shop-7");
        assert_eq!(Label::read(&labels, "default/shop-7").and_then(|label| label.home), Some(home.clone()));
        assert_eq!(home.clone().on_this_host(), Some("/var/lib/a b".into()));
        assert_eq!(Home { host: "another".to_owned(), ..home }.on_this_host(), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let probe = ProbeSpec::Http { port: "http".parse().unwrap(), path: "/a".to_owned(), status: 204 };
        let span = || "5s".parse().unwrap();
        let (interval, timeout, start_period) = (span(), span(), span());
        let health = HealthSpec { probe, interval, timeout, retries: 3, start_period };
        let hooks = Hooks { pre_stop: vec!["/bin/true".to_owned()], ..Hooks::default() };
        let hooked = Label { hooks, files: vec!["etc/a".into()], ..label() };
        for label in [label(), Label { health: Some(health), ..label() }, hooked] {
            assert_eq!(Label::read(&label.write("default/shop-7"), "default/shop-7"), Some(label));
        }
        let mut newer = label().write("default/shop-7");
        newer.insert(HEALTH.to_owned(), "{\"grpc\": {}}".to_owned());
        assert_eq!(Label::read(&newer, "default/shop-7"), Some(label()));
    }

    #[test]
    fn of_another_instance_or_with_a_part_missing_it_is_not_ours() {
        let written = label().write("default/shop-7");
        assert_eq!(Label::read(&written, "default/shop-8"), None);
        for missing in written.keys() {
            let mut labels = written.clone();
            labels.remove(missing);
            assert_eq!(Label::read(&labels, "default/shop-7"), None, "without {missing}");
        }
    }
}
