//! Apps of bundles: brought about here, in the same way and under the same locks as direct ones, but stored by the engine.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use towline_bus::clock;
use towline_protocol::{Code, ItemError, Name, ResourceId};

use super::{
    Direct,
    apply::Failure,
    converge::{Revive, refused},
    entry::Entry,
};
use crate::{
    asker::Asker,
    engine::Room,
    manifest::{self, Manifest},
    runtime::RuntimeKind,
    store::Change,
};

/// An app of a bundle.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    pub(crate) bundle: Name,
    /// `namespace/App/name`.
    pub(crate) id: String,
    pub(crate) definition: Bytes,
    /// The generation that it was carried out as, if it was.
    pub(crate) generation: Option<String>,
    /// It may take over what `apply` brought here.
    pub(crate) adopt: bool,
}

impl Direct {
    /// Brings the units of `app` to its definition; on a failure, back to what they were. Says under which generation.
    ///
    /// # Errors
    /// What failed, and whether everything is as it was before.
    pub(crate) async fn bring_about(&self, app: &Owned, asker: &Asker) -> Result<Value, Failure> {
        let manifest = read(self.inner.runtime.kind(), app)?;
        let _lock = self.lock(&app.id).await;
        let before = self.entry(&app.id);
        let direct = before.as_ref().is_some_and(|before| before.owner.is_none());
        if direct && !app.adopt {
            let text = format!("{} was brought here by apply, and belongs to no bundle", app.id);
            let refused = ItemError::new(Code::Conflict, text);
            return Err(refused.with_help("delete it there, or put with --adopt").into());
        }
        let owner = before.as_ref().and_then(|before| before.owner.as_ref());
        if let Some(other) = owner.filter(|owner| **owner != app.bundle) {
            return Err(ItemError::new(Code::Conflict, format!("{} is of bundle {other}", app.id)).into());
        }
        let generation = app.generation.clone();
        let entry = Arc::new(Entry::of_bundle(
            manifest,
            before.as_deref(),
            &app.bundle,
            generation,
            clock::unix_ms(),
        ));
        if let Err(why) = self.converge(&app.id, &entry, Revive::Failed, asker).await {
            return Err(match before.as_ref().filter(|before| before.paused) {
                Some(_) => self.stop_again(&app.id, why).await,
                None => self.undo(&app.id, before.as_deref(), why).await,
            });
        }
        if direct {
            let gone = vec![Change::Remove(app.id.clone())];
            super::journal::commit(&self.inner.store, gone)
                .await
                .map_err(|error| ItemError::new(Code::Cluster, error.to_string()))?;
        }
        let generation = entry.resource.facts.generation.clone();
        self.change(&app.id, Some(entry));
        Ok(json!({"generation": generation}))
    }

    /// Stops what a failed resumption started, and says what failed.
    async fn stop_again(&self, id: &str, mut error: ItemError) -> Failure {
        let stopped = self.stop_units(id).await;
        if let Err(second) = &stopped {
            error.message.push_str(&format!("; and stopping what was started failed, too: {second}"));
        }
        Failure { error, undone: stopped.is_ok() }
    }

    /// Removes the units of `app`, unless it is another's.
    pub(crate) async fn take_down(&self, app: &Owned) -> Result<(), ItemError> {
        let _lock = self.lock(&app.id).await;
        if self.entry(&app.id).is_some_and(|entry| entry.owner.as_ref() != Some(&app.bundle)) {
            return Ok(());
        }
        self.remove_all_units(&app.id).await?;
        self.change(&app.id, None);
        Ok(())
    }

    /// Stops the units of `app`, unless it is another's, and lets nobody start them until it is brought about again.
    pub(crate) async fn pause(&self, app: &Owned) -> Result<(), ItemError> {
        let _lock = self.lock(&app.id).await;
        let Some(entry) = self.entry(&app.id) else {
            // Nobody starts them, but one that was begun and never carried out may have left some.
            let manifest = read(self.inner.runtime.kind(), app).ok();
            let choice = manifest.as_ref().and_then(|manifest| manifest.spec.host());
            self.inner.runtime.observe(&app.id, choice).await.map_err(|error| refused(&error))?;
            return self.stop_units(&app.id).await;
        };
        if entry.owner.as_ref() != Some(&app.bundle) {
            return Ok(());
        }
        self.change(&app.id, Some(Arc::new(entry.to_be_paused())));
        let stopped = self.stop_units(&app.id).await;
        if stopped.is_err() {
            self.change(&app.id, Some(entry));
        }
        stopped
    }

    /// Knows `app` again, as an earlier agent carried it out.
    pub(crate) fn find_again(&self, app: &Owned, paused: bool) {
        match read(self.inner.runtime.kind(), app) {
            Ok(manifest) => {
                let generation = app.generation.clone();
                let entry = Entry::of_bundle(manifest, None, &app.bundle, generation, clock::unix_ms());
                let entry = if paused { entry.to_be_paused() } else { entry };
                self.change(&app.id, Some(Arc::new(entry)));
            }
            Err(error) => {
                tracing::error!(id = app.id, %error, "its units run on, and are not watched over");
            }
        }
    }

    /// Refuses to touch what a bundle has.
    pub(super) fn check_owner(&self, id: &str) -> Result<(), ItemError> {
        match self.inner.owners.owner(id) {
            Some(bundle) => Err(ItemError::new(Code::Conflict, format!("{id} is of bundle {bundle}"))
                .with_help("change the bundle, or delete it first")),
            None => Ok(()),
        }
    }

    /// Whether `apply` brought it here, and no bundle has it.
    pub(crate) fn is_direct(&self, id: &str) -> bool {
        self.entry(id).is_some_and(|entry| entry.owner.is_none())
    }

    /// What is promised to the units of what `apply` brought here.
    pub(crate) fn direct_room(&self) -> Vec<(ResourceId, Room)> {
        let entries = self.entries();
        let direct = entries.iter().filter(|(_, entry)| entry.owner.is_none());
        let room = direct.filter_map(|(id, entry)| {
            let spec = &entry.manifest.as_ref().ok()?.spec;
            Some((id.parse().ok()?, Room::of_units(spec)))
        });
        room.filter(|(_, room)| *room != Room::default()).collect()
    }
}

fn read(runtime: RuntimeKind, app: &Owned) -> Result<Manifest, ItemError> {
    manifest::read_app_of_bundle(runtime, &app.definition).map_err(|complaints| {
        let text = complaints.iter().map(|complaint| format!("{}: {}", complaint.path, complaint.text));
        ItemError::new(Code::Invalid, text.collect::<Vec<_>>().join("; "))
    })
}
