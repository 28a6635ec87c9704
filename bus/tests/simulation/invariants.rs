//! What must hold after every happening, and what must hold in the end.

use std::collections::{BTreeMap, BTreeSet};

use towline_bus::clock::Moment;
use towline_bus::presence::Presence;
use towline_protocol::{BootId, Epoch, StoreId};

use super::authority::Record;
use super::world::World;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    served: BTreeMap<(usize, Epoch), BootId>,
    /// Which store was told to begin, by epoch.
    stores: BTreeMap<(usize, Epoch), StoreId>,
    begun: BTreeSet<u64>,
    last_begun: BTreeMap<usize, Moment>,
    kicked: BTreeSet<(u64, usize, Epoch)>,
    pub(crate) kicks_counted: usize,
}

fn demand(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Ledger {
    /// An epoch belongs to one process.
    pub(crate) fn note_served(&mut self, instance: usize, epoch: Epoch, boot: BootId) -> Result<(), String> {
        let first = *self.served.entry((instance, epoch)).or_insert(boot);
        demand(first == boot, || format!("epoch {epoch} is served by {first} and {boot}"))
    }

    /// A store that is told to begin again is told if another began in between, also where it missed its own turns since.
    pub(crate) fn note_begin(
        &mut self,
        instance: usize,
        store: StoreId,
        before: Option<Epoch>,
        epoch: Epoch,
        since: Option<Epoch>,
    ) -> Result<(), String> {
        self.stores.insert((instance, epoch), store);
        let Some(before) = before else { return Ok(()) };
        let between = self.stores.range((instance, before)..(instance, epoch));
        let passed_over = between.into_iter().any(|(_, other)| *other != store);
        let told = since.is_some_and(|since| since > before);
        demand(told || !passed_over, || {
            format!(
                "{store} begins {epoch} after {before}, since {since:?}, and another store began in between"
            )
        })
    }

    /// A session is told to stand down once by each process of a hub, and that is counted once.
    pub(crate) fn note_kick(&mut self, process: u64, instance: usize, epoch: Epoch) -> Result<(), String> {
        demand(self.kicked.insert((process, instance, epoch)), || format!("epoch {epoch} is kicked twice"))
    }

    pub(crate) fn note_history(&self, instance: usize, record: &Record) -> Result<(), String> {
        let grows = record.history.is_sorted_by(|older, newer| older < newer);
        demand(grows, || format!("epochs of instance {instance} go back: {:?}", record.history))
    }

    /// A call begins once, and under the newest epoch that ever served. A newer one may be active by then, and wait.
    pub(crate) fn note_begun(
        &mut self,
        now: Moment,
        instance: usize,
        epoch: Epoch,
        attempt: u64,
    ) -> Result<(), String> {
        self.last_begun.insert(instance, now);
        demand(self.begun.insert(attempt), || format!("call {attempt} is executed twice"))?;
        let newest =
            self.served.keys().filter(|(other, _)| *other == instance).map(|(_, epoch)| *epoch).max();
        demand(newest == Some(epoch), || {
            format!("call {attempt} begins under {epoch}, but {newest:?} has served")
        })
    }

    pub(crate) fn kicks(&self) -> usize {
        self.kicked.len()
    }
}

/// What holds always.
pub(crate) fn check(world: &World) -> Result<(), String> {
    for instance in 0..world.records.len() {
        let serving = world.serving(instance);
        demand(serving.len() <= 1, || format!("agents {serving:?} serve instance {instance} at once"))?;
    }
    demand(world.ledger.kicks_counted == world.ledger.kicks(), || "a kick is not counted once".into())?;
    for (number, hub) in world.hubs.iter().enumerate() {
        // A hub that is deaf says so itself; one that is frozen says nothing.
        if !hub.hears() || hub.frozen || world.now < hub.looks_by {
            continue;
        }
        for (instance, entry) in hub.entries.iter().enumerate() {
            let Presence::Connected { since, heard } = entry.presence else { continue };
            demand(since <= heard && heard <= world.now, || {
                format!("hub {number}: odd {:?}", entry.presence)
            })?;
            let silent = world.now.since(entry.truly_heard.max(hub.deaf_until));
            demand(silent <= World::presence_bound(), || {
                format!("hub {number} calls instance {instance} connected after {silent:?} of silence")
            })?;
        }
    }
    Ok(())
}

/// What holds once the faults are over and things had time to settle.
pub(crate) fn check_settled(world: &World) -> Result<(), String> {
    check(world)?;
    for (instance, record) in world.records.iter().enumerate() {
        let serving = world.serving(instance);
        demand(serving.len() == 1, || format!("agents {serving:?} serve instance {instance} in the end"))?;
        let active = record.active.as_ref().map(|grant| grant.epoch);
        let served = serving.first().and_then(|agent| world.agents[*agent].may_begin(world.now));
        demand(active == served, || format!("{served:?} is served, {active:?} is active"))?;
        for hub in &world.hubs {
            let target = hub.target(instance);
            demand(target == served, || format!("{served:?} is served, calls go to {target:?}"))?;
        }
        let begun = world.ledger.last_begun.get(&instance).map(|begun| world.now.since(*begun));
        let works = begun.is_some_and(|silent| silent.as_secs() < 2);
        demand(works, || format!("the last call of instance {instance} began {begun:?} ago"))?;
    }
    Ok(())
}
