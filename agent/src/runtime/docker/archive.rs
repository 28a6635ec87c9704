//! Files in containers: the engine takes and gives them as tar archives, whether the container runs or not.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bollard::{
    Docker,
    query_parameters::{DownloadFromContainerOptions, UploadToContainerOptions},
};
use bytes::Bytes;
use futures::TryStreamExt as _;
use tar::EntryType;

use super::{
    engine::{QUICK, Refusal},
    files::user_and_group,
    host::{DockerHost, Seen},
};
use crate::runtime::{FILE_BYTES_MAX, FileAccess, FileKind, FileStat, RuntimeError};

/// Room for what stands around a file in an archive: headers of long names, and the padding at its end.
pub(super) const AROUND: usize = 64 << 10;

/// Links that are followed, one to the next: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// The first entry of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) stat: FileStat,
    /// Where it leads, if it is a link.
    pub(super) link: Option<PathBuf>,
    /// What is in it, if it is a file; none where that is not whole, or more than was wanted.
    pub(super) content: Option<Vec<u8>>,
}

impl DockerHost {
    /// The content of a file in a unit's container.
    ///
    /// # Errors
    /// As [`Runtime::read`](crate::runtime::Runtime::read).
    pub(super) async fn read(&self, unit: &str, path: &Path) -> Result<Bytes, RuntimeError> {
        let seen = self.find(unit)?;
        self.read_file(&seen.container, &seen.dir.join(path)).await.map_err(|refusal| refusal.of(unit, path))
    }

    /// What there is to know of a file in a unit's container.
    ///
    /// # Errors
    /// As [`Runtime::stat`](crate::runtime::Runtime::stat).
    pub(super) async fn stat(&self, unit: &str, path: &Path) -> Result<FileStat, RuntimeError> {
        let seen = self.find(unit)?;
        let found = self.look_at(&seen.container, &seen.dir.join(path)).await;
        found.map(|found| found.stat).map_err(|refusal| refusal.of(unit, path))
    }

    /// Puts a file into a unit's container.
    ///
    /// # Errors
    /// As [`Runtime::copy`](crate::runtime::Runtime::copy).
    pub(super) async fn copy(
        &self,
        unit: &str,
        path: &Path,
        content: Bytes,
        access: &FileAccess,
    ) -> Result<(), RuntimeError> {
        let seen = self.find(unit)?;
        let size = content.len() as u64;
        if content.len() > FILE_BYTES_MAX {
            return Err(RuntimeError::FileTooLarge { path: path.to_owned(), size, max: FILE_BYTES_MAX });
        }
        let owner = self.owner(&seen, access).await?;
        let place = seen.dir.join(path);
        let (Some(dir), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(RuntimeError::NotAFile { path: path.to_owned(), kind: FileKind::Directory });
        };
        let archive = archive(Path::new(name), &content, access.mode, owner)
            .map_err(|source| RuntimeError::Io { what: path.display().to_string(), source })?;
        let options = UploadToContainerOptions {
            path: dir.display().to_string(),
            no_overwrite_dir_non_dir: Some("true".to_owned()),
            ..UploadToContainerOptions::default()
        };
        let unpacked = self.unpack(&seen.container, options, archive.into()).await;
        unpacked.map_err(|refusal| Refused::Engine(refusal).of(unit, path))
    }

    /// Has the engine unpack an archive in a container.
    pub(super) async fn unpack(
        &self,
        container: &str,
        options: UploadToContainerOptions,
        archive: Bytes,
    ) -> Result<(), Refusal> {
        let upload = async |client: Docker| {
            client.upload_to_container(container, Some(options), bollard::body_full(archive)).await
        };
        self.change(upload).await
    }

