//! `Directory`: a directory of this host, with room set aside for it.
//!
//! ```yaml
//! spec: {path: /srv/shop, size: 1Gi, mode: "0755", owner: null, group: null, shared: false, drift: repair}
//! ```
//! `size` counts as reserved; it is no quota. With `shared` in each of them, several bundles may declare the same one: the
//! first makes it, the last removes it.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use towline_protocol::{Code, ItemError};

use super::{
    label::{Labels, failed, refused},
    look_on_disk, on_disk,
    remembered::Remembered,
    unreadable,
};
use crate::{
    engine::{
        Room,
        manager::{Known, Manager, Seen, Traits, Work},
        pipeline::{Step, Stop, Verdict},
    },
    manifest::{ByteSize, Complaint, Drift, drift_field, mode_field, path_field, read_kind},
    runtime::process::{blocking, owner_of},
};

pub(super) const KIND: &str = "Directory";

/// Carries out `Directory`.
#[derive(Debug)]
pub(super) struct Directories {
    labels: Labels,
    specs: Remembered<Spec>,
}

#[derive(Debug, Clone)]
struct Spec {
    path: PathBuf,
    size: ByteSize,
    mode: u32,
    owner: Option<String>,
    group: Option<String>,
    shared: bool,
    drift: Drift,
}

fn read(document: &[u8]) -> Result<Spec, Vec<Complaint>> {
    let spec = read_kind(document, KIND, |fields| {
        let path = path_field(&fields.get("path"));
        let size = fields.get("size").parsed().unwrap_or_else(|| ByteSize::new(0));
        let mode = mode_field(&fields.get("mode")).unwrap_or(0o755);
        let owner = fields.get("owner").text();
        let group = fields.get("group").text();
        let shared = fields.get("shared").boolean().unwrap_or(false);
        let drift = drift_field(&fields.get("drift"));
        Some(Spec { path: path?, size, mode, owner, group, shared, drift })
    });
    spec.map(|(_, spec)| spec)
}

pub(super) fn read_traits(document: &[u8]) -> Result<Traits, Vec<Complaint>> {
    read(document).map(|spec| {
        let needs = Room { disk: spec.size.get(), ..Room::default() };
        Traits { shared: spec.shared, needs, ..Traits::default() }
    })
}

/// A definition that was accepted, read again.
fn spec_of(work: &Work) -> Result<Spec, ItemError> {
    read(&work.definition).map_err(unreadable)
}

impl Directories {
    pub(super) fn new(labels: Labels) -> Self {
        Self { labels, specs: Remembered::default() }
    }

    /// Marks it ours, and makes it.
    fn steps(&self, work: &Work) -> Vec<Step> {
        let (labels, undone) = (self.labels.clone(), self.labels.clone());
        let (asked, back) = (work.clone(), work.clone());
        let label = Step::new("label")
            .forward(move |_| {
                on_disk(move || {
                    let spec = spec_of(&asked)?;
                    Ok(json!({"taken": labels.take(&spec.path, &asked.resource, &asked.bundle)?}))
                })
            })
            .backward(move |result| async move {
                if result.get("taken") != Some(&Value::Bool(true)) {
                    return Ok(());
                }
                let undo = move || take_down(&undone, &back).map_err(Stop::from);
                on_disk(move || undo().map(|()| Value::Null)).await.map(drop).map_err(|stop| stop.error)
            });
        let asked = work.clone();
        let make = Step::new("create").forward(move |_| on_disk(move || Ok(make(&spec_of(&asked)?)?)));
        vec![label, make]
    }
}

fn make(spec: &Spec) -> Result<Value, ItemError> {
    let path = &spec.path;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(|error| failed("cannot make", path, &error))?,
    }
    let (uid, gid) =
        owner_of(spec.owner.as_deref(), spec.group.as_deref()).map_err(|error| refused(&error))?;
    if uid.is_some() || gid.is_some() {
        chown(path, uid, gid).map_err(|error| failed("cannot change the owner of", path, &error))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(spec.mode))
        .map_err(|error| failed("cannot change the mode of", path, &error))?;
    Ok(json!({"path": path}))
}

