//! What makes a path ours: a label in the agent's own directory, written before the path is made. A crash leaves a label
//! without a path, never a path without a label.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use towline_protocol::{Code, ItemError, Name, ResourceId, StoreId};

use crate::{
    engine::manager::Known, failpoints::failpoint, runtime::process::RuntimeError, shim::write_durably,
};

/// The label of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    pub(super) path: PathBuf,
    pub(super) resource: ResourceId,
    /// The store that it was written for: another one cannot know what it means.
    pub(super) store: StoreId,
    /// Bundles that have it; several only of what is shared.
    pub(super) holders: BTreeSet<Name>,
}

impl Label {
    pub(super) fn read(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    pub(super) fn written(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// All labels, below the agent's data directory. Clones share one lock.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    dir: PathBuf,
    store: StoreId,
    /// Held over each change of a label and what it means for the path: the lanes of several bundles may have a shared
    /// one in hand at once, and whoever leaves last must not remove what another has just taken.
    change: Arc<Mutex<()>>,
}

impl Labels {
    pub(super) fn new(data_dir: &Path, store: StoreId) -> Self {
        Self { dir: data_dir.join("labels"), store, change: Arc::default() }
    }

    /// Makes room for labels.
    pub(super) fn make(&self) -> Result<(), ItemError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|error| failed("cannot make", &self.dir, &error))
    }

    /// Makes `path` the resource's own, held by `bundle`; says whether `bundle` is a new holder of it. From here on nobody
    /// else removes it.
    pub(super) fn take(&self, path: &Path, resource: &ResourceId, bundle: &Name) -> Result<bool, ItemError> {
        let _change = self.lock();
        let mut label = match self.read(path)? {
            Some(label) if label.resource == *resource => label,
            Some(label) => return Err(conflict(path, &format!("it is of {}", label.resource))),
            None if fs::symlink_metadata(path).is_ok() => {
                return Err(conflict(path, "nobody declared it here"));
            }
            None => Label {
                path: path.to_owned(),
                resource: resource.clone(),
                store: self.store,
                holders: BTreeSet::new(),
            },
        };
        // Of a store that was lost: this one takes over what is put again under the same id.
        label.store = self.store;
        if !label.holders.insert(bundle.clone()) {
            return Ok(false);
        }
        self.write(&label)?;
        failpoint!("label.written", ItemError::new(Code::Cluster, "a test says so"));
        Ok(true)
    }

    /// `bundle` holds `path` no more. If it was ours, and nobody else holds it, `remove` takes it away, and then the label
    /// goes, too; what cannot be removed keeps it.
    pub(super) fn leave(
        &self,
        path: &Path,
        resource: &ResourceId,
        bundle: &Name,
        remove: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), ItemError> {
        let _change = self.lock();
        let Some(mut label) = self.read(path)?.filter(|label| label.resource == *resource) else {
            return Ok(());
        };
        if label.holders.iter().any(|holder| holder != bundle) {
            label.holders.remove(bundle);
            return self.write(&label);
        }
        match remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("cannot remove", path, &error))
            }
            _ => self.forget(path),
        }
    }

    /// Forgets a path that is gone.
    fn forget(&self, path: &Path) -> Result<(), ItemError> {
        match fs::remove_file(self.file(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("cannot remove the label of", path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what `label` marks, whoever held it, unless its resource became `known` meanwhile; says whether it did.
    pub(super) fn clear(
        &self,
        label: &Label,
        known: &Known,
        remove: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<bool, ItemError> {
        let _change = self.lock();
        // Under the lock nobody takes it: whoever is about to is known already.
        if known.now(&label.resource) || self.read(&label.path)?.is_none() {
            return Ok(false);
        }
        match remove(&label.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("cannot remove", &label.path, &error))
            }
            _ => self.forget(&label.path).map(|()| true),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Labels of this store whose resources are not `known`.
    pub(super) fn strangers(&self, kind: &str, known: &Known) -> Vec<Label> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let labels = entries.filter_map(|entry| Label::read(&fs::read(entry.path()).ok()?).ok());
        let of_kind = |label: &Label| label.resource.as_str().split('/').nth(1) == Some(kind);
        labels
            .filter(|label| label.store == self.store && of_kind(label) && !known.listed(&label.resource))
            .collect()
    }

    fn read(&self, path: &Path) -> Result<Option<Label>, ItemError> {
        match fs::read(self.file(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("cannot read the label of", path, &error)),
            Ok(json) => Label::read(&json)
                .map(Some)
                .map_err(|error| failed("cannot read the label of", path, &error.into())),
        }
    }

    fn write(&self, label: &Label) -> Result<(), ItemError> {
        let file = self.file(&label.path);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let json = label.written().map_err(|error| failed("cannot label", &label.path, &error.into()))?;
        write_durably(&self.dir, &name, &json).map_err(|error| failed("cannot label", &label.path, &error))
    }

    fn file(&self, path: &Path) -> PathBuf {
        let digest = blake3::hash(path.as_os_str().as_encoded_bytes());
        self.dir.join(format!("{}.json", digest.to_hex()))
    }
}

/// What the system said about a path.
pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> ItemError {
    ItemError::new(Code::Cluster, format!("{what} {}: {error}", path.display()))
}

/// What the runtime said about users and files.
pub(super) fn refused(error: &RuntimeError) -> ItemError {
    let code = match error {
        RuntimeError::NoSuchUser { .. } => Code::Invalid,
        _ => Code::Cluster,
    };
    ItemError::new(code, error.to_string())
}

fn conflict(path: &Path, why: &str) -> ItemError {
    let text = format!("spec.path: {} exists, and {why}", path.display());
    ItemError::new(Code::Conflict, text).with_help("remove it, or choose another path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_known_meanwhile_is_not_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let labels = Labels::new(dir.path(), StoreId::new(uuid::Uuid::nil()));
        labels.make().unwrap();
        let path = dir.path().join("data");
        labels.take(&path, &"default/File/data".parse().unwrap(), &"shop".parse().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        for (known, left) in [(true, true), (false, false)] {
            let known = Known::new(BTreeSet::new(), move |_| known);
            let stranger = labels.strangers("File", &known).remove(0);
            assert_eq!(labels.clear(&stranger, &known, |path| fs::remove_file(path)), Ok(!left));
            assert_eq!(path.exists(), left);
        }
        assert_eq!(labels.strangers("File", &Known::new(BTreeSet::new(), |_| false)), []);
    }

    #[test]
    fn z_s2_bundles_that_come_and_go_at_once_lose_no_holder_of_a_shared_path() {
        let dir = tempfile::tempdir().unwrap();
        let labels = Labels::new(dir.path(), StoreId::new(uuid::Uuid::nil()));
        labels.make().unwrap();
        let path = dir.path().join("common");
        let resource: ResourceId = "default/Directory/common".parse().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (labels, path, resource) = (&labels, &path, &resource);
                scope.spawn(move || {
                    let bundle: Name = format!("b{number}").parse().unwrap();
                    for _ in 0..20 {
                        labels.take(path, resource, &bundle).unwrap();
                        fs::create_dir_all(path).unwrap();
                        assert!(path.is_dir());
                        // The even ones stay in the end, and so does what they hold.
                        labels.leave(path, resource, &bundle, |path| fs::remove_dir(path)).unwrap();
                    }
                    if number % 2 == 0 {
                        labels.take(path, resource, &bundle).unwrap();
                        fs::create_dir_all(path).unwrap();
                    }
                });
            }
        });
        assert!(path.is_dir());
        assert_eq!(labels.read(&path).unwrap().unwrap().holders.len(), 4);
    }
}
