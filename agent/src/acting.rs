//! Beginning to act: what is done between the hub's *go* and the first change under the new epoch.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use towline_protocol::Epoch;

use crate::{
    engine::Engine,
    mark::{Mark, RaiseError},
};

/// Between two looks at the mark: so long does it take at most until it shows that another agent acts.
const LOOK: Duration = Duration::from_secs(2);
/// Between two attempts to raise the mark.
const AGAIN: Duration = Duration::from_secs(1);

/// The hub's word that an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Go {
    pub(crate) epoch: Epoch,
    /// From which epoch on no other store was given the instance.
    pub(crate) since: Option<Epoch>,
}

/// Makes this agent act whenever it is told to go, and notices when another one acts, until `stopping`.
pub(crate) async fn run(
    mark: Mark,
    engine: Engine,
    mut gos: watch::Receiver<Option<Go>>,
    stopping: CancellationToken,
) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            Ok(()) = gos.changed() => {
                let Some(go) = *gos.borrow_and_update() else { continue };
                if begin(&mark, &engine, go, &gos, &stopping).await {
                    mark.settle(go.epoch).await;
                }
            }
            // Only for what it tells: whoever acts looks for itself.
            _ = ticks.tick() => drop(mark.may_act().await),
        }
    }
}

/// Prepares to act under an epoch; says whether all is prepared, or nothing more is to be.
async fn begin(
    mark: &Mark,
    engine: &Engine,
    go: Go,
    gos: &watch::Receiver<Option<Go>>,
    stopping: &CancellationToken,
) -> bool {
    loop {
        let raising = mark.clone();
        let raised = tokio::task::spawn_blocking(move || raising.raise(go.epoch));
        let Some(raised) = stopping.run_until_cancelled(raised).await else { return false };
        match raised {
            Ok(Ok(())) => break,
            Ok(Err(error @ RaiseError::Above(_))) => {
                tracing::warn!(%error, epoch = %go.epoch, "standing back");
                return true;
            }
            Ok(Err(error)) => tracing::error!(%error, "this agent cannot act yet"),
            Err(error) => tracing::error!(%error, "raising the mark was cut short"),
        }
        let over = stopping.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none();
        if over || gos.has_changed().unwrap_or(true) {
            return false;
        }
    }
    engine.begin_epoch(go.epoch, go.since).await
}