fn look_at(spec: &Spec) -> Seen {
    let (path, repair) = (spec.path.display(), spec.drift == Drift::Repair);
    match fs::symlink_metadata(&spec.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            super::drifted(format!("{path} is gone"), repair)
        }
        Err(error) => Seen::unknown(format!("{path}: {error}")),
        Ok(meta) if !meta.is_dir() => super::drifted(format!("{path} is no directory"), false),
        Ok(meta) if meta.permissions().mode() & 0o7777 != spec.mode => {
            super::drifted(format!("{path} has another mode"), repair)
        }
        Ok(_) => super::ready(),
    }
}

fn take_down(labels: &Labels, work: &Work) -> Result<(), ItemError> {
    let path = spec_of(work)?.path;
    labels.leave(&path, &work.resource, &work.bundle, |path| fs::remove_dir_all(path))
}

#[async_trait]
impl Manager for Directories {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn read(&self, document: &[u8]) -> Result<Traits, Vec<Complaint>> {
        read_traits(document)
    }

    async fn initialise(&self) -> Result<(), ItemError> {
        self.labels.make()
    }

    fn provision(&self, work: Work) -> Vec<Step> {
        self.steps(&work)
    }

    fn update(&self, work: Work, before: Work) -> Vec<Step> {
        let (was, is) = (before.clone(), work.clone());
        let same = Step::new("compare").forward(move |_| async move {
            let (old, new) = (spec_of(&was)?, spec_of(&is)?);
            if old.path == new.path {
                let visible = |spec: &Spec| (spec.mode, spec.owner.clone(), spec.group.clone());
                return match visible(&old) == visible(&new) {
                    true => Err(Stop::new(Verdict::NoAction, Code::Conflict, "nothing on disk differs")),
                    false => Ok(Value::Null),
                };
            }
            let text = format!(
                "found {}, allowed is {}, which it has: what is in it would be lost; remove the Directory \
                 in one version and add it in the next",
                new.path.display(),
                old.path.display()
            );
            Err(Stop::new(Verdict::Unchanged, Code::Conflict, text).context("spec.path"))
        });
        let make = Step::new("change")
            .forward(move |_| on_disk(move || Ok(make(&spec_of(&work)?)?)))
            .backward(move |_| async move {
                on_disk(move || Ok(make(&spec_of(&before)?)?)).await.map(drop).map_err(|stop| stop.error)
            });
        vec![same, make]
    }

    fn deprovision(&self, work: Work) -> Vec<Step> {
        let labels = self.labels.clone();
        vec![
            Step::new("remove")
                .forward(move |_| on_disk(move || Ok(take_down(&labels, &work).map(|()| Value::Null)?))),
        ]
    }

    async fn observe(&self, works: Vec<Work>) -> Vec<Seen> {
        let specs = self.specs.clone();
        let read = |definition: &[u8]| read(definition).map_err(unreadable);
        look_on_disk(works, move |work| match specs.of(&work.definition, read) {
            Ok(spec) => look_at(&spec),
            Err(error) => Seen::unknown(error.message),
        })
        .await
    }

    /// Removes nothing: what is in a directory is its user's, and a store that was put back from a backup does not know of
    /// a newer one. Whoever knows that it is not needed removes it.
    async fn clean_up(&self, known: Arc<Known>) -> Vec<String> {
        let labels = self.labels.clone();
        let strangers = blocking(move || Ok(labels.strangers(KIND, &known))).await.unwrap_or_default();
        for stranger in strangers {
            tracing::warn!(
                path = %stranger.path.display(),
                resource = %stranger.resource,
                "no bundle has this directory any more, and it stays: put a bundle with it again, or remove it by hand"
            );
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use towline_protocol::StoreId;

    use super::*;

    #[tokio::test]
    async fn z_e12_a_directory_that_the_store_does_not_list_keeps_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let labels = Labels::new(dir.path(), StoreId::new(uuid::Uuid::nil()));
        labels.make().unwrap();
        let path = dir.path().join("data");
        labels.take(&path, &"default/Directory/data".parse().unwrap(), &"shop".parse().unwrap()).unwrap();
        fs::create_dir(&path).unwrap();
        let nothing = Arc::new(Known::new(Default::default(), |_| false));
        assert_eq!(Directories::new(labels).clean_up(nothing).await, Vec::<String>::new());
        assert!(path.is_dir());
    }
}
