//! Asks each connected instance for its version, now and then. A heartbeat shows that an agent's heart beats; this shows
//! that it answers calls.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::sync::Semaphore;
use towline_bus::metrics::outcome_label;
use towline_bus::task::Tasks;
use towline_bus::{CallContext, MessageBus, Platform as _};
use towline_protocol::InstanceId;
use uuid::Uuid;

use crate::limits;
use crate::registry::Registry;

/// Goes round until the tasks stop. A round that takes longer than `every` is followed by the next at once.
pub(crate) async fn ping_versions(
    every: Duration,
    bus: MessageBus,
    registry: Registry,
    counts: IntCounterVec,
    tasks: Tasks,
) {
    let at_once = Arc::new(Semaphore::new(limits::VERSION_PINGS_AT_ONCE));
    loop {
        tokio::select! {
            () = tokio::time::sleep(jittered(every, Uuid::new_v4().as_u128())) => {}
            () = tasks.stopping().cancelled() => return,
        }
        for entry in registry.list().into_iter().filter(crate::registry::Entry::is_connected) {
            let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
            if tasks.stopping().is_cancelled() {
                return;
            }
            let (bus, counts) = (bus.clone(), counts.clone());
            tasks.spawn_isolated("version-ping", async move {
                ping(&bus, &entry.record.id, &counts).await;
                drop(permit);
            });
        }
    }
}

async fn ping(bus: &MessageBus, instance: &InstanceId, counts: &IntCounterVec) {
    let context = CallContext::new().within(limits::VERSION_PING_TIME);
    let answer = bus.connect(instance).version(&context).await;
    counts.with_label_values(&[outcome_label(&answer)]).inc();
    if let Err(error) = answer {
        tracing::debug!(%instance, %error, "a version ping failed");
    }
}

/// Between three quarters and five quarters of the interval, so that hubs that started together drift apart.
fn jittered(every: Duration, random: u128) -> Duration {
    let thousandths = 750 + u32::try_from(random % 501).unwrap_or(250);
    every.saturating_mul(thousandths) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_quarter() {
        let every = Duration::from_secs(60);
        for random in [0, 1, 250, 500, 501, u128::MAX] {
            let wait = jittered(every, random);
            assert!((Duration::from_secs(45)..=Duration::from_secs(75)).contains(&wait), "{wait:?}");
        }
    }
}
