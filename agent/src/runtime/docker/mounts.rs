//! Directories of the host that an app mounts and that are ours to make: those whose source ends in `/`.
//!
//! The engine may be anywhere, so they are made through it: by a container of the app's image that is never started, with the
//! host's root mounted, into which the engine unpacks the directories (F-K1, F-K2). It bears our label with a role, and no
//! name; it goes when it has served, and whatever a crash has left of it goes before the next one is made.

use std::path::{Component, Path, PathBuf};

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};

use super::{
    archive::{Found, Refused},
    engine::{Refusal, removal},
    files,
    host::DockerHost,
    labels,
};
use crate::{
    manifest::{AppSpec, ContainerSpec},
    runtime::{FileKind, RuntimeError},
};

/// Where the helper has the root of the host.
const HOST: &str = "/towline-host";
/// What the helper is for, on its label.
const ROLE: &str = "mounts";
/// Links that are followed on the way to a directory, as the system does.
const LINKS_MAX: usize = 40;

/// What is at a path of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    Link(PathBuf),
    Else,
}

impl There {
    fn of(found: Found) -> Self {
        match (found.stat.kind, found.link) {
            (FileKind::Directory, _) => Self::Directory,
            (FileKind::Link, Some(target)) => Self::Link(target),
            _ => Self::Else,
        }
    }
}

/// What there is to be made: below which directory, and which ones.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Missing {
    below: PathBuf,
    names: Vec<PathBuf>,
}

impl DockerHost {
    /// Sees to it that the directories are there which `app` mounts and has made. Without any, nothing is looked at.
    ///
    /// # Errors
    /// Which cannot be made: something else has its place.
    pub(super) async fn make_mount_dirs(
        &self,
        app: &AppSpec,
        container: &ContainerSpec,
    ) -> Result<(), RuntimeError> {
        let wanted: Vec<(usize, &Path)> = container
            .mounts
            .iter()
            .enumerate()
            .filter(|(_, mount)| mount.source.starts_with('/') && mount.source.ends_with('/'))
            .map(|(index, mount)| (index, Path::new(mount.source.as_str())))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // One at a time: what is found of an earlier one was left by a crash.
        let _alone = self.inner.helping.lock().await;
        self.remove_helpers().await?;
        let helper = self.make_helper(container).await?;
        let made = async {
            for (index, source) in wanted {
                self.make_dir(app, &helper, index, source).await?;
            }
            Ok(())
        };
        let made = made.await;
        let removed = self.remove_helper(&helper).await;
        // The first error is the one worth telling; what is left is found by its label.
        made.and(removed)
    }

    async fn make_dir(
        &self,
        app: &AppSpec,
        helper: &str,
        index: usize,
        source: &Path,
    ) -> Result<(), RuntimeError> {
        let what = format!("spec.mounts[{index}].source: cannot make {}", source.display());
        let refused = |reason: String| RuntimeError::Engine { what: what.clone(), reason };
        let Some(missing) = self.missing(helper, source, &refused).await? else { return Ok(()) };
        let names = self.names_for(app, helper).await?;
        let owner = files::account(app, &names)?;
        let archive = directories(&missing, owner).map_err(|error| refused(error.to_string()))?;
        self.upload(helper, archive).await.map_err(|refusal| refusal.of(what.clone()))
    }

