//! Containers that bear our labels, on all hosts that were named.

use std::{collections::BTreeSet, path::PathBuf};

use super::{Places, Unseen, verdict::Container};
use crate::runtime::docker::{Endpoint, Engines, HostConfig, Labelled};

/// What the host with the local socket is called, where it has no other name.
const THIS_HOST: &str = "this host";

/// The hosts to look at, each once.
fn hosts(places: &Places) -> Vec<HostConfig> {
    let is_named = |socket: &PathBuf| {
        places.docker_hosts.iter().any(|host| host.endpoint == Endpoint::Socket(socket.clone()))
    };
    let own = places.docker_socket.iter().filter(|socket| !is_named(socket)).map(HostConfig::unnamed);
    own.chain(places.docker_hosts.iter().cloned()).collect()
}

/// All of them, and the hosts that could not be looked at.
pub(super) async fn list(places: &Places) -> (Vec<Container>, Vec<Unseen>) {
    let engines = Engines::open(&hosts(places), &places.program);
    let (mut found, mut unseen, mut known) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (host, listed) in engines.labelled().await {
        match listed {
            Ok(listed) => {
                // Two names may lead to one engine.
                let new = listed.into_iter().filter(|container| known.insert(container.id.clone()));
                found.extend(new.map(|Labelled { id, name, instance, home }| {
                    let home: Option<PathBuf> = home.and_then(|home| home.on_this_host());
                    Container { id, name, instance, home, host: host.clone() }
                }));
            }
            Err(error) => {
                let host = host.unwrap_or_else(|| THIS_HOST.to_owned());
                unseen.push(Unseen { host, why: error.to_string() });
            }
        }
    }
    engines.close().await;
    (found, unseen)
}

/// Removes one, with its unnamed volumes.
///
/// # Errors
/// What the engine said.
pub(super) async fn remove(places: &Places, host: Option<&str>, id: &str) -> Result<(), String> {
    let engines = Engines::open(&hosts(places), &places.program);
    let removed = engines.remove(host, id).await.map_err(|error| error.to_string());
    engines.close().await;
    removed
}
