//! One agent per data directory.

use std::path::Path;

use towline_protocol::InstanceId;

use super::OpenStoreError;
use crate::{
    holder::Holder,
    lock_file::{LockFile, TakeError},
};

/// Name of the file in the data directory.
const FILE: &str = "agent.lock";

/// Takes the right to the data directory `dir`. An agent of `instance` ends another one of it that is frozen.
pub(super) fn take(dir: &Path, instance: Option<&InstanceId>) -> Result<LockFile, OpenStoreError> {
    let me = Holder::me(instance.map(InstanceId::to_string));
    LockFile::take(&dir.join(FILE), &me, std::time::Duration::ZERO).map_err(|error| match error {
        TakeError::Held(holder) => {
            let pid = holder.map_or_else(|| "unknown".to_owned(), |holder| holder.pid.to_string());
            OpenStoreError::Locked { dir: dir.to_owned(), pid }
        }
        TakeError::Io(source) => OpenStoreError::Directory { dir: dir.to_owned(), source },
    })
}