    /// What is missing on the way to `path`; none if all of it is there.
    async fn missing(
        &self,
        helper: &str,
        path: &Path,
        refused: &impl Fn(String) -> RuntimeError,
    ) -> Result<Option<Missing>, RuntimeError> {
        let mut way: Vec<PathBuf> = names(path);
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while !way.is_empty() {
            let name = way.remove(0);
            if name == Path::new("..") {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            match self.there(helper, &next).await? {
                There::Directory => at = next,
                There::Nothing => {
                    let rest = std::iter::once(name).chain(way);
                    return Ok(Some(Missing { below: at, names: rest.collect() }));
                }
                There::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refused(format!("{} leads in a circle", next.display())));
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    way.splice(0..0, names(&target));
                }
                There::Else => {
                    return Err(refused(format!("{} exists, and is no directory", next.display())));
                }
            }
        }
        Ok(None)
    }

    async fn there(&self, helper: &str, path: &Path) -> Result<There, RuntimeError> {
        let within = PathBuf::from(format!("{HOST}{}", path.display()));
        let what = || format!("cannot look at {} of the host", path.display());
        match self.look_at(helper, &within).await {
            Ok(found) => Ok(There::of(found)),
            Err(Refused::Engine(Refusal::NotFound(_))) => Ok(There::Nothing),
            Err(Refused::Engine(refusal)) => Err(refusal.of(what())),
            Err(Refused::Corrupt(error)) => {
                Err(RuntimeError::Engine { what: what(), reason: error.to_string() })
            }
            // So is said of content alone.
            Err(Refused::TooLarge(_) | Refused::NotAFile(_)) => Ok(There::Else),
        }
    }

    async fn make_helper(&self, container: &ContainerSpec) -> Result<String, RuntimeError> {
        let home = self.home();
        let host = Mount {
            typ: Some(MountType::BIND),
            source: Some("/".to_owned()),
            target: Some(HOST.to_owned()),
            ..Mount::default()
        };
        let body = ContainerCreateBody {
            image: Some(container.image.clone()),
            // Never started, but an image may have no command of its own.
            entrypoint: Some(vec!["towline".to_owned()]),
            labels: Some(labels::of_helper(&self.inner.instance, ROLE, home.as_ref())),
            host_config: Some(HostConfig { mounts: Some(vec![host]), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let created = self.create_container(None, body).await;
        created.map_err(|refusal| refusal.of("cannot create a helper for mounts"))
    }

    async fn remove_helpers(&self) -> Result<(), RuntimeError> {
        let wanted = vec![self.label_filter(), format!("{}={ROLE}", labels::ROLE)];
        let listed = self.inner.engine.labelled(wanted).await?;
        for id in listed.into_iter().filter_map(|summary| summary.id) {
            self.remove_helper(&id).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_helper(&self, id: &str) -> Result<(), RuntimeError> {
        let question = async |client: bollard::Docker| client.remove_container(id, Some(removal())).await;
        match self.change(question).await {
            Ok(()) | Err(Refusal::NotFound(_) | Refusal::Said { status: 409, .. }) => Ok(()),
            Err(refusal) => Err(refusal.of("cannot remove a helper")),
        }
    }
}

/// The names on the way to `path`.
fn names(path: &Path) -> Vec<PathBuf> {
    let part = |part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// The directories, as the engine takes them: the last is for its owner alone.
fn directories(missing: &Missing, owner: (u64, u64)) -> std::io::Result<bytes::Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut path = Path::new(HOST.trim_start_matches('/'))
        .join(missing.below.strip_prefix("/").unwrap_or(&missing.below));
    for (index, name) in missing.names.iter().enumerate() {
        path.push(name);
        let is_last = index + 1 == missing.names.len();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(if is_last { 0o700 } else { 0o755 });
        let (uid, gid) = if is_last { owner } else { (0, 0) };
        header.set_uid(uid);
        header.set_gid(gid);
        archive.append_data(&mut header, &path, std::io::empty())?;
    }
    Ok(archive.into_inner()?.into())
}

#[cfg(test)]
mod tests {
    use super::super::archive;
    use super::*;

    #[test]
    fn f_k2_what_is_made_is_for_its_owner_alone_and_what_is_there_is_not_in_it() {
        let missing = Missing { below: "/srv".into(), names: vec!["shop".into(), "data".into()] };
        let archive = directories(&missing, (33, 33)).unwrap();
        let mut archive = tar::Archive::new(archive.as_ref());
        let made: Vec<(PathBuf, u32, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (entry.path().unwrap().into_owned(), header.mode().unwrap(), header.uid().unwrap())
            })
            .collect();
        let path = |path: &str| PathBuf::from(format!("towline-host/srv/{path}"));
        assert_eq!(made, [(path("shop"), 0o755, 0), (path("shop/data"), 0o700, 33)]);
    }

    #[test]
    fn what_is_there_is_told_by_its_first_header() {
        let first_of = |archive: Vec<u8>| There::of(archive::first(&archive, 0).unwrap());
        let archive = |kind, link: Option<&str>| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            let mut archive = tar::Builder::new(Vec::new());
            match link {
                Some(link) => archive.append_link(&mut header, "x", link).unwrap(),
                None => archive.append_data(&mut header, "x", std::io::empty()).unwrap(),
            }
            archive.into_inner().unwrap()
        };
        assert_eq!(first_of(archive(tar::EntryType::Directory, None)), There::Directory);
        assert_eq!(first_of(archive(tar::EntryType::Regular, None)), There::Else);
        let long = "../run/".repeat(500);
        for target in ["../run", long.as_str()] {
            let link = first_of(archive(tar::EntryType::Symlink, Some(target)));
            assert_eq!(link, There::Link(target.into()));
        }
        assert_eq!(names(Path::new("/a/../b/")), ["a", "..", "b"].map(PathBuf::from));
    }
}