    /// What there is at `path` in a container, as an archive, of which no more is read once it is `enough`.
    pub(super) async fn download(
        &self,
        container: &str,
        path: &Path,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, Refusal> {
        let options = DownloadFromContainerOptions { path: path.display().to_string() };
        let download = async |client: Docker| {
            let mut parts = client.download_from_container(container, Some(options));
            let mut all = Vec::new();
            while let Some(part) = parts.try_next().await? {
                all.extend_from_slice(&part);
                if enough(&all) {
                    break;
                }
            }
            Ok(all)
        };
        self.inner.engine.ask(QUICK, download).await
    }

    /// Whose a file is to be: as declared, or the container's user's.
    async fn owner(&self, seen: &Seen, access: &FileAccess) -> Result<(u64, u64), RuntimeError> {
        let (user, group) = user_and_group(&seen.user);
        let owner = access.owner.as_deref().or(user).unwrap_or("0");
        let group = access.group.as_deref().or(group).unwrap_or("0");
        self.ids(&seen.container, owner, group).await
    }

    /// The content of a file, wherever links lead.
    pub(super) async fn read_file(&self, container: &str, path: &Path) -> Result<Bytes, Refused> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let found = self.first(container, &path, FILE_BYTES_MAX).await?;
            match (found.stat.kind, found.link) {
                (FileKind::File, _) => {
                    return found.content.map(Bytes::from).ok_or_else(|| lacks(&found.stat));
                }
                // The engine itself sees to it that no link leads out of the container.
                (FileKind::Link, Some(link)) => path = path.parent().unwrap_or(&path).join(link),
                (kind, _) => return Err(Refused::NotAFile(kind)),
            }
        }
        Err(Refused::NotAFile(FileKind::Link))
    }

    /// What is at `path`, without its content.
    pub(super) async fn look_at(&self, container: &str, path: &Path) -> Result<Found, Refused> {
        self.first(container, path, 0).await
    }

    /// What is at `path`, with its content if that is a file of at most `most` bytes.
    async fn first(&self, container: &str, path: &Path, most: usize) -> Result<Found, Refused> {
        // A directory comes with all that is in it, and a file may be larger than is wanted: the rest is left.
        let enough = |all: &[u8]| all.len() > most + AROUND || is_enough(all, most);
        let all = self.download(container, path, enough).await.map_err(Refused::Engine)?;
        first(&all, most).map_err(Refused::Corrupt)
    }
}

/// Why a file is not read or written.
#[derive(Debug)]
pub(super) enum Refused {
    Engine(Refusal),
    TooLarge(u64),
    NotAFile(FileKind),
    Corrupt(io::Error),
}

impl Refused {
    fn of(self, unit: &str, path: &Path) -> RuntimeError {
        let (named, path) = (path.display().to_string(), path.to_owned());
        match self {
            Self::Engine(Refusal::NotFound(reason)) if reason.contains("No such container") => {
                RuntimeError::NotFound { unit: unit.to_owned() }
            }
            Self::Engine(Refusal::NotFound(_)) => RuntimeError::NoSuchFile { path },
            Self::Engine(Refusal::Said { message, .. }) if message.contains("not a directory") => {
                RuntimeError::NoSuchFile { path }
            }
            Self::Engine(Refusal::Said { message, .. }) if message.contains("cannot overwrite directory") => {
                RuntimeError::NotAFile { path, kind: FileKind::Directory }
            }
            Self::Engine(refusal) => refusal.of(named),
            Self::TooLarge(size) => RuntimeError::FileTooLarge { path, size, max: FILE_BYTES_MAX },
            Self::NotAFile(kind) => RuntimeError::NotAFile { path, kind },
            Self::Corrupt(error) => RuntimeError::Engine {
                what: named,
                reason: format!("the engine gave an archive that is none: {error}"),
            },
        }
    }
}

