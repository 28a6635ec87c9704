//! How a container stands, from what the engine tells. Pure.

use std::{path::Path, time::Duration};

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Word, ContainerSummary,
    HealthStatusEnum, HealthcheckResult, PortMap, RestartPolicyNameEnum,
};
use jiff::Timestamp;

use super::{
    checks::Check,
    hooks::Course,
    host::{Seen, Unclear},
    labels::{Label, Port},
    request::port_key,
};
use crate::{
    health::{Health, Verdict},
    runtime::{PortBinding, UnitStatus},
    shim::{Ended, Status, UnitState},
};

/// Seconds that the engine gives a container to end which does not say.
const GRACE: u64 = 10;
/// How much of what a check says is told, in characters.
const LAST_WORDS: usize = 200;

/// What the list says of a container, without what changes by the clock alone: `Up 3 minutes` and `Up 4 minutes` are the
/// same, `Up 3 minutes (unhealthy)` is not.
pub(super) fn mark(summary: &ContainerSummary) -> String {
    let text = summary.status.as_deref().unwrap_or_default();
    let in_brackets = text.split('(').skip(1).filter_map(|rest| rest.split(')').next());
    // Started again meanwhile, it is up for a shorter time, and may have other ports.
    let ports = summary.ports.iter().flatten();
    let ports = ports.map(|port| (i64::from(port.private_port), port.public_port.map_or(0, i64::from)));
    let state = summary.state.as_ref().map(ToString::to_string).unwrap_or_default();
    // A container with hooks is called otherwise as it comes on (`hooks/course.rs`).
    let names = summary.names.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
    mark_of(&names, &state, &in_brackets.collect::<Vec<_>>(), ports.collect())
}

/// What the list will say of a container that is looked at closely, as [`mark`] has it. Where an engine puts it otherwise, the next
/// list has the container looked at once more.
pub(super) fn mark_to_be(found: &ContainerInspectResponse) -> String {
    let state = found.state.as_ref();
    let word = state.and_then(|state| state.status);
    let health = state.and_then(|state| state.health.as_ref()?.status);
    let code = || state.and_then(|state| state.exit_code).unwrap_or_default().to_string();
    let in_brackets = match (word, health) {
        (Some(Word::PAUSED), _) => Some("Paused".to_owned()),
        (Some(Word::EXITED | Word::RESTARTING), _) => Some(code()),
        (Some(Word::RUNNING), Some(HealthStatusEnum::STARTING)) => Some("health: starting".to_owned()),
        (Some(Word::RUNNING), Some(health @ (HealthStatusEnum::HEALTHY | HealthStatusEnum::UNHEALTHY))) => {
            Some(health.to_string())
        }
        _ => None,
    };
    let bound = found.network_settings.as_ref().and_then(|network| network.ports.as_ref());
    let mut ports = Vec::new();
    for (key, bindings) in bound.into_iter().flatten() {
        let Some(private) = key.split('/').next().and_then(|port| port.parse().ok()) else { continue };
        let public = bindings.iter().flatten().map(|binding| {
            let port = binding.host_port.as_ref().and_then(|port| port.parse().ok());
            (private, port.unwrap_or(0))
        });
        let before = ports.len();
        ports.extend(public);
        if ports.len() == before {
            ports.push((private, 0));
        }
    }
    let word = word.map(|word| word.to_string()).unwrap_or_default();
    let name = found.name.as_deref().unwrap_or_default();
    mark_of(name, &word, &in_brackets.iter().map(String::as_str).collect::<Vec<_>>(), ports)
}

/// Ports are pairs of the container's and the host's, 0 for none.
fn mark_of(names: &str, state: &str, in_brackets: &[&str], mut ports: Vec<(i64, i64)>) -> String {
    // The engine has them in any order.
    ports.sort_unstable();
    let ports: Vec<String> = ports.iter().map(|(inside, outside)| format!("{inside}:{outside}")).collect();
    format!("{names} {state} {in_brackets:?} {}", ports.join(" "))
}

/// A unit by its label; its host is added by whoever knows it.
fn status(label: Label, ports: Vec<PortBinding>, state: UnitState) -> UnitStatus {
    let Label { unit, app, generation, created, .. } = label;
    UnitStatus { unit, app, generation, created, host: None, ports, state }
}

