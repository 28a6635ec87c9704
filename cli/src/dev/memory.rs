//! What was applied last, kept beside the data: a document that is removed while nothing runs is deleted at the next start.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use towline_hub::api::types::ResourceBytes;
use towline_protocol::ResourceId;

use super::plan::Applied;

/// The file, where data is kept; nothing where it is not.
#[derive(Debug)]
pub(super) struct Memory(Option<PathBuf>);

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    id: ResourceId,
    definition: ResourceBytes,
}

impl Memory {
    /// In a file, or nowhere.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self(file)
    }

    /// What was applied last. Without it nothing is deleted, which is the safe side.
    pub(super) fn recall(&self) -> Applied {
        let Some(text) = self.0.as_ref().and_then(|path| fs::read(path).ok()) else { return Applied::new() };
        match serde_json::from_slice::<Vec<Entry>>(&text) {
            Ok(entries) => entries.into_iter().map(|entry| (entry.id, entry.definition.into())).collect(),
            Err(error) => {
                tracing::warn!(%error, "what was applied last cannot be read; what was removed since stays");
                Applied::new()
            }
        }
    }

    /// Keeps it for the next time.
    pub(super) fn keep(&self, applied: &Applied) {
        let Some(path) = &self.0 else { return };
        let entry = |(id, bytes): &(ResourceId, bytes::Bytes)| Entry {
            id: id.clone(),
            definition: bytes.clone().into(),
        };
        let entries: Vec<Entry> = applied.iter().map(entry).collect();
        let draft = path.with_extension("new");
        let written = (|| {
            // Definitions may hold secrets.
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&serde_json::to_vec(&entries).map_err(io::Error::other)?)?;
            fs::rename(&draft, path)
        })();
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "what was applied cannot be noted for the next time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_recalled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("applied.json");
        let memory = Memory::new(Some(path.clone()));
        assert!(memory.recall().is_empty());
        let applied: Applied =
            vec![("default/App/a".parse().unwrap(), bytes::Bytes::from_static(b"\xff: a\n"))];
        memory.keep(&applied);
        assert_eq!(memory.recall(), applied);
        fs::write(path, "[").unwrap();
        assert!(memory.recall().is_empty());
        Memory::new(None).keep(&applied);
    }
}
