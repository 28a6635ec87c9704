//! What must hold after every happening, and what must hold in the end.

use std::collections::{BTreeMap, BTreeSet};

use towline_bus::clock::Moment;
use towline_bus::presence::Presence;
use towline_protocol::{BootId, Epoch, StoreId};

use super::agent::Call;
use super::authority::Record;
use super::world::World;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    served: BTreeMap<(usize, Epoch), BootId>,
    /// What each process was given by the answers that it got: an epoch, and until when.
    given: BTreeMap<BootId, (Epoch, Moment)>,
    /// Which store was told to begin, by epoch.
    stores: BTreeMap<(usize, Epoch), StoreId>,
    begun: BTreeSet<u64>,
    last_begun: BTreeMap<usize, Moment>,
    kicked: BTreeSet<(usize, Epoch)>,
    /// The sessions of which a hub heard, while they held their lease, that it has replaced them.
    replaced: BTreeSet<(usize, Epoch)>,
    pub(crate) kicks_counted: usize,
    /// Calls that were refused because nobody wanted them any more.
    pub(crate) late: usize,
}

fn demand(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Ledger {
    /// An epoch belongs to one process, which may begin its calls up to a moment.
    pub(crate) fn note_served(
        &mut self,
        instance: usize,
        epoch: Epoch,
        boot: BootId,
        until: Moment,
    ) -> Result<(), String> {
        let given = self.given.entry(boot).or_insert((epoch, until));
        *given = if given.0 == epoch { (epoch, given.1.max(until)) } else { (epoch, until) };
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

    /// A process gave back what it was given.
    pub(crate) fn note_stopped(&mut self, boot: BootId) {
        self.given.remove(&boot);
    }

    /// A session that was replaced is counted once, whatever hubs restart: a new process knows from the authority only
    /// what is active, not whom that replaced.
    pub(crate) fn note_kick(&mut self, instance: usize, epoch: Epoch, record: &Record) -> Result<(), String> {
        demand(self.kicked.insert((instance, epoch)), || {
            format!("epoch {epoch} is counted as kicked twice")
        })?;
        let is_replaced = record.history.iter().rev().skip(1).any(|older| *older == epoch);
        demand(is_replaced, || format!("epoch {epoch} is counted as kicked, and nobody has replaced it"))
    }

    /// A hub hears that it has replaced a session that holds its lease.
    pub(crate) fn note_takeover(&mut self, instance: usize, older: Epoch) {
        self.replaced.insert((instance, older));
    }

    pub(crate) fn note_history(&self, instance: usize, record: &Record) -> Result<(), String> {
        let grows = record.history.is_sorted_by(|older, newer| older < newer);
        demand(grows, || format!("epochs of instance {instance} go back: {:?}", record.history))
    }

    /// A call begins once, within what its process was given, and under the newest epoch that ever served. A newer one may
    /// be active by then, and wait.
    pub(crate) fn note_begun(
        &mut self,
        now: Moment,
        instance: usize,
        boot: BootId,
        call: &Call,
    ) -> Result<(), String> {
        let Call { epoch, attempt, .. } = *call;
        self.last_begun.insert(instance, now);
        let given = self.given.get(&boot);
        demand(given.is_some_and(|(held, until)| *held == epoch && now <= *until), || {
            format!("call {attempt} of {epoch} begins outside a lease: {given:?}")
        })?;
        demand(self.begun.insert(attempt), || format!("call {attempt} is executed twice"))?;
        let newest =
            self.served.keys().filter(|(other, _)| *other == instance).map(|(_, epoch)| *epoch).max();
        demand(newest == Some(epoch), || {
            format!("call {attempt} begins under {epoch}, but {newest:?} has served")
        })
    }

    /// How often a hub heard that it has replaced a session that held its lease.
    pub(crate) fn takeovers(&self) -> usize {
        self.replaced.len()
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
    let ledger = &world.ledger;
    demand(ledger.kicks_counted == ledger.kicks(), || "a kick is not counted once".into())?;
    let missed = ledger.replaced.iter().find(|replaced| !ledger.kicked.contains(replaced));
    demand(missed.is_none(), || format!("a session was replaced, and its kick is not counted: {missed:?}"))?;
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
            demand(silent <= world.presence_bound(heard), || {
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
