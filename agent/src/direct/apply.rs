//! Applying and deleting, one resource at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    future::{self, Either},
    stream,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use towline_bus::clock::{self, Moment};
use towline_protocol::{
    CallError, Code, ItemError,
    platform::{Definition, SyncAction},
};

use super::{
    AT_ONCE, Direct, Journal,
    converge::Revive,
    entry::{Entry, read_one},
    invalid, summary,
};
use crate::{
    manifest::{self, Manifest},
    store::Change,
};

/// Why one resource was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: ItemError,
    /// Everything is as it was before.
    pub(crate) undone: bool,
}

impl From<ItemError> for Failure {
    fn from(error: ItemError) -> Self {
        Self { error, undone: true }
    }
}

impl Direct {
    pub(super) async fn apply_all(
        &self,
        definitions: Vec<Definition>,
        journal: Arc<Mutex<Journal>>,
        cancelled: CancellationToken,
    ) -> Result<(), CallError> {
        let (asked, since) = (definitions.len(), clock::now());
        let twice = twice(definitions.iter().map(|definition| definition.id.as_str()));
        let work = definitions.into_iter().map(|definition| {
            let (journal, cancelled) = (&journal, &cancelled);
            let refused = twice.contains(definition.id.as_str());
            async move {
                let id = definition.id.as_str();
                let done = if refused {
                    Err(invalid("found twice in one call, allowed is once").into())
                } else {
                    let Definition { definition, is_async, .. } = &definition;
                    self.apply_one(id, definition, *is_async, since, journal, cancelled).await
                };
                (id.to_owned(), done)
            }
        });
        let results = stream::iter(work).buffer_unordered(AT_ONCE).collect::<Vec<_>>();
        let results: Vec<(String, Result<(), Failure>)> = if asked > 1 {
            // First, so that each finds this look under way on the hosts that concern it, and waits for no other host.
            match future::select(self.inner.runtime.look_around(), std::pin::pin!(results)).await {
                Either::Left(((), results)) => results.await,
                Either::Right((results, _)) => results,
            }
        } else {
            results.await
        };
        let undone = results.iter().all(|(_, done)| done.as_ref().is_err_and(|failure| failure.undone));
        let failed = results.into_iter().filter_map(|(id, done)| Some((id, done.err()?.error)));
        let errors: BTreeMap<String, ItemError> = failed.collect();
        let asked = if twice.is_empty() { asked } else { errors.len() };
        summary(errors, asked, undone)
    }

    pub(super) async fn sync_all(
        &self,
        actions: Vec<SyncAction>,
        journal: Arc<Mutex<Journal>>,
        cancelled: CancellationToken,
    ) -> Result<(), CallError> {
        let mut errors = BTreeMap::new();
        let mut undone = true;
        for action in actions {
            let mut changed = false;
            if let Err(failure) = self.act(&action, &mut changed, &journal, &cancelled).await {
                undone &= failure.undone && !changed;
                // An id that comes twice keeps its first error: the second may only follow from it.
                errors.entry(action.id.to_string()).or_insert(failure.error);
            } else {
                undone = false;
            }
        }
        let count = errors.len();
        summary(errors, count, undone)
    }

    async fn act(
        &self,
        action: &SyncAction,
        changed: &mut bool,
        journal: &Mutex<Journal>,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        let id = action.id.as_str();
        if let Some(delete) = &action.delete {
            *changed = self.delete_one(id, delete, journal, cancelled).await?;
        }
        if let Some(apply) = &action.apply {
            self.apply_one(id, apply, false, clock::now(), journal, cancelled).await?;
        }
        Ok(())
    }

    async fn apply_one(
        &self,
        id: &str,
        definition: &Bytes,
        is_async: bool,
        since: Moment,
        journal: &Mutex<Journal>,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        let manifest = read_one(self.inner.runtime.kind(), definition).await.map_err(invalid)?;
        if manifest.id != id {
            return Err(mismatch(id, &manifest.id).into());
        }
        self.admit(&manifest)?;
        let lock = self.lock(id).await;
        check_cancelled(cancelled)?;
        self.check_owner(id)?;
        let before = self.entry(id);
        let entry = Arc::new(Entry::define(manifest, before.as_deref(), clock::unix_ms()));
        if is_async {
            let entry = Arc::new(entry.to_be_done());
            self.record(id, &entry, journal).await;
            self.finish_later(id.to_owned(), entry, lock);
            return Ok(());
        }
        let asker = cancelled.clone().into();
        if let Err(why) = self.converge_since(id, &entry, Revive::Failed, &asker, since).await {
            return Err(self.undo(id, before.as_deref(), why).await);
        }
        let same = before.is_some_and(|before| {
            let (old, new) = (&before.resource, &entry.resource);
            is_same_text(&old.definition, &new.definition)
                && old.facts.failure.is_none()
                && !old.facts.pending
        });
        if !same {
            self.record(id, &entry, journal).await;
        }
        Ok(())
    }

