//! Files of units, read and written with the units' own rights (see `shim/file_op.rs`).

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::{ProcessRuntime, RuntimeError, blocking, unit::Unit, users};
use crate::{
    runtime::{FILE_BYTES_MAX, FileAccess, FileStat},
    shim::{FileAnswer, FileOp, ShimSpec},
};

/// How long a file may take. Its content fits memory; a disk that needs longer does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

impl ProcessRuntime {
    /// See [`Runtime::read`](crate::runtime::Runtime::read).
    ///
    /// # Errors
    /// As there.
    pub async fn read(&self, unit: &str, path: &Path) -> Result<Bytes, RuntimeError> {
        match self.at_file(unit, path, Bytes::new(), |path| FileOp::Read { path }).await? {
            (FileAnswer::Read { .. }, content) => Ok(content.into()),
            (answer, _) => Err(refused(path, answer)),
        }
    }

    /// See [`Runtime::stat`](crate::runtime::Runtime::stat).
    ///
    /// # Errors
    /// As there.
    pub async fn stat(&self, unit: &str, path: &Path) -> Result<FileStat, RuntimeError> {
        match self.at_file(unit, path, Bytes::new(), |path| FileOp::Stat { path }).await? {
            (FileAnswer::Stat(stat), _) => Ok(stat),
            (answer, _) => Err(refused(path, answer)),
        }
    }

    /// See [`Runtime::copy`](crate::runtime::Runtime::copy).
    ///
    /// # Errors
    /// As there.
    pub async fn copy(
        &self,
        unit: &str,
        path: &Path,
        content: Bytes,
        access: &FileAccess,
    ) -> Result<(), RuntimeError> {
        let size = content.len() as u64;
        if content.len() > FILE_BYTES_MAX {
            return Err(RuntimeError::FileTooLarge { path: path.to_owned(), size, max: FILE_BYTES_MAX });
        }
        let uid = access.owner.as_deref().map(|name| users::uid("owner", name)).transpose()?;
        let gid = access.group.as_deref().map(|name| users::gid("group", name)).transpose()?;
        let _turn = self.mark().turn().await?;
        let _alone = self.inner.copying.lock().await;
        let op = |path| FileOp::Copy { path, size, mode: access.mode & 0o7777, uid, gid };
        match self.at_file(unit, path, content, op).await? {
            (FileAnswer::Copied, _) => Ok(()),
            (answer, _) => Err(refused(path, answer)),
        }
    }

    async fn at_file(
        &self,
        unit: &str,
        path: &Path,
        content: Bytes,
        op: impl FnOnce(PathBuf) -> FileOp,
    ) -> Result<(FileAnswer, Vec<u8>), RuntimeError> {
        let unit = self.find(unit)?;
        let failed = |error| RuntimeError::io(path.display().to_string(), error);
        let spec = ShimSpec::read(&unit.dir).map_err(failed)?;
        let op = op(spec.dir.join(path));
        if spec.run_as.is_none() {
            return blocking(move || Ok(op.perform(content.into()))).await;
        }
        let asked = timeout(PATIENCE, self.ask_another(&unit, &op, &content)).await;
        asked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)
    }

    /// Has a process do it that becomes the unit's user.
    async fn ask_another(
        &self,
        unit: &Arc<Unit>,
        op: &FileOp,
        content: &[u8],
    ) -> std::io::Result<(FileAnswer, Vec<u8>)> {
        let mut command = self.shim_command(unit)?;
        command.arg("--file").arg(serde_json::to_string(op)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It reads all before it answers, or says why it does not.
            stdin.write_all(content).await.ok();
        }
        FileAnswer::hear(&child.wait_with_output().await?.stdout)
    }
}

fn refused(path: &Path, answer: FileAnswer) -> RuntimeError {
    let path = path.to_owned();
    match answer {
        FileAnswer::NoSuchFile => RuntimeError::NoSuchFile { path },
        FileAnswer::TooLarge { size } => RuntimeError::FileTooLarge { path, size, max: FILE_BYTES_MAX },
        FileAnswer::NotAFile { kind } => RuntimeError::NotAFile { path, kind },
        FileAnswer::Failed { why } => {
            RuntimeError::io(path.display().to_string(), std::io::Error::other(why))
        }
        FileAnswer::Read { .. } | FileAnswer::Stat(_) | FileAnswer::Copied => RuntimeError::io(
            path.display().to_string(),
            std::io::Error::other("another answer than was asked for"),
        ),
    }
}
