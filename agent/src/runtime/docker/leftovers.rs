//! Containers of any instance, for whoever looks for those that nobody has any more.

use std::path::Path;

use towline_bus::task::Tasks;

use super::{
    endpoint::Endpoint,
    engine::{Engine, QUICK, Refusal, removal},
    labels::{self, Home},
};
use crate::runtime::RuntimeError;

/// A container that bears our labels.
#[derive(Debug)]
pub(crate) struct Labelled {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) home: Option<Home>,
}

/// The engine behind a socket of this host. No program is needed to reach it, and no task of it goes on.
fn engine_at(socket: &Path) -> Engine {
    Engine::new(Endpoint::Socket(socket.to_owned()), Path::new(""), &Tasks::new())
}

/// All that the engine at `socket` has.
///
/// # Errors
/// That it does not answer.
pub(crate) async fn labelled(socket: &Path) -> Result<Vec<Labelled>, RuntimeError> {
    let listed = engine_at(socket).labelled(vec![labels::INSTANCE.to_owned()]).await?;
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

/// Removes one with its unnamed volumes, whether it runs or not; one that has gone is no error.
///
/// # Errors
/// What the engine said.
pub(crate) async fn remove_labelled(socket: &Path, id: &str) -> Result<(), RuntimeError> {
    let question = async |client: bollard::Docker| client.remove_container(id, Some(removal())).await;
    match engine_at(socket).ask(QUICK, question).await {
        Ok(()) | Err(Refusal::NotFound(_)) => Ok(()),
        Err(refusal) => Err(refusal.of("cannot remove a container")),
    }
}
