//! The `App`: its fields, their defaults (SURFACE), and how they are read from a tree.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use towline_protocol::Name;

use super::{
    container::{self, ContainerSpec},
    fields::{Field, Fields},
    health::{self, HealthSpec},
    hooks::{self, Hooks},
    host::HostChoice,
    quantity::{ByteSize, Span},
    resources::{self, Resources},
    rules, unsupported,
};
use crate::runtime::RuntimeKind;

/// An app as a runtime carries it out. Fields that it cannot honour are not here: they were refused.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AppSpec {
    /// Program and first arguments; at least one for a process, and in a container instead of the image's entry point.
    pub command: Vec<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Environment, besides what Towline adds (`PATH`, `PORT_<NAME>`, `TOWLINE_*`).
    pub env: BTreeMap<String, String>,
    /// Absolute directory to run in; the unit's own `work` directory when absent.
    pub working_dir: Option<PathBuf>,
    /// `user` or `user:group`, by name or number; the agent's own when absent.
    pub user: Option<String>,
    /// File mode mask.
    pub umask: u32,
    /// How many replicas run.
    pub units: u32,
    /// When a unit that ended is started again.
    pub restart: Restart,
    /// How a unit is asked to end.
    pub stop: Stop,
    /// Ports that each unit listens on.
    pub ports: Vec<PortSpec>,
    /// Files written before a unit starts.
    pub files: Vec<FileSpec>,
    /// How it is found out whether a unit works.
    // As with the resources below, nothing is written where nothing is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// Commands around the life of a unit.
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Other files replace the units; else they are written in place, under units that run on.
    // It shapes no unit, and units that older agents started must stay.
    #[serde(skip)]
    pub restart_on_config_change: bool,
    /// What each unit may use, and is promised.
    // Left out where nothing is declared: it shapes a unit, and those that older agents started must stay.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Bounds of the log that is kept of each unit.
    pub logs: LogSpec,
    /// How a changed definition replaces running units.
    pub strategy: Strategy,
    /// What is done about a unit that was lost behind our back.
    pub drift: Drift,
    /// A unit is a container, if this is there; else a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerSpec>,
}

impl AppSpec {
    /// Where it is to run, if it says so.
    pub(crate) fn host(&self) -> Option<&HostChoice> {
        self.container.as_ref()?.host.as_ref()
    }

    /// How long one step may take by what is declared: until a unit that is told to stop has ended, and another was made (whose image
    /// may have to be fetched) and started, each with the hooks around that, and is known to work.
    pub(crate) fn longest_turn(&self) -> Duration {
        let proof = self.health.as_ref().map_or(Duration::ZERO, HealthSpec::longest);
        let pull = self.container.as_ref().map_or(Duration::ZERO, ContainerSpec::longest_pull);
        self.stop
            .grace_period
            .get()
            .saturating_add(proof)
            .saturating_add(pull)
            .saturating_add(self.hooks.longest())
    }
}

/// When a unit that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Restart {
    /// After which endings.
    pub condition: Condition,
    /// Wait before the first restart; doubles with each further one.
    pub delay: Span,
    /// Longest wait.
    pub max_delay: Span,
    /// Restarts in a row before giving up; 0 is no end.
    pub attempts: u32,
}

/// After which endings a unit is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// After every one.
    Always,
    /// After one with another status than 0, or by a signal.
    OnFailure,
    /// After none.
    Never,
}

/// How a unit is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stop {
    /// Sent to the unit's whole process group.
    pub signal: StopSignal,
    /// What is left after this long is killed.
    pub grace_period: Span,
}

/// A signal that may be declared for stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names say it all")]
pub enum StopSignal {
    SigTerm,
    SigInt,
    SigQuit,
    SigHup,
    SigUsr1,
    SigUsr2,
    SigWinch,
    SigKill,
}

/// A port that a unit listens on; it learns the number as `PORT_<NAME>`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PortSpec {
    /// Name of the port, unique in the app.
    pub name: Name,
    /// The port within the app. A process has no port space of its own, so it listens on `PORT_<NAME>` instead.
    pub port: u16,
    /// The port on this host; 0 takes any free one.
    pub host_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address on this host.
    pub address: IpAddr,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As it is spelled.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A file that is written before a unit starts.
#[derive(Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileSpec {
    /// Absolute, or relative to the unit's working directory.
    pub path: PathBuf,
    /// What it holds.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner by name or number; the unit's user when absent.
    pub owner: Option<String>,
    /// Group by name or number; the unit's group when absent.
    pub group: Option<String>,
}

impl std::fmt::Debug for FileSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Content may be a secret and must not reach a log.
        let Self { path, content, mode, owner, group } = self;
        let bytes = content.len();
        write!(
            f,
            "FileSpec {{ path: {path:?}, bytes: {bytes}, mode: {mode:o}, owner: {owner:?}, group: {group:?} }}"
        )
    }
}

