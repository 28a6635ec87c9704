//! What a call changes in the store, so that its last change and its outcome are one transaction.

use std::{sync::Arc, time::Duration};

use towline_bus::{clock, clock::Moment};
use towline_protocol::{CallError, Effect};

use crate::store::{Change, Outcome, OutcomeKey, Store, StoreError};

/// How long changes are gathered before they are written: a call that brings thousands must not wait for the disk for
/// each. What a crash takes is carried out but not stored, and settled at the next start.
const GATHER: Duration = Duration::from_millis(50);

/// Collects the changes of one call. The last one is held back until the outcome is known.
#[derive(Debug)]
pub(super) struct Journal {
    store: Arc<Store>,
    held: Vec<Change>,
    since: Moment,
}

impl Journal {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, held: Vec::new(), since: clock::now() }
    }

    /// Takes a change that was carried out; from time to time, writes those before it. Whether all could be written is
    /// said by [`Journal::finish`], of the whole call: an error here would be blamed on whoever came by.
    pub(super) async fn add(&mut self, change: Change) {
        let now = clock::now();
        if !self.held.is_empty() && now.since(self.since) >= GATHER {
            self.since = now;
            match commit(&self.store, self.held.clone(), None).await {
                Ok(()) => self.held.clear(),
                Err(error) => tracing::warn!(%error, "changes wait for the end of their call to be written"),
            }
        }
        self.held.push(change);
    }

    /// Writes what is held, and the outcome with it. A refusal that did nothing is not remembered: the caller may mend
    /// what was wrong and ask again under the same id.
    pub(super) async fn finish(
        mut self,
        key: OutcomeKey,
        outcome: &Result<(), CallError>,
    ) -> Result<(), StoreError> {
        let nothing_done = outcome.as_ref().is_err_and(|error| error.effect == Effect::None);
        let changes = std::mem::take(&mut self.held);
        let outcome = (!nothing_done).then(|| (key, Outcome(outcome.clone().map(|()| None))));
        if changes.is_empty() && outcome.is_none() {
            return Ok(());
        }
        commit(&self.store, changes, outcome).await
    }
}

/// Writes `changes` now, outside any call.
pub(super) async fn commit(
    store: &Arc<Store>,
    changes: Vec<Change>,
    outcome: Option<(OutcomeKey, Outcome)>,
) -> Result<(), StoreError> {
    store.commit(changes, outcome, clock::unix_ms()).await
}
