//! Hooks beside a container that runs nothing: each in a throw-away container, which has what the unit's has.
//!
//! It bears our label with a role and the name of its unit, and no name of its own. What a crash has left of it goes before the
//! next hook of the unit, and with the unit.

use std::{collections::HashMap, path::Path};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerCreateBody, ContainerInspectResponse, HealthConfig, HostConfig},
    query_parameters::{InspectContainerOptions, LogsOptions, StartContainerOptions, WaitContainerOptions},
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use super::{
    super::{
        archive,
        engine::{QUICK, Refusal},
        host::{DockerHost, Seen},
        labels, logs,
    },
    Failure,
    log::{Cutter, LINES_MAX},
};
use crate::{
    runtime::{FILE_BYTES_MAX, RuntimeError},
    shim::HOOK_MAX,
};

/// What the helper is for, on its label.
const ROLE: &str = "hook";

impl DockerHost {
    /// Runs a hook beside a container that runs nothing.
    pub(super) async fn run_beside(&self, seen: &Seen, argv: &[String]) -> Result<(), Failure> {
        self.remove_hook_helpers(&seen.status.unit).await?;
        let helper = self.make_hook_helper(seen, argv).await?;
        let ran = async {
            self.give_files(seen, &helper).await?;
            let start =
                async |client: Docker| client.start_container(&helper, None::<StartContainerOptions>).await;
            self.change(start).await?;
            self.attend(&helper, &seen.status.unit).await
        };
        let ran = ran.await;
        // What is left of it is found by its label.
        if let Err(error) = self.remove_helper(&helper).await {
            tracing::warn!(unit = seen.status.unit, %error, "the helper of a hook cannot be removed yet");
        }
        ran
    }

    /// Removes what a crash has left of a unit's hooks, also one that still runs.
    pub(in super::super) async fn remove_hook_helpers(&self, unit: &str) -> Result<(), RuntimeError> {
        let wanted =
            vec![self.label_filter(), format!("{}={ROLE}", labels::ROLE), format!("{}={unit}", labels::UNIT)];
        let listed = self.inner.engine.labelled(wanted).await?;
        for id in listed.into_iter().filter_map(|summary| summary.id) {
            self.remove_helper(&id).await?;
        }
        Ok(())
    }

    async fn make_hook_helper(&self, seen: &Seen, argv: &[String]) -> Result<String, Failure> {
        let question = async |client: Docker| {
            client.inspect_container(&seen.container, None::<InspectContainerOptions>).await
        };
        let unit = self.inner.engine.ask(QUICK, question).await?;
        let mut labels = labels::of_helper(&self.inner.instance, ROLE, self.home().as_ref());
        labels.insert(labels::UNIT.to_owned(), seen.status.unit.clone());
        let body = body(&unit, &seen.container, argv, labels);
        Ok(self.create_container(None, body).await?)
    }

    /// The declared files, as they are in the unit's container.
    async fn give_files(&self, seen: &Seen, helper: &str) -> Result<(), Failure> {
        let most = FILE_BYTES_MAX + archive::AROUND;
        for path in &seen.course.files {
            let place = Path::new("/").join(path);
            let found = match self.download(&seen.container, &place, |all| all.len() > most).await {
                Err(Refusal::NotFound(_)) => continue,
                found => found?,
            };
            let moved = at_root(&found, path)
                .map_err(|error| Failure::Hook(format!("cannot be given {}: {error}", place.display())))?;
            self.upload(helper, moved.into()).await?;
        }
        Ok(())
    }

    /// Waits for the end of a helper, and takes over what it wrote.
    async fn attend(&self, helper: &str, unit: &str) -> Result<(), Failure> {
        let wait = async |client: Docker| match client
            .wait_container(helper, None::<WaitContainerOptions>)
            .try_next()
            .await
        {
            Ok(ended) => Ok(ended.map_or(-1, |ended| ended.status_code)),
            Err(Error::DockerContainerWaitError { code, .. }) => Ok(code),
            Err(error) => Err(error),
        };
        let ended = timeout(HOOK_MAX, self.inner.engine.ask(HOOK_MAX + QUICK, wait)).await;
        let words = timeout(QUICK, self.take_over_log(helper, unit)).await.unwrap_or_default();
        match ended {
            Ok(code) => super::verdict(code?, &words),
            Err(_) => Err(super::late(&words)),
        }
    }

