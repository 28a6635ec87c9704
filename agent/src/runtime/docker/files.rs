//! Files that an app declares: put into its container before it starts. They go with the container.

use std::path::{Path, PathBuf};

use bollard::query_parameters::UploadToContainerOptions;
use bytes::Bytes;

use super::{
    archive::{self, Refused},
    engine::Refusal,
    host::DockerHost,
};
use crate::{
    manifest::{AppSpec, FileSpec},
    runtime::{RuntimeError, UnitSpec},
};

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
        self.unpack(container, options, archive).await
    }

    /// What the image says of names, if `app` uses any.
    pub(super) async fn names_for(&self, app: &AppSpec, container: &str) -> Result<Names, RuntimeError> {
        if needs_names(app) { self.names(container).await } else { Ok(Names::default()) }
    }

    /// The numbers of a user and a group, by name or number.
    ///
    /// # Errors
    /// Which of them the image does not know.
    pub(super) async fn ids(
        &self,
        container: &str,
        user: &str,
        group: &str,
    ) -> Result<(u64, u64), RuntimeError> {
        let is_number = |name: &str| name.parse::<u32>().is_ok();
        let names = if is_number(user) && is_number(group) {
            Names::default()
        } else {
            self.names(container).await?
        };
        names.ids(user, group, |what| owner_field(what).to_owned())
    }

    /// Users and groups as the image knows them.
    async fn names(&self, container: &str) -> Result<Names, RuntimeError> {
        Ok(Names {
            users: self.table(container, "/etc/passwd").await?,
            groups: self.table(container, "/etc/group").await?,
        })
    }

    /// The text of a file of names; empty when it is not there.
    async fn table(&self, container: &str, path: &str) -> Result<String, RuntimeError> {
        match self.read_file(container, Path::new(path)).await {
            Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
            Err(Refused::Engine(Refusal::NotFound(_)) | Refused::NotAFile(_)) => Ok(String::new()),
            Err(Refused::Engine(refusal)) => Err(refusal.of(format!("cannot read {path} of the image"))),
            Err(Refused::TooLarge(_)) => Err(unreadable(path, "it is too large".to_owned())),
            Err(Refused::Corrupt(error)) => Err(unreadable(path, error.to_string())),
        }
    }
}

fn unreadable(path: &str, reason: String) -> RuntimeError {
    RuntimeError::Engine { what: format!("cannot read {path} of the image"), reason }
}

/// What an image says of names: `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) users: String,
    pub(super) groups: String,
}

impl Names {
    /// The numbers of a user and a group; `field` says where a `user` or a `group` stands that nobody knows.
    pub(super) fn ids(
        &self,
        user: &str,
        group: &str,
        field: impl Fn(&str) -> String,
    ) -> Result<(u64, u64), RuntimeError> {
        let unknown =
            |what, name: &str| RuntimeError::NoSuchUser { field: field(what), what, name: name.to_owned() };
        let uid = id(&self.users, user).ok_or_else(|| unknown("user", user))?;
        let gid = id(&self.groups, group).ok_or_else(|| unknown("group", group))?;
        Ok((uid, gid))
    }
}

/// Where a file names its `user` or `group`.
fn owner_field(what: &str) -> &str {
    if what == "user" { "owner" } else { what }
}

/// The number of a name: as it stands, or from the third field of the line that begins with it.
fn id(table: &str, name: &str) -> Option<u64> {
    if let Ok(number) = name.parse::<u32>() {
        return Some(number.into());
    }
    let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
    let mut lines = table.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next() == Some(name)).then(|| number(fields.nth(1)?)).flatten())
}

/// The numbers of the user that an app runs as, and of its group.
pub(super) fn account(app: &AppSpec, names: &Names) -> Result<(u64, u64), RuntimeError> {
    let (user, group) = declared(app);
    names.ids(user.unwrap_or("0"), group.unwrap_or("0"), |_| "spec.user".to_owned())
}

/// The parts of `user[:group]`.
pub(super) fn user_and_group(text: &str) -> (Option<&str>, Option<&str>) {
    let mut parts = text.split(':').filter(|part| !part.is_empty());
    (parts.next(), parts.next())
}

fn declared(app: &AppSpec) -> (Option<&str>, Option<&str>) {
    user_and_group(app.user.as_deref().unwrap_or_default())
}

fn needs_names(app: &AppSpec) -> bool {
    let (user, group) = declared(app);
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
        let owner = owner(app, names, index)?;
        archive::append(&mut archive, &place(app, file), &file.content, file.mode, owner).map_err(failed)?;
    }
    let failed = |source| RuntimeError::Io { what: "spec.files".to_owned(), source };
    Ok(archive.into_inner().map_err(failed)?.into())
}

/// The numbers of user and group that a file is to belong to.
pub(super) fn owner(app: &AppSpec, names: &Names, index: usize) -> Result<(u64, u64), RuntimeError> {
    let file = app.files.get(index);
    let (user, group) = declared(app);
    let owner = file.and_then(|file| file.owner.as_deref()).or(user).unwrap_or("0");
    let group = file.and_then(|file| file.group.as_deref()).or(group).unwrap_or("0");
    names.ids(owner, group, |what| format!("spec.files[{index}].{}", owner_field(what)))
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
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbroken\nfar:x:4294967296:0\n";
        assert_eq!(id(passwd, "web"), Some(33));
        assert_eq!(id(passwd, "1000"), Some(1000));
        assert_eq!(id(passwd, "nobody"), None);
        assert_eq!(id(passwd, "broken"), None);
        assert_eq!(id(passwd, "far"), None, "no system has such a number");
        assert_eq!(id("", "0"), Some(0));
    }
}
