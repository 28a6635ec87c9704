//! The small file beside the store: who it is, and which epoch it saw last.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use towline_protocol::{Epoch, StoreId};

use crate::shim::write_durably;

/// Name of the file in the data directory.
const FILE: &str = "identity.json";

/// What a claim says of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The store's id.
    pub store: StoreId,
    /// The last epoch it served under; none before the first session.
    pub last_epoch: Option<Epoch>,
}

impl Identity {
    /// What stands in the data directory `dir`; none before its first store.
    ///
    /// # Errors
    /// When the file is there but not readable.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(dir.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let parsed = serde_json::from_slice(&text);
        parsed
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {error}")))
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        write_durably(dir, FILE, &serde_json::to_vec(self)?)
    }
}
