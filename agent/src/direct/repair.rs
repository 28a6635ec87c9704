//! Bringing units back that were lost behind our back, where an app says `drift: repair`.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};

use super::{AT_ONCE, Direct, converge::Revive, entry::Entry};
use crate::{manifest::Drift, shim::Ended};

/// Between two looks for lost units.
const EVERY: Duration = Duration::from_secs(2);

/// Settles every resource once, for the host may have restarted; then looks for lost units until the agent ends.
pub(super) async fn run(direct: Direct) {
    let stopping = direct.inner.tasks.stopping().clone();
    let ids: Vec<String> = direct.entries().keys().cloned().collect();
    let settle = stream::iter(ids).for_each_concurrent(AT_ONCE, |id| {
        let direct = direct.clone();
        async move { mend(&direct, &id).await }
    });
    if stopping.run_until_cancelled(settle).await.is_none() {
        return;
    }
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        for id in lost(&direct) {
            direct.inner.drift.with_label_values(&["lost"]).inc();
            mend(&direct, &id).await;
        }
    }
}

/// Apps with a unit whose supervisor was lost.
fn lost(direct: &Direct) -> Vec<String> {
    let units = direct.inner.runtime.list();
    let mut apps: Vec<String> = units
        .into_iter()
        .filter(|unit| unit.state.last_end == Some(Ended::Lost) && unit.state.final_state)
        .map(|unit| unit.app)
        .collect();
    apps.dedup();
    apps
}

async fn mend(direct: &Direct, id: &str) {
    let _lock = direct.lock(id).await;
    // Read under the lock: a call may have changed or removed it meanwhile.
    let Some(entry) = direct.entry(id).filter(wants_repair) else { return };
    let stopping = direct.inner.tasks.stopping().clone();
    if let Err(why) = direct.converge(id, &entry, Revive::Lost, &stopping).await
        && entry.resource.facts.failure.as_ref() != Some(&why.message)
        && !stopping.is_cancelled()
    {
        direct.note_failure(id, &entry, why.message).await;
    }
}

fn wants_repair(entry: &Arc<Entry>) -> bool {
    entry.manifest.as_ref().is_ok_and(|manifest| manifest.spec.drift == Drift::Repair)
}