/// Why there is no content of a file that was to be read.
fn lacks(stat: &FileStat) -> Refused {
    if stat.size > FILE_BYTES_MAX as u64 {
        return Refused::TooLarge(stat.size);
    }
    Refused::Corrupt(io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut"))
}

/// Whether no more of an archive need be read, of whose first entry content of at most `most` bytes is wanted.
pub(super) fn is_enough(archive: &[u8], most: usize) -> bool {
    // Where there is an error, the header of its first entry is not whole yet.
    first(archive, 0).is_ok_and(|Found { stat, .. }| {
        let has_content = stat.kind == FileKind::File && stat.size > 0;
        !has_content || stat.size > most as u64
    })
}

/// The first entry of an archive, of which the beginning may be all that was read; with what is in it, if that is a file of at most
/// `most` bytes. The only reader of archives here.
///
/// # Errors
/// What is wrong with its header, or that there is none.
pub(super) fn first(archive: &[u8], most: usize) -> io::Result<Found> {
    let mut archive = tar::Archive::new(archive);
    let nothing = || io::Error::new(io::ErrorKind::UnexpectedEof, "nothing is in it");
    let mut entry = archive.entries()?.next().ok_or_else(nothing).flatten()?;
    let stat = stat(&entry)?;
    let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
    let is_wanted = stat.kind == FileKind::File && stat.size <= most as u64;
    let content = is_wanted.then(|| whole(&mut entry, stat.size)).flatten();
    Ok(Found { stat, link, content })
}

/// What is in an entry, if all `size` bytes of it are there.
fn whole(entry: &mut impl io::Read, size: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    entry.take(size).read_to_end(&mut content).ok()?;
    (content.len() as u64 == size).then_some(content)
}

fn stat(entry: &tar::Entry<'_, &[u8]>) -> io::Result<FileStat> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => FileKind::File,
        EntryType::Directory => FileKind::Directory,
        EntryType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    };
    let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
    Ok(FileStat {
        kind,
        mode: header.mode()? & 0o7777,
        size: entry.size(),
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
    })
}

/// An archive with one file.
fn archive(name: &Path, content: &[u8], mode: u32, owner: (u64, u64)) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, name, content, mode, owner)?;
    archive.into_inner()
}

/// Adds a file to an archive.
pub(super) fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    name: &Path,
    content: &[u8],
    mode: u32,
    (uid, gid): (u64, u64),
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode & 0o7777);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_entry_type(EntryType::Regular);
    archive.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Vec<u8> {
        archive(Path::new("a.conf"), b"\0binary\xff", 0o640, (33, 34)).unwrap()
    }

    #[test]
    fn f_r1_a_file_comes_back_as_it_was_packed() {
        let stat = FileStat { kind: FileKind::File, mode: 0o640, size: 8, uid: 33, gid: 34 };
        let found = |content: Option<&[u8]>| Found { stat, link: None, content: content.map(<[u8]>::to_vec) };
        assert_eq!(first(&one(), 8).unwrap(), found(Some(b"\0binary\xff")));
        assert_eq!(first(&one(), 7).unwrap(), found(None));
        let long = "x".repeat(200);
        let packed = archive(Path::new(&long), b"long", 0o600, (0, 0)).unwrap();
        assert_eq!(first(&packed, FILE_BYTES_MAX).unwrap().content, Some(b"long".to_vec()));
    }

    #[test]
    fn f_r1_a_corrupt_archive_is_an_error() {
        let corrupt = |bytes: &[u8]| first(bytes, FILE_BYTES_MAX).is_err();
        assert!(corrupt(b"") && corrupt(b"no archive at all") && corrupt(&[0; 1024]) && corrupt(&[7; 4096]));
        let whole = one();
        for cut in [1, 100, 511] {
            assert!(corrupt(whole.get(..cut).unwrap()), "cut at {cut}");
        }
        for cut in [512, 515, 519] {
            let found = first(whole.get(..cut).unwrap(), FILE_BYTES_MAX).unwrap();
            assert_eq!(found.content, None, "cut at {cut}");
            assert!(matches!(lacks(&found.stat), Refused::Corrupt(_)));
        }
        for place in [0, 100, 124, 148, 156] {
            let mut spoilt = whole.clone();
            *spoilt.get_mut(place).unwrap() ^= 0x15;
            assert!(corrupt(&spoilt), "spoilt at {place}");
        }
    }

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let whole = one();
        assert!(!is_enough(whole.get(..300).unwrap(), 0));
        assert!(
            is_enough(whole.get(..512).unwrap(), 0) && !is_enough(whole.get(..512).unwrap(), FILE_BYTES_MAX)
        );
        let mut header = tar::Header::new_gnu();
        header.set_path("large").unwrap();
        header.set_size(FILE_BYTES_MAX as u64 + 1);
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let found = first(header.as_bytes(), FILE_BYTES_MAX).unwrap();
        assert!(matches!(lacks(&found.stat), Refused::TooLarge(size) if size > FILE_BYTES_MAX as u64));
        assert!(is_enough(header.as_bytes(), FILE_BYTES_MAX));
    }
}
