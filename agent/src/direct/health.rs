//! Whether the work behind the heartbeats comes on: an agent that beats while its repair is stuck or its store cannot be
//! written is not healthy.

use std::{sync::PoisonError, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use towline_bus::{clock, clock::Moment};
use towline_protocol::session::{Health, HealthState};

use super::{Direct, repair};
use crate::store::StoreError;

/// How long repair may take between two looks: five times what it does. What it mends is judged by itself (`mends.rs`).
const STALLED: Duration = repair::EVERY.saturating_mul(5);

/// Looks, and tells, until the agent ends.
pub(super) async fn run(direct: Direct) {
    let stopping = direct.inner.tasks.stopping().clone();
    let mut ticks = interval(repair::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let beat = *direct.inner.beat.lock().unwrap_or_else(PoisonError::into_inner);
        let at = clock::now();
        let elsewhere = direct.inner.stalled.get().and_then(|stalled| stalled(at));
        let late = direct.under_way().stalled(at).or(elsewhere);
        let now = health(at.since(beat), direct.inner.store.failure(), late);
        direct.inner.vitals.send_if_modified(|vitals| {
            // Also while it stays stalled: what does not come on, and for how long, changes.
            let changed = vitals.health != now;
            if changed {
                vitals.health = now;
            }
            changed
        });
    }
}

impl Direct {
    /// Has whoever else works here say what does not come on.
    pub(crate) fn watch_over(&self, stalled: impl Fn(Moment) -> Option<String> + Send + Sync + 'static) {
        self.inner.stalled.get_or_init(|| Box::new(stalled));
    }

    /// Repair looks.
    pub(super) fn beat(&self, now: Moment) {
        *self.inner.beat.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

fn health(idle: Duration, failure: Option<StoreError>, elsewhere: Option<String>) -> Health {
    let stalled = |detail| Health { state: HealthState::Stalled, detail: Some(detail) };
    match failure {
        Some(error) => stalled(error.to_string()),
        None if idle > STALLED => stalled(format!("repair has not looked for {} s", idle.as_secs())),
        None => elsewhere.map_or_else(Health::default, stalled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_on_is_stalled() {
        assert_eq!(health(STALLED, None, None).state, HealthState::Healthy);
        let late = health(STALLED + Duration::from_secs(2), None, None);
        assert_eq!(
            (late.state, late.detail.as_deref()),
            (HealthState::Stalled, Some("repair has not looked for 12 s"))
        );
        let elsewhere = health(Duration::ZERO, None, Some("bundle shop has not come on".to_owned()));
        assert_eq!(elsewhere.detail.as_deref(), Some("bundle shop has not come on"));
        let failed =
            health(Duration::ZERO, Some(StoreError::Failed("a write was interrupted".to_owned())), None);
        assert_eq!(failed.state, HealthState::Stalled);
        assert!(failed.detail.is_some_and(|detail| detail.contains("a write was interrupted")));
    }
}
