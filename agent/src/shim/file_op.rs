//! What is done with a file on behalf of a unit, with its rights: in the agent where these are its own, else in a process that
//! has become the unit's user. So a link leads nowhere that the unit itself could not go.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, BufRead as _, Read, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::runtime::{FILE_BYTES_MAX, FileKind, FileStat, process::write_whole};

/// What is to be done. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum FileOp {
    Read {
        path: PathBuf,
    },
    Stat {
        path: PathBuf,
    },
    Copy {
        path: PathBuf,
        /// Bytes of content, which follow.
        size: u64,
        mode: u32,
        uid: Option<u32>,
        gid: Option<u32>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum FileAnswer {
    /// The content follows.
    Read {
        size: u64,
    },
    Stat(FileStat),
    Copied,
    NoSuchFile,
    TooLarge {
        size: u64,
    },
    NotAFile {
        kind: FileKind,
    },
    Failed {
        why: String,
    },
}

impl FileOp {
    /// The content that comes with it.
    ///
    /// # Errors
    /// That it is not whole.
    pub(super) fn content(&self, from: &mut impl Read) -> io::Result<Vec<u8>> {
        let Self::Copy { size, .. } = self else { return Ok(Vec::new()) };
        let mut content = Vec::new();
        from.take(*size).read_to_end(&mut content)?;
        if content.len() as u64 == *size { Ok(content) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Does it, with the rights of this process. Waits for the disk.
    pub(crate) fn perform(self, content: Vec<u8>) -> (FileAnswer, Vec<u8>) {
        let done = match self {
            Self::Read { path } => read(&path),
            Self::Stat { path } => {
                fs::symlink_metadata(path).map(|found| (FileAnswer::Stat(stat(&found)), Vec::new()))
            }
            Self::Copy { path, mode, uid, gid, .. } => {
                copy(&path, content, mode, (uid, gid)).map(|answer| (answer, Vec::new()))
            }
        };
        done.unwrap_or_else(|error| {
            let answer = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileAnswer::NoSuchFile,
                _ => FileAnswer::Failed { why: error.to_string() },
            };
            (answer, Vec::new())
        })
    }
}

impl FileAnswer {
    /// Writes it, and the content.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn tell(&self, content: &[u8], to: &mut impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)?;
        to.write_all(content)?;
        to.flush()
    }

    /// Reads it again, with the content.
    ///
    /// # Errors
    /// That it is not whole.
    pub(crate) fn hear(mut told: &[u8]) -> io::Result<(Self, Vec<u8>)> {
        let mut line = Vec::new();
        told.read_until(b'\n', &mut line)?;
        let answer: Self = serde_json::from_slice(&line)?;
        let size = if let Self::Read { size } = answer { size } else { 0 };
        if told.len() as u64 == size {
            Ok((answer, told.to_vec()))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

fn read(path: &Path) -> io::Result<(FileAnswer, Vec<u8>)> {
    // A pipe or a device must not hold us up before it is seen to be one.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        // A socket cannot be opened at all.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Ok((FileAnswer::NotAFile { kind: FileKind::Other }, Vec::new()));
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    let kind = kind(&found);
    if kind != FileKind::File {
        return Ok((FileAnswer::NotAFile { kind }, Vec::new()));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
    if content.len() > FILE_BYTES_MAX {
        let size = found.len().max(content.len() as u64);
        return Ok((FileAnswer::TooLarge { size }, Vec::new()));
    }
    Ok((FileAnswer::Read { size: content.len() as u64 }, content))
}

fn copy(
    path: &Path,
    content: Vec<u8>,
    mode: u32,
    owner: (Option<u32>, Option<u32>),
) -> io::Result<FileAnswer> {
    if let Ok(found) = fs::symlink_metadata(path)
        && found.is_dir()
    {
        return Ok(FileAnswer::NotAFile { kind: FileKind::Directory });
    }
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(FileAnswer::NoSuchFile);
    }
    write_whole(path, content, mode, owner)?;
    Ok(FileAnswer::Copied)
}

fn kind(found: &Metadata) -> FileKind {
    let kind = found.file_type();
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Link
    } else {
        FileKind::Other
    }
}

fn stat(found: &Metadata) -> FileStat {
    FileStat {
        kind: kind(found),
        mode: found.mode() & 0o7777,
        size: found.len(),
        uid: found.uid(),
        gid: found.gid(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, content: &[u8]) -> (FileAnswer, Vec<u8>) {
        let (size, path) = (content.len() as u64, path.to_owned());
        FileOp::Copy { path, size, mode: 0o640, uid: None, gid: None }.perform(content.to_vec())
    }

    #[test]
    fn what_is_told_is_heard_and_what_is_cut_is_an_error() {
        let mut told = Vec::new();
        FileAnswer::Read { size: 3 }.tell(b"a\nb", &mut told).unwrap();
        assert_eq!(FileAnswer::hear(&told).unwrap(), (FileAnswer::Read { size: 3 }, b"a\nb".to_vec()));
        for cut in 0..told.len() {
            FileAnswer::hear(told.get(..cut).unwrap()).unwrap_err();
        }
        let mut told = Vec::new();
        FileAnswer::NoSuchFile.tell(b"", &mut told).unwrap();
        assert_eq!(FileAnswer::hear(&told).unwrap(), (FileAnswer::NoSuchFile, Vec::new()));
    }

    #[test]
    fn content_is_whole_or_an_error() {
        let op = FileOp::Copy { path: PathBuf::new(), size: 3, mode: 0, uid: None, gid: None };
        assert_eq!(op.content(&mut &b"abcd"[..]).unwrap(), b"abc");
        op.content(&mut &b"ab"[..]).unwrap_err();
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let not_a_file = |kind| (FileAnswer::NotAFile { kind }, Vec::new());
        assert_eq!(FileOp::Read { path: socket }.perform(Vec::new()), not_a_file(FileKind::Other));
        let path = dir.path().to_owned();
        assert_eq!(FileOp::Read { path }.perform(Vec::new()), not_a_file(FileKind::Directory));
        assert_eq!(
            FileOp::Read { path: "/dev/zero".into() }.perform(Vec::new()),
            not_a_file(FileKind::Other)
        );
        assert_eq!(file(dir.path(), b"x"), not_a_file(FileKind::Directory));
        let below_a_file = dir.path().join("socket/none");
        assert_eq!(file(&below_a_file, b"x").0, FileAnswer::NoSuchFile);
    }
}
