//! The driver: begins what the lanes let begin, tries again what failed, looks for drift, and says when nothing comes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use redb::WriteTransaction;
use tokio::time::{MissedTickBehavior, interval};
use towline_bus::{clock, clock::Moment};
use towline_protocol::{
    CallError, Name, WorkloadId,
    bundle::{BundlePhase, ResultState},
    platform::ServiceStatus,
};

use super::{
    Engine, backoff,
    lanes::Item,
    manager::{Mend, Seen},
    observe,
    pass::{Ending, Todo},
    state::{Beat, Bundle, Drifted},
};
use crate::{
    runtime::process::{Changed, Watcher},
    store::{StoreError, rows::WorkloadRow},
};

/// Between two looks for what is to be tried again: fine enough for the shortest wait.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks for drift.
const WATCH: Duration = Duration::from_secs(10);
/// Between two attempts to store what must be stored before work goes on.
const AGAIN: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1_000 });
/// How long a lane may show no progress before it is said to stall, beyond what its workload declares to take (a grace period,
/// a health check): what an image takes to be pulled, say. Where a test can have it stall, as long as such a test can wait.
pub(super) const STALLED: Duration = Duration::from_secs(if cfg!(feature = "failpoints") { 5 } else { 120 });

impl Engine {
    /// Begins whatever can be begun.
    pub(super) fn kick(&self) {
        loop {
            if self.inner.tasks.stopping().is_cancelled() {
                return;
            }
            let Some((bundle, item)) = self.state().lanes.begin() else { return };
            self.beat(&bundle, Beat { what: "to begin".to_owned(), ..Beat::now() });
            let engine = self.clone();
            let _handle = self.inner.tasks.spawn_isolated("lane", async move {
                let free = Free { engine: engine.clone(), bundle: bundle.clone() };
                engine.run_item(bundle, item).await;
                drop(free);
            });
        }
    }

    /// Notes that the lane of `bundle` comes on now.
    pub(super) fn beat(&self, bundle: &Name, beat: Beat) {
        self.state().at_work.insert(bundle.clone(), Beat { since: clock::now(), ..beat });
    }

    /// The lane that has not come on for longest, if it is too long.
    pub(super) fn stalled(&self, now: Moment) -> Option<String> {
        let state = self.state();
        let late = state.at_work.iter().filter(|(_, beat)| {
            let idle = now.since(beat.since);
            // What is declared is read only for a lane that is suspected: the others are many.
            idle > STALLED && beat.todo.as_ref().is_none_or(|todo| idle > STALLED + self.turn(todo))
        });
        let (bundle, Beat { what, since, .. }) = late.min_by_key(|(_, beat)| beat.since)?;
        Some(format!("bundle {bundle} has not come on for {} s: {what}", now.since(*since).as_secs()))
    }

    /// How long one part of an operation may take by what is declared.
    fn turn(&self, todo: &Todo) -> Duration {
        let before = todo.before.as_ref().map(|(definition, ..)| definition);
        let manager = self.inner.registry.find(todo.id.kind());
        let declared = manager.ok().into_iter().flat_map(|manager| {
            let definitions = before.into_iter().chain([&todo.definition]);
            definitions.filter_map(|definition| manager.read(definition).ok())
        });
        declared.map(|traits| traits.turn).max().unwrap_or_default()
    }