    /// Returns its last words.
    async fn take_over_log(&self, helper: &str, unit: &str) -> String {
        let mut cutter = Cutter::default();
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            timestamps: true,
            tail: LINES_MAX.to_string(),
            ..LogsOptions::default()
        };
        if let Ok(client) = self.inner.engine.client().await {
            let mut outputs = client.logs(helper, Some(options));
            while let Some(Ok(output)) = outputs.next().await {
                let Some(line) = logs::line(output) else { continue };
                cutter.note(&line);
                self.inner.hook_log.push(unit, line);
            }
        }
        cutter.last_words()
    }
}

/// A container with what the one of a unit has: image, environment, user, directory, mounts, network and limits; but not its
/// ports, which are the unit's.
fn body(
    unit: &ContainerInspectResponse,
    container: &str,
    argv: &[String],
    labels: HashMap<String, String>,
) -> ContainerCreateBody {
    let config = unit.config.clone().unwrap_or_default();
    let host = unit.host_config.clone().unwrap_or_default();
    ContainerCreateBody {
        image: config.image,
        entrypoint: Some(argv.to_vec()),
        env: config.env,
        user: config.user,
        working_dir: config.working_dir,
        labels: Some(labels),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig {
            // Also those volumes that only the image declares.
            volumes_from: Some(vec![container.to_owned()]),
            network_mode: host.network_mode,
            privileged: host.privileged,
            pid_mode: host.pid_mode,
            ipc_mode: host.ipc_mode,
            nano_cpus: host.nano_cpus,
            memory: host.memory,
            memory_swap: host.memory_swap,
            pids_limit: host.pids_limit,
            log_config: host.log_config,
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// The first entry of `archive`, at `path` from the root.
fn at_root(archive: &[u8], path: &Path) -> std::io::Result<Vec<u8>> {
    let mut found = tar::Archive::new(archive);
    let mut there = tar::Builder::new(Vec::new());
    if let Some(entry) = found.entries()?.next() {
        let entry = entry?;
        let mut header = entry.header().clone();
        there.append_data(&mut header, path, entry)?;
    }
    there.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_has_what_its_unit_has_but_for_its_ports_and_its_restarts() {
        let text = serde_json::json!({
            "Config": {"Image": "busybox:1", "Env": ["A=b"], "User": "web", "WorkingDir": "/srv", "Cmd": ["sleep", "9"],
                "ExposedPorts": {"80/tcp": {}}},
            "HostConfig": {"NetworkMode": "host", "Memory": 4096, "PidsLimit": 5, "Privileged": false,
                "PortBindings": {"80/tcp": [{"HostPort": "80"}]}, "RestartPolicy": {"Name": "always"}},
        });
        let unit: ContainerInspectResponse = serde_json::from_value(text).unwrap();
        let made = body(&unit, "0123", &["/bin/true".to_owned()], HashMap::new());
        assert_eq!((made.image.as_deref(), made.user.as_deref()), (Some("busybox:1"), Some("web")));
        assert_eq!((made.entrypoint, made.cmd), (Some(vec!["/bin/true".to_owned()]), None));
        assert_eq!((made.env, made.exposed_ports), (Some(vec!["A=b".to_owned()]), None));
        let host = made.host_config.unwrap();
        assert_eq!(
            (host.network_mode.as_deref(), host.memory, host.pids_limit),
            (Some("host"), Some(4096), Some(5))
        );
        assert_eq!(host.volumes_from, Some(vec!["0123".to_owned()]));
        assert_eq!((host.port_bindings, host.restart_policy), (None, None));
    }

    #[test]
    fn a_file_is_moved_with_its_mode_and_owner() {
        let mut archive = tar::Builder::new(Vec::new());
        archive::append(&mut archive, Path::new("a.conf"), b"one", 0o640, (33, 34)).unwrap();
        let moved = at_root(&archive.into_inner().unwrap(), Path::new("etc/shop/a.conf")).unwrap();
        let mut moved = tar::Archive::new(moved.as_slice());
        let entry = moved.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("etc/shop/a.conf"));
        let header = entry.header();
        assert_eq!((header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0o640, 33, 34));
        assert!(at_root(&[], Path::new("a")).is_ok(), "what is not there is not given");
    }
}