/// A container that is ours, as a unit; none of what is not.
pub(super) fn unit(
    found: &ContainerInspectResponse,
    mark: String,
    instance: &str,
    now: Timestamp,
) -> Option<Seen> {
    let config = found.config.as_ref()?;
    let labels = config.labels.as_ref()?;
    let mut label = Label::read(labels, instance)?;
    let policy = found
        .host_config
        .as_ref()
        .and_then(|host| host.restart_policy.as_ref())
        .and_then(|policy| policy.name)
        .unwrap_or(RestartPolicyNameEnum::NO);
    let test = found.config.as_ref().and_then(|config| config.healthcheck.as_ref()?.test.clone());
    let state = state(found.state.as_ref()?, policy, found.restart_count.unwrap_or(0), test.as_deref(), now);
    let bound = found.network_settings.as_ref().and_then(|network| network.ports.as_ref());
    let ports = bound.map_or_else(Vec::new, |bound| ports(&label.ports, bound));
    let course = Course::read(&label, found);
    let check = label.health.take().map(|health| Check::new(health, found, &label.ports, &ports));
    let grace = config.stop_timeout.map_or(GRACE, |seconds| seconds.try_into().unwrap_or(0));
    Some(Seen {
        container: found.id.clone()?,
        mark,
        status: status(label, ports, state),
        grace: Duration::from_secs(grace),
        dir: Path::new("/").join(config.working_dir.as_deref().unwrap_or_default()),
        user: config.user.clone().unwrap_or_default(),
        check,
        has_commands: found.exec_ids.as_ref().is_some_and(|ids| !ids.is_empty()),
        course,
        unclear: None,
    })
}

/// A container that is ours, as a unit of which no more is known than that it is in a list.
pub(super) fn unseen(
    listed: &ContainerSummary,
    instance: &str,
    unclear: Unclear,
    now: Timestamp,
) -> Option<Seen> {
    let label = Label::read(listed.labels.as_ref()?, instance)?;
    let course = Course::read(&label, &ContainerInspectResponse::default());
    Some(Seen {
        container: listed.id.clone()?,
        mark: String::new(),
        status: status(label, Vec::new(), UnitState::new(Status::Unknown, now)),
        grace: Duration::from_secs(GRACE),
        dir: Path::new("/").to_owned(),
        user: String::new(),
        check: None,
        has_commands: false,
        course,
        unclear: Some(unclear),
    })
}

/// The ports of the host that it has.
fn ports(declared: &[Port], bound: &PortMap) -> Vec<PortBinding> {
    let binding = |port: &Port| {
        let bindings = bound.get(&port_key(port.port, port.protocol.word()))?.as_ref()?;
        let first = bindings.first()?;
        Some(PortBinding {
            name: port.name.clone(),
            port: port.port,
            host_port: first.host_port.as_ref()?.parse().ok()?,
            protocol: port.protocol,
            address: first.host_ip.as_ref()?.parse().ok()?,
            fixed: port.fixed,
        })
    };
    declared.iter().filter_map(binding).collect()
}

/// Restarts from which on a container is called crash-looping, as a process is.
const CRASH_LOOP: i64 = 3;

fn state(
    found: &ContainerState,
    policy: RestartPolicyNameEnum,
    restarts: i64,
    test: Option<&[String]>,
    now: Timestamp,
) -> UnitState {
    let time = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
    let ended = Ended::Exited(found.exit_code.and_then(|code| code.try_into().ok()).unwrap_or(-1));
    let mut checked = None;
    let (status, reason, last_end, final_state) = match found.status {
        Some(Word::RUNNING) => {
            let (status, reason, health) = health(found, test);
            checked = health;
            (status, reason, None, false)
        }
        Some(Word::RESTARTING) => {
            let looping = if restarts >= CRASH_LOOP { "crash-looping: " } else { "" };
            let reason = format!("{looping}{ended}; the engine starts it again");
            (Status::Error, Some(reason), Some(ended), false)
        }
        // Never started: an agent died before it could.
        Some(Word::CREATED) if found.error.as_deref().unwrap_or_default().is_empty() => {
            (Status::Stopped, None, None, true)
        }
        Some(Word::CREATED) => {
            let why = found.error.clone().unwrap_or_default();
            (Status::Error, Some(why.clone()), Some(Ended::NotStarted(why)), true)
        }
        Some(Word::EXITED) => {
            let (status, reason) = exited(&ended, policy);
            (status, reason, Some(ended), true)
        }
        Some(Word::PAUSED) => {
            (Status::Error, Some("paused by somebody else: `docker unpause` it".to_owned()), None, false)
        }
        Some(other) => (Status::Error, Some(format!("the engine says {other}")), Some(ended), true),
        None => (Status::Unknown, Some("the engine does not say how it stands".to_owned()), None, false),
    };
    let since = if found.running == Some(true) { time(&found.started_at) } else { time(&found.finished_at) };
    UnitState {
        status,
        reason,
        since: since.filter(|since| *since > Timestamp::UNIX_EPOCH).unwrap_or(now),
        health: checked,
        pid: found.pid.filter(|pid| *pid > 0).and_then(|pid| pid.try_into().ok()),
        start_time: None,
        restarts: restarts.try_into().unwrap_or(0),
        last_end,
        final_state,
        shim: None,
    }
}