    /// Stores what must be stored before work goes on, however long the disk takes to have room.
    pub(super) async fn persist<W>(&self, work: W) -> Result<(), Ending>
    where
        W: Fn(&WriteTransaction) -> Result<(), StoreError> + Clone + Send + 'static,
    {
        loop {
            let attempt = work.clone();
            match self.inner.store.write_out(move |transaction| attempt(transaction)).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::error!(%error, "work waits until it can be stored"),
            }
            self.wait_for_disk().await?;
        }
    }

    /// Waits before the store is asked again.
    pub(super) async fn wait_for_disk(&self) -> Result<(), Ending> {
        let stopping = self.inner.tasks.stopping();
        stopping.run_until_cancelled(tokio::time::sleep(AGAIN)).await.ok_or(Ending)
    }

    /// Sets when what failed of `bundle` is tried again. What was `skipped` is no reason: either what stands in its way is
    /// tried again itself, or that was given up by a monitor, and nothing changes before someone asks.
    pub(super) fn wait_for_retry(&self, bundle: &Name, skipped: &BTreeSet<WorkloadId>) {
        let now = clock::now();
        let mut state = self.state();
        let Some(bundle) = state.bundles.get_mut(bundle) else { return };
        let soonest = bundle
            .workloads
            .values()
            .filter(|row| is_to_retry(&bundle.row.phase, row) && !skipped.contains(&row.id))
            .map(|row| row.attempts)
            .min();
        bundle.due = soonest.map(|attempts| now + backoff::wait(attempts.max(1)));
    }

    /// Has a bundle brought to what it is to be, after what waits for it, unless it is tried again anyway.
    pub(super) fn settle_later(&self, name: &Name) {
        let mut state = self.state();
        let unsettled = |bundle: &Bundle| bundle.due.is_none() && bundle.is_unsettled();
        if state.bundles.get(name).is_some_and(unsettled) {
            state.lanes.submit(name, Item::Retry);
        }
    }

    /// Tries again what failed, whenever its wait is over, until the agent ends.
    pub(super) async fn retry(self) {
        let stopping = self.inner.tasks.stopping().clone();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            let now = clock::now();
            {
                let mut state = self.state();
                let due: Vec<Name> = state
                    .bundles
                    .iter_mut()
                    .filter_map(|(name, bundle)| {
                        bundle.due.filter(|due| *due <= now)?;
                        bundle.due = None;
                        Some(name.clone())
                    })
                    .collect();
                due.iter().for_each(|name| state.lanes.submit(name, Item::Retry));
            }
            self.kick();
        }
    }

    /// Looks for drift until the agent ends, at everything from time to time and at what changes at once, and has mended
    /// what is to be mended.
    pub(super) async fn watch(self, mut changes: Watcher) {
        let stopping = self.inner.tasks.stopping().clone();
        let mut ticks = interval(WATCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = async || {
            tokio::select! {
                _ = ticks.tick() => Changed::Much,
                Some(changed) = changes.next() => changed,
            }
        };
        while let Some(changed) = stopping.run_until_cancelled(due()).await {
            for (name, only) in self.to_look_at(changed) {
                if stopping.is_cancelled() {
                    return;
                }
                if let Err(error) = self.look_at(&name, only.as_ref()).await {
                    tracing::warn!(bundle = %name, %error, "drift cannot be looked for");
                }
            }
            self.kick();
        }
    }

    /// The bundles to be looked at, and the resources in them; without any, at all of them.
    fn to_look_at(&self, changed: Changed) -> BTreeMap<Name, Option<BTreeSet<String>>> {
        match changed {
            Changed::Much => self.state().bundles.keys().map(|name| (name.clone(), None)).collect(),
            Changed::These(resources) => {
                let mut found: BTreeMap<Name, Option<BTreeSet<String>>> = BTreeMap::new();
                for resource in resources {
                    let Some(owner) = self.inner.owners.owner(&resource) else { continue };
                    found.entry(owner).or_default().get_or_insert_default().insert(resource);
                }
                found
            }
        }
    }

    /// Compares one bundle, or what is `only` to be looked at of it, with what is there, unless it is being worked on:
    /// then it is not expected to fit.
    pub(super) async fn look_at(
        &self,
        name: &Name,
        only: Option<&BTreeSet<String>>,
    ) -> Result<(), CallError> {
        let rows: Vec<WorkloadRow> = {
            let state = self.state();
            let Some(bundle) = state.bundles.get(name).filter(|_| state.lanes.is_idle(name)) else {
                return Ok(());
            };
            if bundle.row.phase != BundlePhase::Active {
                return Ok(());
            }
            let sound = |row: &&WorkloadRow| row.result.state == ResultState::Ok && row.holds.is_some();
            let asked = |row: &&WorkloadRow| only.is_none_or(|only| only.contains(row.resource.as_str()));
            bundle.workloads.values().filter(sound).filter(asked).cloned().collect()
        };
        for rows in rows.chunks(observe::TOGETHER) {
            let looks = self.observe(name, rows).await?;
            let mut state = self.state();
            let idle = state.lanes.is_idle(name);
            let Some(bundle) = state.bundles.get_mut(name).filter(|_| idle) else { return Ok(()) };
            let mut astray = Vec::new();
            for (row, seen) in rows.iter().zip(looks).filter_map(|(row, seen)| Some((row, seen?))) {
                // Worked on meanwhile: it was another one that was looked at.
                if bundle.workloads.get(&row.id) != Some(row) {
                    continue;
                }
                note(bundle, &row.id, &seen, clock::now(), clock::unix_ms());
                if seen.drift.is_some() && seen.mend == Mend::Engine {
                    tracing::info!(bundle = %name, workload = %row.id, drift = seen.drift, "mending what drifted");
                    astray.push(row.id.clone());
                }
            }
            astray.into_iter().for_each(|workload| state.lanes.submit(name, Item::Repair { workload }));
        }
        Ok(())
    }
}

/// Whether it is tried again by itself.
pub(super) fn is_to_retry(phase: &BundlePhase, row: &WorkloadRow) -> bool {
    match phase {
        BundlePhase::Deleted => false,
        // Begun it will be when it is resumed; until then there is only what could not be stopped.
        BundlePhase::Paused => row.is_to_pause(),
        BundlePhase::Deleting => true,
        _ => !row.given_up && (row.is_failing() || row.holds.is_none()),
    }
}

/// Notes what was seen. What did not answer says nothing: neither that it drifted nor that it did not.
fn note(bundle: &mut Bundle, id: &WorkloadId, seen: &Seen, now: Moment, now_ms: u64) {
    if seen.status == ServiceStatus::Unknown {
        return;
    }
    bundle.looked.insert(id.clone(), now);
    match &seen.drift {
        Some(drift) => {
            let since = bundle.drift.get(id).map_or(now_ms, |before| before.since_unix_ms);
            let mending = seen.mend != Mend::Nobody;
            let drifted = Drifted { since_unix_ms: since, message: drift.clone(), mending };
            bundle.drift.insert(id.clone(), drifted);
        }
        None => drop(bundle.drift.remove(id)),
    }
}

/// Frees the lane when its work ends, even by a panic.
struct Free {
    engine: Engine,
    bundle: Name,
}

impl Drop for Free {
    fn drop(&mut self) {
        let mut state = self.engine.state();
        state.at_work.remove(&self.bundle);
        state.lanes.end(&self.bundle);
        drop(state);
        self.engine.kick();
    }
}