/// Bounds of the log that is kept of each unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct LogSpec {
    /// Size at which a file is full and the next one begins.
    pub max_size: ByteSize,
    /// How many files are kept.
    pub max_files: u32,
}

/// How a changed definition replaces running units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Strategy {
    /// One by one, or all at once.
    pub kind: StrategyType,
    /// How many units may be missing meanwhile.
    pub max_unavailable: u32,
    /// How many units more than declared may run meanwhile.
    pub max_surge: u32,
}

/// One by one, or all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum StrategyType {
    /// Units are replaced in turn.
    Rolling,
    /// All old units stop, then the new ones start.
    Recreate,
}

/// What is done about a unit that was lost behind our back (a killed supervisor, a reboot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Drift {
    /// It is started again.
    Repair,
    /// It is shown, and left to the user.
    Report,
}

const SIGNALS: [(&str, StopSignal); 8] = [
    ("SIGTERM", StopSignal::SigTerm),
    ("SIGINT", StopSignal::SigInt),
    ("SIGQUIT", StopSignal::SigQuit),
    ("SIGHUP", StopSignal::SigHup),
    ("SIGUSR1", StopSignal::SigUsr1),
    ("SIGUSR2", StopSignal::SigUsr2),
    ("SIGWINCH", StopSignal::SigWinch),
    ("SIGKILL", StopSignal::SigKill),
];

/// Reads `spec`. What cannot be read is complained about and replaced by its default, so that reading goes on.
pub(super) fn read(spec: &Field<'_>, runtime: RuntimeKind, in_bundle: bool) -> AppSpec {
    let mut fields = spec.clone().required().fields();
    let container = match runtime {
        RuntimeKind::Process => {
            unsupported::check(&mut fields, in_bundle);
            None
        }
        RuntimeKind::Docker => Some(container::read(&mut fields, in_bundle)),
    };
    let ports: Vec<PortSpec> = fields.get("ports").items().into_iter().filter_map(port).collect();
    let app = AppSpec {
        command: command(&fields.get("command"), container.is_none()),
        args: fields.get("args").texts(),
        env: fields.get("env").text_map(),
        working_dir: fields.get("workingDir").text().map(PathBuf::from),
        user: fields.get("user").text(),
        umask: octal(&fields.get("umask"), 0o777).unwrap_or(0o022),
        units: fields.get("units").number(0..=1000_u32).unwrap_or(1),
        restart: restart(fields.get("restart").fields(), container.is_some()),
        stop: stop(fields.get("stop").fields()),
        health: health::read(&fields.get("health"), &ports),
        hooks: hooks::read(fields.get("hooks").fields()),
        ports,
        files: fields.get("files").items().into_iter().filter_map(file).collect(),
        restart_on_config_change: fields.get("restartOnConfigChange").boolean().unwrap_or(true),
        resources: resources::read(fields.get("resources").fields()),
        logs: logs(fields.get("logs").fields()),
        strategy: strategy(fields.get("strategy").fields()),
        drift: drift_field(&fields.get("drift")),
        container,
    };
    fields.finish();
    app
}

/// What is done about drift, wherever that may be said.
pub(crate) fn drift_field(field: &Field<'_>) -> Drift {
    field.choice(&[("repair", Drift::Repair), ("report", Drift::Report)]).unwrap_or(Drift::Repair)
}

/// Permission bits, in octal digits.
pub(crate) fn mode_field(field: &Field<'_>) -> Option<u32> {
    octal(field, 0o7777)
}

/// A path from the root, without `.` and `..`.
pub(crate) fn path_field(field: &Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.clone().required().text()?);
    if path.is_absolute() && rules::is_plain(&path) {
        return Some(path);
    }
    field.refuse(format!("found {path:?}, allowed is an absolute path without . and .. in it"));
    None
}

fn command(field: &Field<'_>, required: bool) -> Vec<String> {
    let command = field.texts();
    let given = field.value().is_some() && !field.items().is_empty();
    if required && !given || command.first().is_some_and(String::is_empty) {
        field.refuse(
            "found no program, but the process runtime needs one: a list such as [/bin/sleep, \"10\"]",
        );
    }
    command
}

fn octal(field: &Field<'_>, most: u32) -> Option<u32> {
    let text = field.text()?;
    let digits = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let value = u32::from_str_radix(&text, 8).ok().filter(|value| digits && *value <= most);
    if value.is_none() {
        let found: String = text.chars().take(80).collect();
        field.refuse(format!("found {found:?}, allowed are octal digits in quotes up to {most:04o}"));
    }
    value
}

/// Shortest wait before a restart.
const LEAST_DELAY: std::time::Duration = std::time::Duration::from_millis(10);

