//! Holding units to the definition in force, where an app says `drift: repair`: the host restarted, a supervisor was
//! killed, an agent died in the middle of a call.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use towline_bus::{clock, clock::Moment};

use super::{
    Direct,
    converge::{Revive, observed, wanted},
    entry::Entry,
    gone,
    mends::Mends,
    plan::{Phase, plan},
    services,
};
use crate::{asker::Asker, manifest::Drift, runtime::UnitStatus, shim::Ended};

/// Between two looks for units that are not as they should be, unless one of them changes.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Waits after a repair that failed: the first, doubled each time up to the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(300));

/// Looks, and mends, until the agent ends. What is mended holds up neither looking nor what is found to be mended meanwhile.
pub(super) async fn run(direct: Direct) {
    let stopping = direct.inner.tasks.stopping().clone();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waits = Waits::default();
    let mut changes = direct.inner.runtime.changes();
    let mut mends = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stopping.cancelled() => break,
            Some((id, mended)) = mends.next(), if !mends.is_empty() => waits.note(id, mended, clock::now()),
            _ = ticks.tick() => {}
            Some(_) = changes.next() => {}
        }
        let now = clock::now();
        direct.beat(now);
        direct.look_for_missing();
        // Whoever acts here may have meant it to be as it is.
        if direct.inner.runtime.mark().may_act().await.is_err() {
            continue;
        }
        let astray = astray(&direct);
        // Of those that were mended or removed otherwise nothing need be remembered.
        waits.0.retain(|id, _| astray.contains_key(id) || direct.under_way().is_at(id));
        for (id, Found { kind, longest }) in astray {
            if !waits.is_due(&id, now) || !direct.under_way().begin(&id, longest, now) {
                continue;
            }
            // Counted when it is to be mended, not at each look while that waits.
            if let Some(kind) = kind {
                direct.inner.drift.with_label_values(&[kind]).inc();
            }
            let direct = direct.clone();
            mends.push(async move {
                let mended = mend(&direct, &id).await;
                direct.under_way().end(&id);
                (id, mended)
            });
        }
    }
    // Not cut off when the agent ends: each looks at that itself, between its steps.
    while mends.next().await.is_some() {}
}

/// An app that is to be repaired.
struct Found {
    /// In which way it has drifted, if it has: what was accepted and not carried out yet has not.
    kind: Option<&'static str>,
    /// How long a step of its repair may take by what it declares.
    longest: Duration,
}

/// When those that could not be mended are tried again.
#[derive(Debug, Default)]
struct Waits(HashMap<String, (Moment, Duration)>);

impl Waits {
    fn is_due(&self, id: &str, now: Moment) -> bool {
        self.0.get(id).is_none_or(|(due, _)| now >= *due)
    }

    fn note(&mut self, id: String, mended: bool, now: Moment) {
        if mended {
            // What is astray again at once is not mended without a pause, either.
            self.0.insert(id, (now + EVERY, BACK_OFF.0 / 2));
            return;
        }
        let wait = self.0.get(&id).map_or(BACK_OFF.0, |(_, wait)| (*wait * 2).min(BACK_OFF.1));
        self.0.insert(id, (now + wait, wait));
    }
}

/// Apps to be repaired whose units are not as their definition says, and that nobody is working on.
fn astray(direct: &Direct) -> BTreeMap<String, Found> {
    let mut units: BTreeMap<String, Vec<UnitStatus>> = BTreeMap::new();
    for unit in direct.inner.runtime.list() {
        units.entry(unit.app.clone()).or_default().push(unit);
    }
    let entries = direct.entries().clone();
    let mut found = BTreeMap::new();
    for (id, entry) in entries {
        let Some(spec) = entry.unit_spec().filter(|_| is_ours(&entry) && !direct.is_busy(&id)) else {
            continue;
        };
        if direct.inner.runtime.trouble(&id, spec.manifest.spec.host()).is_some() {
            // What is missing may well be there.
            continue;
        }
        let units = units.remove(&id).unwrap_or_default();
        let lost =
            units.iter().any(|unit| unit.state.final_state && unit.state.last_end == Some(Ended::Lost));
        let (pending, failed) = (entry.resource.facts.pending, entry.resource.facts.failure.is_some());
        let observed = observed(units, Revive::Lost);
        let differs = !plan(&wanted(&spec), &observed).is_empty();
        // What was not known to succeed may have: then what is told of it is to end.
        let is_well = || observed.iter().all(|unit| unit.phase == Phase::Up);
        if pending || differs || (failed && is_well()) {
            let kind = if lost { "lost" } else { "differs" };
            let (kind, longest) = ((differs && !pending).then_some(kind), spec.manifest.spec.longest_turn());
            found.insert(id, Found { kind, longest });
        }
    }
    found
}

impl Direct {
    /// Takes in which units there are, for those that vanish.
    fn look_for_missing(&self) {
        let entries = self.entries().clone();
        let app = |(id, entry): (String, Arc<Entry>)| {
            let (wanted, busy) = (services::wanted(Some(&entry)), self.is_busy(&id));
            (id, gone::App { wanted, busy })
        };
        let apps = entries.into_iter().map(app).collect();
        let mut sightings = self.sightings();
        // Under the lock: an older list must not follow a newer one.
        sightings.see(&self.inner.runtime.list(), &apps, Timestamp::now());
    }

    /// What repair is at.
    pub(super) fn under_way(&self) -> MutexGuard<'_, Mends> {
        self.inner.mends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether units of this app that are not as they should be are started again by themselves.
    pub(crate) fn mends(&self, id: &str) -> bool {
        self.entry(id).is_some_and(|entry| is_ours(&entry))
    }
}

/// Brings one app back to its definition; says whether that succeeded, or is no concern any more.
async fn mend(direct: &Direct, id: &str) -> bool {
    let _lock = direct.lock(id).await;
    direct.under_way().come_on(id, clock::now());
    // Read under the lock: a call may have changed or removed it meanwhile.
    let Some(entry) = direct.entry(id).filter(is_ours) else { return true };
    let stopping = direct.inner.tasks.stopping().clone();
    let facts = &entry.resource.facts;
    let revive = if facts.pending { Revive::Pending } else { Revive::Lost };
    let asker = {
        let (direct, id) = (direct.clone(), id.to_owned());
        Asker::new(stopping.clone(), move || direct.under_way().come_on(&id, clock::now()))
    };
    let failure = direct.converge(id, &entry, revive, &asker).await.err().map(|error| error.message);
    if (facts.pending || failure != facts.failure) && !stopping.is_cancelled() {
        direct.note(id, &entry, failure.clone()).await;
    }
    failure.is_none()
}

/// Whether it is ours to bring its units about: it says so, or it was accepted and is still to be carried out.
fn is_ours(entry: &Arc<Entry>) -> bool {
    let repair = || entry.manifest.as_ref().is_ok_and(|manifest| manifest.spec.drift == Drift::Repair);
    !entry.paused && (entry.resource.facts.pending || repair())
}
