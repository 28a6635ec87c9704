use std::collections::BTreeSet;
use std::path::Path;

use towline_agent::doors;

/// The agent's configuration file: each host has one name, and what is refused is told with the file's.
pub fn config(data: &[u8]) {
    match doors::config(data, Path::new("/local.sock")) {
        Ok(config) => {
            let names: BTreeSet<_> = config.hosts.iter().map(|host| &host.name).collect();
            assert_eq!(names.len(), config.hosts.len(), "a host twice");
        }
        Err(complaints) => assert!(complaints.starts_with("agent.yaml: "), "{complaints:?}"),
    }
}