/// What the engine finds out itself, by the command `test`.
fn health(found: &ContainerState, test: Option<&[String]>) -> (Status, Option<String>, Option<Health>) {
    let health = found.health.as_ref();
    let last = health.and_then(|health| health.log.as_ref()?.last());
    let verdict = match health.and_then(|health| health.status) {
        Some(HealthStatusEnum::STARTING) => Verdict::Starting(last.map(|last| failure(last, test))),
        Some(HealthStatusEnum::UNHEALTHY) => {
            Verdict::Unhealthy(last.map_or_else(String::new, |last| failure(last, test)))
        }
        Some(HealthStatusEnum::HEALTHY) => Verdict::Healthy,
        _ => return (Status::Started, None, None),
    };
    let (status, reason, health) = verdict.told();
    (status, reason, Some(health))
}

/// How a look of the engine failed: which command, how it ended, and its last words.
fn failure(look: &HealthcheckResult, test: Option<&[String]>) -> String {
    let said = look.output.as_deref().unwrap_or_default();
    let words: String = said.trim().lines().last().unwrap_or_default().chars().take(LAST_WORDS).collect();
    let program = test.and_then(|words| words.get(1)).map_or("its check", String::as_str);
    match look.exit_code {
        // It was not the command that ended.
        Some(..0) | None => format!("`{program}`: {words}"),
        Some(status) if words.is_empty() => format!("`{program}` exited with status {status}"),
        Some(status) => format!("`{program}` exited with status {status}: {words}"),
    }
}

/// Of what the engine does not start again by itself.
fn exited(ended: &Ended, policy: RestartPolicyNameEnum) -> (Status, Option<String>) {
    let sound = *ended == Ended::Exited(0);
    match policy {
        // Only somebody who stops it ends it; or the engine's own end.
        RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED => (Status::Stopped, None),
        RestartPolicyNameEnum::ON_FAILURE if !sound => (Status::Error, Some(format!("gave up: {ended}"))),
        _ if sound => (Status::Stopped, Some(ended.to_string())),
        _ => (Status::Error, Some(ended.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_closer_look_foresees_what_the_list_says() {
        let port = |private: u16, public: Value| json!({"PrivatePort": private, "PublicPort": public, "Type": "tcp"});
        let bound = json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "53/udp": null});
        let ports = json!([port(80, json!(8080)), port(53, Value::Null), port(80, json!(8080))]);
        for (listed, state) in [
            (("running", "Up 3 minutes"), json!({"Status": "running"})),
            (
                ("running", "Up 3 minutes (healthy)"),
                json!({"Status": "running", "Health": {"Status": "healthy"}}),
            ),
            (
                ("running", "Up 2 seconds (health: starting)"),
                json!({"Status": "running", "Health": {"Status": "starting"}}),
            ),
            (("running", "Up 2 seconds"), json!({"Status": "running", "Health": {"Status": "none"}})),
            (("paused", "Up 2 seconds (Paused)"), json!({"Status": "paused"})),
            (("exited", "Exited (137) 5 weeks ago"), json!({"Status": "exited", "ExitCode": 137})),
            (("restarting", "Restarting (1) 5 seconds ago"), json!({"Status": "restarting", "ExitCode": 1})),
            (("created", "Created"), json!({"Status": "created", "ExitCode": 0})),
        ] {
            let summary = json!({"Names": ["/web-1"], "Ports": ports, "State": listed.0, "Status": listed.1});
            let summary: ContainerSummary = serde_json::from_value(summary).unwrap();
            let found = json!({"Name": "/web-1", "State": state, "NetworkSettings": {"Ports": bound}});
            let found: ContainerInspectResponse = serde_json::from_value(found).unwrap();
            assert_eq!(mark_to_be(&found), mark(&summary), "{listed:?}");
        }
    }
}
