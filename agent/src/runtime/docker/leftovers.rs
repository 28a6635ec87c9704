//! Containers of any instance on some hosts, for whoever looks for those that nobody has any more.

use std::{path::Path, time::Duration};

use futures::future::join_all;
use towline_bus::task::Tasks;

use super::{
    endpoint::HostConfig,
    engine::{Engine, QUICK, Refusal, removal},
    labels::{self, Home},
};
use crate::runtime::RuntimeError;

/// How long connections may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container that bears our labels.
#[derive(Debug)]
pub(crate) struct Labelled {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) home: Option<Home>,
}

/// What a host has, by its name.
pub(crate) type OfHost = (Option<String>, Result<Vec<Labelled>, RuntimeError>);

/// The engines of some hosts.
#[derive(Debug)]
pub(crate) struct Engines {
    engines: Vec<(Option<String>, Engine)>,
    tasks: Tasks,
}

impl Engines {
    /// `program` is that of an agent, which takes part in SSH connections.
    pub(crate) fn open(hosts: &[HostConfig], program: &Path) -> Self {
        let tasks = Tasks::new();
        let engine = |host: &HostConfig| {
            let name = host.name.as_ref().map(ToString::to_string);
            (name, Engine::new(host.endpoint.clone(), program, &tasks))
        };
        Self { engines: hosts.iter().map(engine).collect(), tasks }
    }

    /// All that each of them has, or that it does not answer. All are asked at the same time.
    pub(crate) async fn labelled(&self) -> Vec<OfHost> {
        let looks = self.engines.iter().map(async |(name, engine)| (name.clone(), listed(engine).await));
        join_all(looks).await
    }

    /// Removes one from the engine of that host, with its unnamed volumes, whether it runs or not; one that has gone is no error.
    ///
    /// # Errors
    /// What the engine said.
    pub(crate) async fn remove(&self, host: Option<&str>, id: &str) -> Result<(), RuntimeError> {
        for (_, engine) in self.engines.iter().filter(|(name, _)| name.as_deref() == host) {
            let question = async |client: bollard::Docker| client.remove_container(id, Some(removal())).await;
            match engine.ask(QUICK, question).await {
                Ok(()) | Err(Refusal::NotFound(_)) => {}
                Err(refusal) => return Err(refusal.of("cannot remove a container")),
            }
        }
        Ok(())
    }

    /// Ends the connections.
    pub(crate) async fn close(self) {
        drop(self.engines);
        if !self.tasks.stop(PATIENCE).await {
            tracing::debug!("a connection to a host does not end in time; it ends with this process");
        }
    }
}

async fn listed(engine: &Engine) -> Result<Vec<Labelled>, RuntimeError> {
    let listed = engine.labelled(vec![labels::INSTANCE.to_owned()]).await?;
    let found = listed.into_iter().filter_map(|summary| {
        let (id, labels) = (summary.id?, summary.labels?);
        let name = summary.names.unwrap_or_default().into_iter().next().unwrap_or_else(|| id.clone());
        Some(Labelled {
            name: name.trim_start_matches('/').to_owned(),
            instance: labels.get(labels::INSTANCE)?.clone(),
            home: Home::read(&labels),
            id,
        })
    });
    Ok(found.collect())
}
