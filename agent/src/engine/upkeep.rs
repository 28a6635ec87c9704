//! Looking after the managers: making them ready, again and again until they are, and having leftovers cleared away.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use towline_protocol::{
    Code, ItemError, Name, ResourceId,
    bundle::{BundlePhase, ResultState},
};

use super::{
    Engine, backoff,
    drive::is_to_retry,
    lanes::Item,
    manager::{Known, Manager},
    observe::work,
    state::{Bundle, State},
};
use crate::store::{
    StoreError,
    rows::{self, WorkloadRow},
};

/// Between two looks for leftovers, give or take a quarter.
const SWEEP: Duration = Duration::from_secs(60 * 60);

impl Engine {
    /// Makes the managers ready, has them know again what was carried out, and removes what nobody knows of; nothing if
    /// `skipped`, for then there is more to know than could be read.
    pub(super) async fn find_again(&self, rebooted: bool, skipped: bool) -> Result<(), StoreError> {
        for manager in self.inner.registry.iter() {
            self.make_ready(manager.as_ref()).await;
        }
        let rows: Vec<(Name, bool, WorkloadRow)> = {
            let mut state = self.state();
            state.partial = skipped;
            let rows = |(name, bundle): (&Name, &Bundle)| {
                // Whatever a row says: what is not stopped yet is not to be started again either.
                let (name, paused) = (name.clone(), bundle.row.phase == BundlePhase::Paused);
                bundle
                    .workloads
                    .values()
                    .map(move |row| (name.clone(), paused, row.clone()))
                    .collect::<Vec<_>>()
            };
            state.bundles.iter().flat_map(rows).collect()
        };
        self.inner.store.read(|transaction| {
            let held = rows::Held::open(transaction)?;
            for (name, paused, row) in rows.iter().filter(|(.., row)| row.holds.is_some()) {
                let paused = *paused || row.result.state == ResultState::Paused;
                // After a reboot each comes up in its turn; until then nobody brings it back on its own.
                if row.given_up || (rebooted && !paused) {
                    continue;
                }
                let definition = held.definition(name, &row.id)?;
                if let (Some(definition), Ok(manager)) = (definition, self.inner.registry.find(row.id.kind()))
                {
                    manager.adopt(&work(name, row, definition), paused);
                }
            }
            Ok(())
        })?;
        self.sweep().await;
        Ok(())
    }

    /// Makes one manager ready; says whether it is.
    async fn make_ready(&self, manager: &dyn Manager) -> bool {
        let kind = manager.kind();
        match manager.initialise().await {
            Ok(()) => {
                self.state().unready.remove(kind);
                true
            }
            Err(ItemError { message, .. }) => {
                tracing::error!(kind, message, "work on this kind waits until its manager is ready");
                self.state().unready.insert(kind, message);
                false
            }
        }
    }

    /// Why nothing can be done about workloads of `kind` now.
    pub(super) fn held_up(&self, kind: &str) -> Option<ItemError> {
        let state = self.state();
        let why = state.unready.get(kind)?;
        let text = format!("work on {kind} waits until its manager is ready: {why}");
        Some(ItemError::new(Code::Busy, text).with_help("it is tried again by itself"))
    }

    /// Tries again to make those managers ready that are not, until all are, or the agent ends.
    pub(super) async fn get_ready(self) {
        let stopping = self.inner.tasks.stopping().clone();
        for attempts in 1.. {
            if self.state().unready.is_empty() {
                return;
            }
            let wait = tokio::time::sleep(backoff::wait(attempts));
            if stopping.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let mut ready = Vec::new();
            for manager in self.inner.registry.iter() {
                let waits = self.state().unready.contains_key(manager.kind());
                if waits && self.make_ready(manager.as_ref()).await {
                    tracing::info!(kind = manager.kind(), "its manager is ready");
                    ready.push(manager.kind());
                }
            }
            if !ready.is_empty() {
                retry_all_of(&mut self.state(), &ready);
                self.kick();
                self.sweep().await;
            }
        }
    }

    /// Has leftovers cleared away from time to time, until the agent ends.
    pub(super) async fn janitor(self) {
        let stopping = self.inner.tasks.stopping().clone();
        loop {
            let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
            let wait = tokio::time::sleep(spread(SWEEP, random));
            if stopping.run_until_cancelled(wait).await.is_none() {
                return;
            }
            self.sweep().await;
        }
    }

    /// Removes what bears our label and nobody knows of, also while bundles are worked on.
    pub(super) async fn sweep(&self) {
        let (listed, partial) = {
            let state = self.state();
            (resources(&state).cloned().collect::<BTreeSet<_>>(), state.partial)
        };
        if partial {
            tracing::warn!("leftovers stay: not all that the store knows could be read");
            return;
        }
        let inner = Arc::downgrade(&self.inner);
        let known = Arc::new(Known::new(listed, move |resource| {
            // Whoever ends removes nothing any more.
            inner.upgrade().is_none_or(|inner| {
                let engine = Self { inner };
                let state = engine.state();
                resources(&state).any(|known| known == resource)
            })
        }));
        let _turn = match self.inner.mark.turn().await {
            Ok(turn) => turn,
            Err(fenced) => return tracing::warn!(%fenced, "leftovers stay"),
        };
        for manager in self.inner.registry.iter() {
            if self.held_up(manager.kind()).is_some() {
                continue;
            }
            for removed in manager.clean_up(Arc::clone(&known)).await {
                tracing::warn!(kind = manager.kind(), removed, "a leftover was removed");
            }
        }
    }
}

/// Every resource that a bundle has, or is about to have.
fn resources(state: &State) -> impl Iterator<Item = &ResourceId> {
    state.bundles.values().flat_map(|bundle| {
        let coming = bundle.coming.iter().map(|coming| &coming.resource);
        bundle.workloads.values().map(|row| &row.resource).chain(coming)
    })
}

/// Has everything tried again that waited for managers of these kinds.
fn retry_all_of(state: &mut State, kinds: &[&str]) {
    let waits = |name: &Name| {
        state.bundles.get(name).is_some_and(|bundle| {
            let of_kind = |row: &&WorkloadRow| kinds.contains(&row.id.kind());
            bundle.workloads.values().filter(of_kind).any(|row| is_to_retry(&bundle.row.phase, row))
        })
    };
    let names: Vec<Name> = state.bundles.keys().filter(|name| waits(name)).cloned().collect();
    names.iter().for_each(|name| state.lanes.submit(name, Item::Retry));
}

/// `every`, give or take a quarter of it, so that agents that began together do not work together.
fn spread(every: Duration, random: u64) -> Duration {
    const STEPS: u32 = 1_000;
    let step = u32::try_from(random % u64::from(STEPS)).unwrap_or(0);
    every * 3 / 4 + every / 2 * step / STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_for_leftovers_are_spread() {
        assert_eq!(spread(SWEEP, 0), SWEEP * 3 / 4);
        assert_eq!(spread(SWEEP, 500), SWEEP);
        assert!(spread(SWEEP, u64::MAX) < SWEEP * 5 / 4);
    }
}
