//! One agent per data directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::OpenStoreError;

/// Name of the file in the data directory.
const FILE: &str = "agent.lock";

/// The right to a data directory. The system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, OpenStoreError> {
        let unusable = |source: io::Error| OpenStoreError::Directory { dir: dir.to_owned(), source };
        let path = dir.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = fs::read_to_string(&path).unwrap_or_default();
                let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
                return Err(OpenStoreError::Locked { dir: dir.to_owned(), pid: pid.to_owned() });
            }
            Err(error) => return Err(unusable(error.into())),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // So that nobody is told the pid of an agent that has gone. Closing the file unlocks it.
        self.0.set_len(0).ok();
    }
}
