//! `File`: a file of this host, with the content that it is given.
//!
//! ```yaml
//! spec: {path: /etc/shop.conf, content: "…", base64: null, mode: "0600", owner: null, group: null, drift: repair}
//! ```
//! It is written beside its place and renamed into it: whoever reads sees the old content or the new, never half of one.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use serde_json::{Value, json};
use towline_protocol::ItemError;

use super::{
    label::{Labels, refused},
    look_on_disk, on_disk,
    remembered::Remembered,
    unreadable,
};
use crate::{
    engine::{
        Room,
        manager::{Known, Manager, Seen, Traits, Work},
        pipeline::{Step, Stop},
    },
    manifest::{Complaint, Drift, FileSpec, drift_field, file_fields, path_field, read_kind},
    runtime::process::{remove_file, write_file},
};

pub(super) const KIND: &str = "File";

/// Carries out `File`.
#[derive(Debug)]
pub(super) struct Files {
    labels: Labels,
    looks: Remembered<Look>,
}

#[derive(Debug, Clone)]
struct Spec {
    file: FileSpec,
    drift: Drift,
}

fn read(document: &[u8]) -> Result<Spec, Vec<Complaint>> {
    let spec = read_kind(document, KIND, |fields| {
        let path = path_field(&fields.get("path"));
        let file = file_fields(fields);
        let drift = drift_field(&fields.get("drift"));
        path.and(file).map(|file| Spec { file, drift })
    });
    spec.map(|(_, spec)| spec)
}

pub(super) fn read_traits(document: &[u8]) -> Result<Traits, Vec<Complaint>> {
    let size = read(document)?.file.content.len();
    let disk = u64::try_from(size).unwrap_or(u64::MAX);
    Ok(Traits { needs: Room { disk, ..Room::default() }, ..Traits::default() })
}

fn spec_of(work: &Work) -> Result<Spec, ItemError> {
    read(&work.definition).map_err(unreadable)
}

/// What a look compares a file with.
#[derive(Debug)]
struct Look {
    path: PathBuf,
    mode: u32,
    content: Digest,
    repair: bool,
}

/// Length and hash: a file may be large, and what it is to hold stays in the store.
#[derive(Debug, PartialEq, Eq)]
struct Digest(usize, blake3::Hash);

impl Digest {
    fn of(content: &[u8]) -> Self {
        Self(content.len(), blake3::hash(content))
    }
}

fn read_look(definition: &[u8]) -> Result<Look, ItemError> {
    let Spec { file, drift } = read(definition).map_err(unreadable)?;
    let content = Digest::of(&file.content);
    Ok(Look { path: file.path, mode: file.mode, content, repair: drift == Drift::Repair })
}

impl Look {
    fn at_the_file(&self) -> Seen {
        let (path, repair) = (self.path.display(), self.repair);
        let mode = fs::symlink_metadata(&self.path).map(|meta| meta.permissions().mode() & 0o7777);
        match (mode, fs::read(&self.path)) {
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                super::drifted(format!("{path} is gone"), repair)
            }
            (Err(error), _) | (_, Err(error)) => Seen::unknown(format!("{path}: {error}")),
            (_, Ok(content)) if Digest::of(&content) != self.content => {
                super::drifted(format!("{path} has other content"), repair)
            }
            (Ok(mode), _) if mode != self.mode => super::drifted(format!("{path} has another mode"), repair),
            _ => super::ready(),
        }
    }
}

fn write(spec: &Spec) -> Result<Value, ItemError> {
    write_file(&spec.file).map_err(|error| refused(&error))?;
    Ok(json!({"path": spec.file.path}))
}

fn take_down(labels: &Labels, work: &Work) -> Result<(), ItemError> {
    let path = spec_of(work)?.file.path;
    labels.leave(&path, &work.resource, &work.bundle, remove_file)
}

impl Files {
    pub(super) fn new(labels: Labels) -> Self {
        Self { labels, looks: Remembered::default() }
    }

    fn label(&self, work: &Work) -> Step {
        let (labels, undone) = (self.labels.clone(), self.labels.clone());
        let (asked, back) = (work.clone(), work.clone());
        Step::new("label")
            .forward(move |_| {
                on_disk(move || {
                    let path = spec_of(&asked)?.file.path;
                    Ok(json!({"taken": labels.take(&path, &asked.resource, &asked.bundle)?}))
                })
            })
            .backward(move |result| async move {
                if result.get("taken") != Some(&Value::Bool(true)) {
                    return Ok(());
                }
                let undo = move || Ok(take_down(&undone, &back).map(|()| Value::Null)?);
                on_disk(undo).await.map(drop).map_err(|stop| stop.error)
            })
    }
}

#[async_trait]
impl Manager for Files {
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
        let label = self.label(&work);
        vec![label, Step::new("write").forward(move |_| on_disk(move || Ok(write(&spec_of(&work)?)?)))]
    }

    fn update(&self, work: Work, before: Work) -> Vec<Step> {
        let label = self.label(&work);
        let (labels, old) = (self.labels.clone(), before.clone());
        let asked = work.clone();
        let write_new = Step::new("write")
            .forward(move |_| on_disk(move || Ok(write(&spec_of(&asked)?)?)))
            .backward(move |_| async move {
                on_disk(move || Ok(write(&spec_of(&before)?)?)).await.map(drop).map_err(|stop| stop.error)
            });
        let leave = Step::new("leave the old path").forward(move |given| {
            on_disk(move || {
                if spec_of(&old)?.file.path != spec_of(&work)?.file.path {
                    take_down(&labels, &old).map_err(Stop::from)?;
                }
                Ok(given.previous.unwrap_or_default())
            })
        });
        vec![label, write_new, leave]
    }

    fn deprovision(&self, work: Work) -> Vec<Step> {
        let labels = self.labels.clone();
        vec![
            Step::new("remove")
                .forward(move |_| on_disk(move || Ok(take_down(&labels, &work).map(|()| Value::Null)?))),
        ]
    }

    async fn observe(&self, works: Vec<Work>) -> Vec<Seen> {
        let looks = self.looks.clone();
        look_on_disk(works, move |work| match looks.of(&work.definition, read_look) {
            Ok(look) => look.at_the_file(),
            Err(error) => Seen::unknown(error.message),
        })
        .await
    }

    async fn clean_up(&self, known: Arc<Known>) -> Vec<String> {
        super::clean_up(self.labels.clone(), KIND, known, remove_file).await
    }
}
