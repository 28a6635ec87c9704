//! The files of containers that stay: read back through the engine's archive call, and put in anew where they differ.
//!
//! The engine puts files in and takes none out, so a file that is not declared any more goes with its container
//! (`direct/generation.rs`).

use std::path::Path;

use super::{
    archive,
    engine::Refusal,
    files::{self, Names},
    host::{DockerHost, Seen},
};
use crate::{
    manifest::{AppSpec, FileSpec},
    runtime::{Astray, FileKind, How, RuntimeError, UnitSpec},
};

/// A container of an app.
struct Target {
    unit: String,
    container: String,
}

impl DockerHost {
    /// Looks which files of units of `spec`'s generation are not as declared.
    pub(super) async fn look_at_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        let mut found = Vec::new();
        for target in self.targets(spec) {
            let app = &spec.manifest.spec;
            let names = self.names_for(app, &target.container).await?;
            let astray = self.astray(app, &names, &target).await?;
            found.extend(astray.into_iter().map(|(_, astray)| astray));
        }
        Ok(found)
    }

    /// Brings the files of units of `spec`'s generation to what it declares.
    pub(super) async fn restore_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        let app = &spec.manifest.spec;
        let mut restored = Vec::new();
        for target in self.targets(spec) {
            let names = self.names_for(app, &target.container).await?;
            let found = self.astray(app, &names, &target).await?;
            if found.is_empty() {
                continue;
            }
            let which: Vec<usize> = found.iter().map(|(index, _)| *index).collect();
            let archive = files::archive(app, &names, &which)?;
            if let Err(refusal) = self.upload(&target.container, archive).await {
                return Err(refusal.of(self.what_failed(app, &names, &target, &which).await));
            }
            restored.extend(found.into_iter().map(|(_, astray)| astray));
        }
        Ok(restored)
    }

    /// The containers that have the files of `spec`; none where it declares none.
    fn targets(&self, spec: &UnitSpec) -> Vec<Target> {
        if spec.manifest.spec.files.is_empty() {
            return Vec::new();
        }
        let known = self.known();
        let same = known
            .units
            .values()
            .filter(|seen| seen.status.app == spec.manifest.id && seen.status.generation == spec.generation);
        let target =
            |seen: &Seen| Target { unit: seen.status.unit.clone(), container: seen.container.clone() };
        same.map(target).collect()
    }

    /// What is not as declared in one container, with its place among the files.
    async fn astray(
        &self,
        app: &AppSpec,
        names: &Names,
        target: &Target,
    ) -> Result<Vec<(usize, Astray)>, RuntimeError> {
        let mut found = Vec::new();
        for (index, file) in app.files.iter().enumerate() {
            let path = Path::new("/").join(files::place(app, file));
            let most = file.content.len().saturating_add(archive::AROUND);
            let read = self.download(&target.container, &path, |all| all.len() > most).await;
            let archive = match read {
                Err(Refusal::NotFound(_)) => None,
                // Something else has the place of its directory.
                Err(Refusal::Said { message, .. }) if message.contains("not a directory") => None,
                read => Some(read.map_err(|refusal| {
                    let what = format!("cannot look at {} of {}", path.display(), target.unit);
                    refusal.of(format!("spec.files[{index}]: {what}"))
                })?),
            };
            let how = match archive {
                None => Some(How::Gone),
                Some(archive) => differs(&archive, file, files::owner(app, names, index)?),
            };
            let astray = |how| (index, Astray { unit: target.unit.clone(), path, how });
            found.extend(how.map(astray));
        }
        Ok(found)
    }

    /// What could not be done, and what of it was.
    async fn what_failed(&self, app: &AppSpec, names: &Names, target: &Target, which: &[usize]) -> String {
        let what = format!("spec.files: cannot write those of {}", target.unit);
        let Ok(left) = self.astray(app, names, target).await else { return what };
        let is_left = |index: &usize| left.iter().any(|(other, _)| other == index);
        let written: Vec<String> = which
            .iter()
            .filter(|index| !is_left(index))
            .filter_map(|index| Some(files::place(app, app.files.get(*index)?).display().to_string()))
            .map(|path| format!("/{path}"))
            .collect();
        if written.is_empty() { what } else { format!("{what} (written were: {})", written.join(", ")) }
    }
}

/// In which way what an archive holds is not as declared; none if it is.
fn differs(archive: &[u8], file: &FileSpec, owner: (u64, u64)) -> Option<How> {
    let Ok(found) = archive::first(archive, file.content.len()) else { return Some(How::Gone) };
    let stat = found.stat;
    if stat.kind != FileKind::File {
        return Some(How::NoFile);
    }
    if found.content.as_ref() != Some(&file.content) {
        return Some(How::Content);
    }
    if stat.mode != file.mode {
        return Some(How::Mode);
    }
    ((u64::from(stat.uid), u64::from(stat.gid)) != owner).then_some(How::Owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(kind: tar::EntryType, content: &[u8], mode: u32, uid: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(0);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "a.conf", content).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn f_c3_an_archive_is_compared_with_what_is_declared() {
        let file = FileSpec {
            path: "/etc/a.conf".into(),
            content: b"one".to_vec(),
            mode: 0o640,
            owner: None,
            group: None,
        };
        let regular = tar::EntryType::Regular;
        let table = [
            (archive(regular, b"one", 0o100_640, 33), None),
            (archive(regular, b"two", 0o640, 33), Some(How::Content)),
            (archive(regular, b"longer", 0o640, 33), Some(How::Content)),
            (archive(regular, b"one", 0o600, 33), Some(How::Mode)),
            (archive(regular, b"one", 0o640, 0), Some(How::Owner)),
            (archive(tar::EntryType::Directory, b"", 0o640, 33), Some(How::NoFile)),
            (Vec::new(), Some(How::Gone)),
        ];
        for (archive, expected) in table {
            assert_eq!(differs(&archive, &file, (33, 0)), expected);
        }
        // Of a file that is too large no more was read than it takes to see that.
        let mut cut = archive(regular, &[b'x'; 4096], 0o640, 33);
        cut.truncate(700);
        assert_eq!(differs(&cut, &file, (33, 0)), Some(How::Content));
    }
}
