//! A lock that one process holds at a time, with its name in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use towline_bus::clock;

use crate::holder::{Holder, Stopped};

/// Between two looks whether it is free.
const LOOK: Duration = Duration::from_millis(20);
/// How long a holder that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// The lock, held. The system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct LockFile(File);

/// Why it is not held.
#[derive(Debug)]
pub(crate) enum TakeError {
    /// Somebody else has it, who may have said who it is.
    Held(Option<Holder>),
    /// The file cannot be used.
    Io(io::Error),
}

impl LockFile {
    /// Takes the lock for `me`. Waits for `patience` for who holds it; and for as long as it takes where that is a process of
    /// the same instance that is stopped: when it is for longer than its lease, it is killed. Waits for the disk.
    ///
    /// # Errors
    /// That somebody has it who lives, or that the file cannot be used.
    #[expect(clippy::disallowed_methods, reason = "it is called where waiting for the disk is allowed")]
    pub(crate) fn take(path: &Path, me: &Holder, patience: Duration) -> Result<Self, TakeError> {
        let mut file = open(path).map_err(TakeError::Io)?;
        let (begun, mut stopped, mut killed) = (clock::now(), Stopped::default(), None);
        while !try_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(TakeError::Io)? {
            let (now, holder) = (clock::now(), named_in(path));
            let ours = holder.as_ref().filter(|other| me.instance.is_some() && other.instance == me.instance);
            let is_stopped = ours.and_then(Holder::find).is_some_and(|process| process.stopped);
            if let Some(frozen) = ours.filter(|_| stopped.seen(is_stopped, now) && killed.is_none()) {
                tracing::warn!(pid = frozen.pid, file = %path.display(), "its holder is frozen; killing it");
                frozen.kill().map_err(TakeError::Io)?;
                killed = Some(now);
            }
            let dies = killed.is_some_and(|at| now.since(at) < DYING);
            if !is_stopped && !dies && now.since(begun) >= patience {
                return Err(TakeError::Held(holder));
            }
            std::thread::sleep(LOOK);
        }
        let name = serde_json::to_vec(me).map_err(|error| TakeError::Io(error.into()))?;
        file.set_len(0).and_then(|()| file.write_all(&name)).map_err(TakeError::Io)?;
        Ok(Self(file))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // So that nobody is told of a holder that has gone. Closing the file unlocks it.
        self.0.set_len(0).ok();
    }
}

/// Opens the file of a lock, made when absent. Children do not inherit it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Tries to lock; says whether it is.
pub(crate) fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn named_in(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
