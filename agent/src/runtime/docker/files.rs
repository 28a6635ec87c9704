//! Files that an app declares: put into its container before it starts. They go with the container.

use std::path::{Path, PathBuf};

use bollard::{
    Docker,
    query_parameters::{DownloadFromContainerOptions, UploadToContainerOptions},
};
use bytes::Bytes;
use futures::TryStreamExt as _;

use super::{
    engine::{QUICK, Refusal},
    host::DockerHost,
};
use crate::{
    manifest::{AppSpec, FileSpec},
    runtime::{RuntimeError, UnitSpec},
};

/// Names of users and groups are looked up in files of at most this size.
const NAMES_BYTES_MAX: usize = 1 << 20;

impl DockerHost {
    /// Puts the declared files into a container that is not running yet.
    ///
    /// # Errors
    /// Which cannot be written, or whose owner the image does not know.
    pub(super) async fn write_files(&self, spec: &UnitSpec, container: &str) -> Result<(), RuntimeError> {
        let app = &spec.manifest.spec;
        if app.files.is_empty() {
            return Ok(());
        }
        let all: Vec<usize> = (0..app.files.len()).collect();
        let archive = archive(app, &self.names_for(app, container).await?, &all)?;
        self.upload(container, archive).await.map_err(|refusal| refusal.of("spec.files: cannot write them"))
    }

    /// Unpacks an archive at the root of a container.
    pub(super) async fn upload(&self, container: &str, archive: Bytes) -> Result<(), Refusal> {
        let options =
            UploadToContainerOptions { path: "/".to_owned(), ..UploadToContainerOptions::default() };
        let upload = async |client: Docker| {
            client.upload_to_container(container, Some(options), bollard::body_full(archive)).await
        };
        self.change(QUICK, upload).await
    }

    /// What there is at `path` in a container, as an archive of which no more than about `most` bytes are read; none when
    /// there is nothing.
    pub(super) async fn download(
        &self,
        container: &str,
        path: &str,
        most: usize,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let download = async |client: Docker| {
            let mut all = Vec::new();
            let mut parts = client.download_from_container(container, Some(options));
            while let Some(part) = parts.try_next().await? {
                all.extend_from_slice(&part);
                if all.len() > most {
                    break;
                }
            }
            Ok(all)
        };
        match self.inner.engine.ask(QUICK, download).await {
            Ok(archive) => Ok(Some(archive)),
            Err(Refusal::NotFound(_)) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// What the image says of names, if `app` uses any.
    pub(super) async fn names_for(&self, app: &AppSpec, container: &str) -> Result<Names, RuntimeError> {
        if needs_names(app) { self.names(container).await } else { Ok(Names::default()) }
    }

    /// Users and groups as the image knows them.
    async fn names(&self, container: &str) -> Result<Names, RuntimeError> {
        Ok(Names {
            users: self.read_small(container, "/etc/passwd").await?,
            groups: self.read_small(container, "/etc/group").await?,
        })
    }

    /// The text of a small file in a container; empty when it is not there.
    async fn read_small(&self, container: &str, path: &str) -> Result<String, RuntimeError> {
        let read = self.download(container, path, NAMES_BYTES_MAX).await;
        let archive = read.map_err(|refusal| refusal.of(format!("cannot read {path} of the image")))?;
        let Some(archive) = archive else { return Ok(String::new()) };
        let mut text = String::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().into_iter().flatten().flatten().take(1) {
            let mut entry = entry;
            std::io::Read::read_to_string(&mut entry, &mut text).ok();
        }
        Ok(text)
    }
}

/// What an image says of names: `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: String,
    groups: String,
}

impl Names {
    fn user(&self, name: &str) -> Option<u64> {
        id(&self.users, name)
    }

    fn group(&self, name: &str) -> Option<u64> {
        id(&self.groups, name)
    }
}

/// The number of a name: as it stands, or from the third field of the line that begins with it.
fn id(table: &str, name: &str) -> Option<u64> {
    if let Ok(number) = name.parse::<u32>() {
        return Some(number.into());
    }
    let mut lines = table.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten())
}

fn user_and_group(app: &AppSpec) -> (Option<&str>, Option<&str>) {
    let mut parts = app.user.as_deref().unwrap_or_default().split(':').filter(|part| !part.is_empty());
    (parts.next(), parts.next())
}

fn needs_names(app: &AppSpec) -> bool {
    let (user, group) = user_and_group(app);
    let named = |name: Option<&str>| name.is_some_and(|name| name.parse::<u32>().is_err());
    named(user)
        || named(group)
        || app.files.iter().any(|file| named(file.owner.as_deref()) || named(file.group.as_deref()))
}

/// These files, as the engine takes them.
pub(super) fn archive(app: &AppSpec, names: &Names, which: &[usize]) -> Result<Bytes, RuntimeError> {
    let mut archive = tar::Builder::new(Vec::new());
    for (index, file) in app.files.iter().enumerate().filter(|(index, _)| which.contains(index)) {
        let failed = |source| RuntimeError::Io { what: format!("spec.files[{index}]"), source };
        append(&mut archive, file, &place(app, file), owner(app, names, index)?).map_err(failed)?;
    }
    let failed = |source| RuntimeError::Io { what: "spec.files".to_owned(), source };
    Ok(archive.into_inner().map_err(failed)?.into())
}

/// The numbers of user and group that a file is to belong to.
pub(super) fn owner(app: &AppSpec, names: &Names, index: usize) -> Result<(u64, u64), RuntimeError> {
    let file = app.files.get(index);
    let (user, group) = user_and_group(app);
    let unknown = |field: &str, what, name: &str| RuntimeError::NoSuchUser {
        field: format!("spec.files[{index}].{field}"),
        what,
        name: name.to_owned(),
    };
    let owner = file.and_then(|file| file.owner.as_deref()).or(user).unwrap_or("0");
    let group = file.and_then(|file| file.group.as_deref()).or(group).unwrap_or("0");
    let uid = names.user(owner).ok_or_else(|| unknown("owner", "user", owner))?;
    let gid = names.group(group).ok_or_else(|| unknown("group", "group", group))?;
    Ok((uid, gid))
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    file: &FileSpec,
    path: &Path,
    (uid, gid): (u64, u64),
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(file.content.len()).unwrap_or(u64::MAX));
    header.set_mode(file.mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, path, file.content.as_slice())
}

/// Where a file goes, from the root of the container.
pub(super) fn place(app: &AppSpec, file: &FileSpec) -> PathBuf {
    let dir = app.working_dir.as_deref().unwrap_or_else(|| Path::new("/"));
    let path = dir.join(&file.path);
    path.strip_prefix("/").map(Path::to_owned).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_k2_owners_are_told_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbroken\n";
        assert_eq!(id(passwd, "web"), Some(33));
        assert_eq!(id(passwd, "1000"), Some(1000));
        assert_eq!(id(passwd, "nobody"), None);
        assert_eq!(id(passwd, "broken"), None);
        assert_eq!(id("", "0"), Some(0));
    }
}