/// `by_engine`: its own delays hold, and cannot be told.
fn restart(mut fields: Fields<'_>, by_engine: bool) -> Restart {
    let conditions =
        [("always", Condition::Always), ("on-failure", Condition::OnFailure), ("never", Condition::Never)];
    let condition = fields.get("condition").choice(&conditions).unwrap_or(Condition::Always);
    let first = fields.get("delay");
    let delay = first.parsed().unwrap_or_else(|| Span::from_secs(1));
    let most = fields.get("maxDelay");
    for field in [&first, &most].into_iter().filter(|field| by_engine && field.value().is_some()) {
        unsupported::refuse(
            field,
            "is unsupported by the docker runtime, whose engine has delays of its own",
        );
    }
    let max_delay = most.parsed().unwrap_or_else(|| Span::from_secs(60).max(delay));
    if delay.get() < LEAST_DELAY {
        first.refuse(format!("found {delay}, allowed is at least 10ms: a crash loop must not eat the host"));
    }
    if max_delay < delay {
        most.refuse(format!("found {max_delay}, allowed is at least delay, which is {delay}"));
    }
    let attempts = fields.get("attempts").number(0..=1_000_000_u32).unwrap_or(0);
    fields.finish();
    Restart { condition, delay, max_delay, attempts }
}

fn stop(mut fields: Fields<'_>) -> Stop {
    let stop = Stop {
        signal: fields.get("signal").choice(&SIGNALS).unwrap_or(StopSignal::SigTerm),
        grace_period: fields.get("gracePeriod").parsed().unwrap_or_else(|| Span::from_secs(10)),
    };
    fields.finish();
    stop
}

fn port(field: Field<'_>) -> Option<PortSpec> {
    let mut fields = field.required().fields();
    let name = fields.get("name").required().parsed();
    let port = fields.get("port").required().number(1..=u16::MAX);
    let host_port = fields.get("hostPort").number(0..=u16::MAX).unwrap_or(0);
    let protocol = fields
        .get("protocol")
        .choice(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)])
        .unwrap_or(Protocol::Tcp);
    let address = fields.get("address");
    let parsed = address.text().map_or_else(|| Some(Ipv4Addr::LOCALHOST.into()), |text| text.parse().ok());
    if parsed.is_none() {
        address.refuse("found no IP address, allowed is one such as 127.0.0.1 or ::1");
    }
    fields.finish();
    Some(PortSpec { name: name?, port: port?, host_port, protocol, address: parsed? })
}

fn file(field: Field<'_>) -> Option<FileSpec> {
    let mut fields = field.required().fields();
    let file = file_fields(&mut fields);
    fields.finish();
    file
}

/// The fields of a file, wherever they stand. Others may stand beside them.
pub(crate) fn file_fields(fields: &mut Fields<'_>) -> Option<FileSpec> {
    let path = fields.get("path").required().text();
    let text = fields.get("content");
    let encoded = fields.get("base64");
    let mode = octal(&fields.get("mode"), 0o7777).unwrap_or(0o600);
    let owner = fields.get("owner").text();
    let group = fields.get("group").text();
    let content = match (text.value().is_some(), encoded.value().is_some()) {
        (true, false) => text.text().map(String::into_bytes),
        (false, true) => decode(&encoded),
        (true, true) => {
            fields.refuse("found both content and base64, allowed is one of them");
            None
        }
        (false, false) => {
            fields.refuse("found neither content nor base64, one of them is required");
            None
        }
    };
    Some(FileSpec { path: PathBuf::from(path?), content: content?, mode, owner, group })
}

fn decode(field: &Field<'_>) -> Option<Vec<u8>> {
    let mut text = field.text()?;
    // Tools wrap base64 at 76 columns; YAML block scalars keep the line ends.
    text.retain(|character| !character.is_ascii_whitespace());
    let decoded = STANDARD.decode(text).ok();
    if decoded.is_none() {
        field.refuse("found no base64, allowed is the standard alphabet with padding");
    }
    decoded
}

fn logs(mut fields: Fields<'_>) -> LogSpec {
    // One file holds at least a few of the longest lines.
    const LEAST: u64 = 64 * 1024;
    let size = fields.get("maxSize");
    let max_size = size.parsed().unwrap_or_else(|| ByteSize::new(10 << 20));
    if max_size.get() < LEAST {
        size.refuse(format!("found {max_size}, allowed is at least {}", ByteSize::new(LEAST)));
    }
    let max_files = fields.get("maxFiles").number(1..=100_u32).unwrap_or(3);
    fields.finish();
    LogSpec { max_size, max_files }
}

fn strategy(mut fields: Fields<'_>) -> Strategy {
    let kinds = [("rolling", StrategyType::Rolling), ("recreate", StrategyType::Recreate)];
    let kind = fields.get("type").choice(&kinds).unwrap_or(StrategyType::Rolling);
    let missing = fields.get("maxUnavailable");
    let max_unavailable = missing.number(0..=1000_u32).unwrap_or(0);
    let max_surge = fields.get("maxSurge").number(0..=1000_u32).unwrap_or(1);
    if kind == StrategyType::Rolling && max_unavailable == 0 && max_surge == 0 {
        missing.refuse(
            "found 0 with maxSurge 0, allowed is at least 1 for one of them: nothing could ever be replaced",
        );
    }
    fields.finish();
    Strategy { kind, max_unavailable, max_surge }
}
