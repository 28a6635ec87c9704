//! What the engine is asked to make of an app. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};

use super::labels::Label;
use crate::{
    manifest::{
        AppSpec, Condition, ContainerSpec, Cpu, HealthSpec, MountSpec, ProbeSpec, Propagation, Resources,
        Restart, StopSignal, port_variable,
    },
    proc,
};

/// Between two looks of the engine in the start period, at most; older engines know of none.
const SOON: std::time::Duration = std::time::Duration::from_secs(1);

/// The container of one unit.
pub(super) fn container(
    app: &AppSpec,
    container: &ContainerSpec,
    label: &Label,
    instance: &str,
) -> ContainerCreateBody {
    let argv = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    ContainerCreateBody {
        image: Some(container.image.clone()),
        entrypoint: argv(&app.command),
        cmd: argv(&app.args),
        env: Some(environment(app, label, instance)),
        working_dir: app.working_dir.as_ref().map(|dir| dir.display().to_string()),
        user: app.user.clone(),
        labels: Some(label.write(instance)),
        exposed_ports: Some(app.ports.iter().map(|port| port_key(port.port, port.protocol.word())).collect()),
        healthcheck: app.health.as_ref().map(health),
        stop_signal: Some(signal(app.stop.signal).to_owned()),
        stop_timeout: Some(seconds(app.stop.grace_period.get())),
        host_config: Some(host(app, container)),
        ..ContainerCreateBody::default()
    }
}

/// How the engine spells a port of a container.
pub(super) fn port_key(port: u16, protocol: &str) -> String {
    format!("{port}/{protocol}")
}

/// Whole seconds, at least as long.
pub(super) fn seconds(time: std::time::Duration) -> i64 {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX)
}

fn environment(app: &AppSpec, label: &Label, instance: &str) -> Vec<String> {
    // A container has ports of its own, so the one declared is the one to listen on.
    let ports = app.ports.iter().map(|port| (port_variable(port.name.as_str()), port.port.to_string()));
    let marks = [
        (proc::INSTANCE_MARK, instance),
        ("TOWLINE_APP", &label.app),
        (proc::UNIT_MARK, &label.unit),
        ("TOWLINE_GENERATION", &label.generation),
    ];
    let mut env: BTreeMap<String, String> = app.env.clone();
    env.extend(ports);
    env.extend(marks.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // Sorted, so that equal apps make equal requests.
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn host(app: &AppSpec, container: &ContainerSpec) -> HostConfig {
    let Resources { cpu, memory, swap, pids } = app.resources;
    let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let memory = memory.map(|size| bytes(size.get()));
    HostConfig {
        mounts: Some(container.mounts.iter().map(mount).collect()),
        network_mode: Some(container.network_mode.clone()),
        port_bindings: Some(bindings(app)),
        nano_cpus: cpu.map(nano_cpus),
        memory,
        // The engine counts both together. Without a word about swap there is none: a limit that spills is none.
        memory_swap: memory.map(|memory| memory.saturating_add(swap.map_or(0, |size| bytes(size.get())))),
        pids_limit: pids.map(i64::from),
        privileged: Some(container.privileged),
        pid_mode: container.pid_mode.clone(),
        ipc_mode: container.ipc_mode.clone(),
        restart_policy: Some(restart(&app.restart)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), app.logs.max_size.get().to_string()),
                ("max-file".to_owned(), app.logs.max_files.to_string()),
            ])),
        }),
        ..HostConfig::default()
    }
}

fn nano_cpus(cpu: Cpu) -> i64 {
    i64::try_from(cpu.millis()).unwrap_or(i64::MAX).saturating_mul(1_000_000)
}

fn bindings(app: &AppSpec) -> HashMap<String, Option<Vec<PortBinding>>> {
    let binding = |port: &crate::manifest::PortSpec| {
        let host_port = if port.host_port == 0 { String::new() } else { port.host_port.to_string() };
        let binding = PortBinding { host_ip: Some(port.address.to_string()), host_port: Some(host_port) };
        (port_key(port.port, port.protocol.word()), binding)
    };
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for (key, binding) in app.ports.iter().map(binding) {
        bindings.entry(key).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

fn mount(spec: &MountSpec) -> Mount {
    let is_volume = !spec.source.starts_with('/');
    let propagation = match spec.propagation {
        Propagation::Private => MountBindOptionsPropagationEnum::PRIVATE,
        Propagation::Rprivate => MountBindOptionsPropagationEnum::RPRIVATE,
        Propagation::Shared => MountBindOptionsPropagationEnum::SHARED,
        Propagation::Rshared => MountBindOptionsPropagationEnum::RSHARED,
        Propagation::Slave => MountBindOptionsPropagationEnum::SLAVE,
        Propagation::Rslave => MountBindOptionsPropagationEnum::RSLAVE,
    };
    let bind = MountBindOptions {
        propagation: Some(propagation),
        // What is to be made was made before, see `mounts.rs`; what is not there otherwise is an error.
        ..MountBindOptions::default()
    };
    Mount {
        typ: Some(if is_volume { MountType::VOLUME } else { MountType::BIND }),
        source: Some(spec.source.clone()),
        target: Some(spec.target.display().to_string()),
        read_only: Some(spec.read_only),
        bind_options: (!is_volume).then_some(bind),
        ..Mount::default()
    }
}

fn restart(rule: &Restart) -> RestartPolicy {
    let attempts = i64::from(rule.attempts);
    let (name, maximum_retry_count) = match rule.condition {
        // What was stopped stays so when the engine starts anew: the agent starts what is to run.
        Condition::Always if rule.attempts == 0 => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        Condition::Always | Condition::OnFailure => (RestartPolicyNameEnum::ON_FAILURE, Some(attempts)),
        Condition::Never => (RestartPolicyNameEnum::NO, None),
    };
    RestartPolicy { name: Some(name), maximum_retry_count }
}

/// The check that the engine makes itself. The others are the agent's, and take the place of one that the image brings.
fn health(spec: &HealthSpec) -> HealthConfig {
    let ProbeSpec::Exec { command } = &spec.probe else {
        return HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() };
    };
    let nanos = |span: crate::manifest::Span| i64::try_from(span.get().as_nanos()).unwrap_or(i64::MAX);
    let soon = i64::try_from(SOON.min(spec.interval.get()).as_nanos()).unwrap_or(i64::MAX);
    HealthConfig {
        test: Some(std::iter::once("CMD".to_owned()).chain(command.iter().cloned()).collect()),
        interval: Some(nanos(spec.interval)),
        timeout: Some(nanos(spec.timeout)),
        retries: Some(i64::from(spec.retries)),
        start_period: Some(nanos(spec.start_period)),
        start_interval: (spec.start_period.get() > std::time::Duration::ZERO).then_some(soon),
    }
}

fn signal(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::SigTerm => "SIGTERM",
        StopSignal::SigInt => "SIGINT",
        StopSignal::SigQuit => "SIGQUIT",
        StopSignal::SigHup => "SIGHUP",
        StopSignal::SigUsr1 => "SIGUSR1",
        StopSignal::SigUsr2 => "SIGUSR2",
        StopSignal::SigWinch => "SIGWINCH",
        StopSignal::SigKill => "SIGKILL",
    }
}
