//! What an earlier `towline dev` left behind because it was killed: its units, its data, its context file.

use std::fs;
use std::path::{Path, PathBuf};

use prometheus::Registry;
use towline_agent::{Agent, AgentConfig};
use towline_protocol::InstanceId;

use super::bundles;
use super::data_dir::PREFIX;
use crate::context::Context;

/// The context files of those that were killed, and their instances. Of a directory that is kept, the next one takes it up.
pub(crate) fn list(places: &[PathBuf]) -> Vec<(PathBuf, InstanceId)> {
    Context::orphans(places).into_iter().map(|(file, context)| (file, context.instance)).collect()
}

/// Stops and removes what is behind one context file, if its process is still gone.
///
/// # Errors
/// What cannot be removed.
pub(crate) async fn clear_file(places: &[PathBuf], file: &Path) -> Result<(), String> {
    let found = Context::orphans(places).into_iter().find(|(path, _)| path == file);
    let Some((file, context)) = found else { return Ok(()) };
    if let Some(scratch) = context.scratch.as_ref().filter(|scratch| is_ours(scratch)) {
        clear_one(scratch, &context).await.map_err(|error| error.to_string())?;
    }
    fs::remove_file(file).map_err(|error| error.to_string())
}

/// Stops and removes all of it. What cannot be removed stays for the next time.
pub(super) async fn clear(places: &[PathBuf]) {
    for (file, context) in Context::orphans(places) {
        let cleared = match &context.scratch {
            Some(scratch) if is_ours(scratch) => clear_one(scratch, &context).await,
            // A directory that was to be kept: the `towline dev` that uses it again finds its units there.
            _ => Ok(()),
        };
        match cleared {
            Ok(()) => drop(fs::remove_file(file)),
            Err(error) => {
                tracing::warn!(%error, "what an earlier `towline dev` left behind cannot be removed")
            }
        }
    }
}

/// The file says what is to be removed: better look twice.
fn is_ours(scratch: &Path) -> bool {
    let name = scratch.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    scratch.is_absolute() && name.starts_with(PREFIX) && scratch.is_dir()
}

async fn clear_one(scratch: &Path, context: &Context) -> Result<(), Box<dyn std::error::Error>> {
    let store = scratch.join("agent");
    if store.is_dir() {
        // The store's lock tells a process that lives where we cannot see it from one that has gone.
        let agent = Agent::open(AgentConfig::new(context.instance.clone(), store), Registry::new()).await?;
        for stays in bundles::delete_all(&*agent.platform()).await {
            tracing::warn!("{stays}");
        }
        let removed = agent.remove_units().await;
        agent.close().await;
        removed?;
    }
    Ok(fs::remove_dir_all(scratch)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_directories_are_removed() {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
        assert!(is_ours(dir.path()));
        let other = tempfile::tempdir().unwrap();
        for bad in
            [other.path(), Path::new("/"), Path::new("towline-dev-x"), Path::new("/nowhere/towline-dev-x")]
        {
            assert!(!is_ours(bad), "{}", bad.display());
        }
    }
}