    /// Refuses what has no place here, before anything is done for it.
    fn admit(&self, manifest: &Manifest) -> Result<(), ItemError> {
        let refused = self.inner.runtime.admits(&manifest.spec).err().unwrap_or_default();
        let texts: Vec<String> = refused.into_iter().map(|(path, text)| format!("{path}: {text}")).collect();
        if texts.is_empty() { Ok(()) } else { Err(invalid(texts.join("\n"))) }
    }

    /// Brings back what was there before a failed apply, and says what failed.
    pub(super) async fn undo(&self, id: &str, before: Option<&Entry>, mut error: ItemError) -> Failure {
        let never = CancellationToken::new();
        let back = match before {
            Some(before) => self.converge(id, before, Revive::Before, &never.into()).await,
            None => self.remove_units(id).await,
        };
        if let Err(second) = &back {
            error
                .message
                .push_str(&format!("; and bringing back what was there before failed, too: {second}"));
        }
        Failure { error, undone: back.is_ok() }
    }

    /// Deletes a resource; says whether there was anything to delete.
    async fn delete_one(
        &self,
        id: &str,
        definition: &Bytes,
        journal: &Mutex<Journal>,
        cancelled: &CancellationToken,
    ) -> Result<bool, Failure> {
        let found = manifest::identify("delete", definition).map_err(|errors| invalid(errors.to_string()))?;
        match found.as_slice() {
            [(found, _)] if found == id => {}
            [(found, _)] => return Err(mismatch(id, found).into()),
            others => {
                return Err(
                    invalid(format!("found {} documents to delete, allowed is one", others.len())).into()
                );
            }
        }
        let _lock = self.lock(id).await;
        check_cancelled(cancelled)?;
        self.check_owner(id)?;
        let had_units = !self.inner.runtime.units_of(id).is_empty();
        self.remove_all_units(id).await.map_err(|error| Failure { error, undone: false })?;
        let had_entry = self.change(id, None);
        if had_entry {
            journal.lock().await.add(Change::Remove(id.to_owned())).await;
        }
        Ok(had_units || had_entry)
    }

    /// Makes `entry` the definition in force.
    async fn record(&self, id: &str, entry: &Arc<Entry>, journal: &Mutex<Journal>) {
        let change = Change::Put(id.to_owned(), Arc::clone(&entry.resource));
        journal.lock().await.add(change).await;
        self.change(id, Some(Arc::clone(entry)));
    }

    /// Carries out a definition that was accepted; what fails is shown with the service.
    fn finish_later(&self, id: String, entry: Arc<Entry>, lock: tokio::sync::OwnedMutexGuard<()>) {
        let direct = self.clone();
        self.inner.tasks.spawn("async-apply", async move {
            let stopping = direct.inner.tasks.stopping().clone();
            let its_turn = async {
                direct.inner.runtime.mark().acts().await;
                direct.inner.later.acquire().await
            };
            let place = stopping.run_until_cancelled(its_turn).await;
            // Cut short by the agent's own end, it stays pending, and the next start finishes it.
            if place.is_some() {
                let done = direct.converge(&id, &entry, Revive::Failed, &stopping.clone().into()).await;
                if done.is_ok() || !stopping.is_cancelled() {
                    direct.note(&id, &entry, done.err().map(|error| error.message)).await;
                }
            }
            drop(lock);
        });
    }

    /// Stores that carrying out `entry` failed, or no longer does.
    pub(super) async fn note(&self, id: &str, entry: &Entry, failure: Option<String>) {
        if let Some(why) = &failure {
            tracing::warn!(id, why, "a definition cannot be carried out");
        }
        let noted = Arc::new(entry.with_failure(failure));
        let change = Change::Put(id.to_owned(), Arc::clone(&noted.resource));
        let of_bundle = noted.owner.is_some();
        self.change(id, Some(noted));
        // Of a bundle's, the engine stores what is to be stored.
        if of_bundle {
            return;
        }
        if let Err(error) = super::journal::commit(&self.inner.store, vec![change]).await {
            tracing::error!(id, %error, "what became of it cannot be stored");
        }
    }
}

fn twice<'a>(ids: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    ids.filter(|id| !seen.insert(id.to_owned())).map(str::to_owned).collect()
}

/// Whether two documents are the same but for the end of their last line: an export ends each, and what it wrote is what is here.
fn is_same_text(one: &[u8], other: &[u8]) -> bool {
    one.strip_suffix(b"\n").unwrap_or(one) == other.strip_suffix(b"\n").unwrap_or(other)
}

fn mismatch(id: &str, found: &str) -> ItemError {
    invalid(format!("found the definition of {found}, allowed is one of {id}, the id it was sent under"))
}

fn check_cancelled(cancelled: &CancellationToken) -> Result<(), Failure> {
    if cancelled.is_cancelled() {
        return Err(ItemError::new(Code::Cancelled, "cancelled by its caller before it began").into());
    }
    Ok(())
}
