//! Holding units to the definition in force, where an app says `drift: repair`: the host restarted, a supervisor was
//! killed, an agent died in the middle of a call.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};
use towline_bus::{clock, clock::Moment};

use super::{
    AT_ONCE, Direct,
    converge::{Revive, observed, wanted},
    entry::Entry,
    plan::plan,
};
use crate::{manifest::Drift, runtime::UnitStatus, shim::Ended};

/// Between two looks for units that are not as they should be, unless one of them changes.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Waits after a repair that failed: the first, doubled each time up to the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(300));

/// Looks, and mends, until the agent ends.
pub(super) async fn run(direct: Direct) {
    let stopping = direct.inner.tasks.stopping().clone();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waits = Waits::default();
    let mut changes = direct.inner.runtime.changes();
    let mut due = async || {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(_) = changes.next() => {}
        }
    };
    while stopping.run_until_cancelled(due()).await.is_some() {
        let now = clock::now();
        direct.beat(now);
        // Whoever acts here may have meant it to be as it is.
        if direct.inner.runtime.mark().may_act().await.is_err() {
            continue;
        }
        let astray = astray(&direct);
        // Of those that were mended or removed otherwise nothing need be remembered.
        waits.0.retain(|id, _| astray.contains_key(id));
        let mut due = Vec::new();
        for (id, kind) in astray.into_iter().filter(|(id, _)| waits.is_due(id, now)) {
            // Counted when it is to be mended, not at each look while that waits.
            if let Some(kind) = kind {
                direct.inner.drift.with_label_values(&[kind]).inc();
            }
            due.push(id);
        }
        let mended = stream::iter(due).map(|id| {
            let direct = direct.clone();
            async move { (mend(&direct, &id).await, id) }
        });
        let mut mended = mended.buffer_unordered(AT_ONCE);
        // Not cut off when the agent ends: each looks at that itself, between its steps.
        while let Some((mended, id)) = mended.next().await {
            let now = clock::now();
            direct.beat(now);
            waits.note(id, mended, now);
        }
    }
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
            self.0.remove(&id);
            return;
        }
        let wait = self.0.get(&id).map_or(BACK_OFF.0, |(_, wait)| (*wait * 2).min(BACK_OFF.1));
        self.0.insert(id, (now + wait, wait));
    }
}

/// Apps to be repaired whose units are not as their definition says, and that nobody is working on; and in which way, if
/// that is drift at all: what was accepted and not carried out yet has not drifted.
fn astray(direct: &Direct) -> BTreeMap<String, Option<&'static str>> {
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
        let pending = entry.resource.facts.pending;
        if pending || !plan(&wanted(&spec), &observed(units, Revive::Lost)).is_empty() {
            let kind = if lost { "lost" } else { "differs" };
            found.insert(id, (!pending).then_some(kind));
        }
    }
    found
}

impl Direct {
    /// Whether units of this app that are not as they should be are started again by themselves.
    pub(crate) fn mends(&self, id: &str) -> bool {
        self.entry(id).is_some_and(|entry| is_ours(&entry))
    }
}

/// Brings one app back to its definition; says whether that succeeded, or is no concern any more.
async fn mend(direct: &Direct, id: &str) -> bool {
    let _lock = direct.lock(id).await;
    // Read under the lock: a call may have changed or removed it meanwhile.
    let Some(entry) = direct.entry(id).filter(is_ours) else { return true };
    let stopping = direct.inner.tasks.stopping().clone();
    let facts = &entry.resource.facts;
    let revive = if facts.pending { Revive::Pending } else { Revive::Lost };
    let asker = stopping.clone().into();
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
