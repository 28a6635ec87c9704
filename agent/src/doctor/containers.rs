//! Containers of an engine that bear our labels.

use std::path::{Path, PathBuf};

use super::verdict::Container;
use crate::runtime::docker::{Labelled, labelled, remove_labelled};

/// All of them.
///
/// # Errors
/// That the engine does not answer.
pub(super) async fn list(socket: &Path) -> Result<Vec<Container>, String> {
    let found = labelled(socket).await.map_err(|error| error.to_string())?;
    let container = |Labelled { id, name, instance, home }: Labelled| {
        let home: Option<PathBuf> = home.and_then(|home| home.on_this_host());
        Container { id, name, instance, home }
    };
    Ok(found.into_iter().map(container).collect())
}

/// Removes one, with its unnamed volumes.
///
/// # Errors
/// What the engine said.
pub(super) async fn remove(socket: &Path, id: &str) -> Result<(), String> {
    remove_labelled(socket, id).await.map_err(|error| error.to_string())
}
