//! The link to the hub: claim, serve, and again, until the agent ends.
//!
//! ```text
//! subscribe ─► kicked  ─► subscribe as standby: serve again when the other has gone
//!          ─► refused ─► wait, subscribe again
//!          ─► fatal   ─► the agent ends; whoever watches over it starts it anew
//! ```
//! Outages of hub and bus are no ends: the subscription outlasts them.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_bus::{
    Platform, Transport,
    metrics::BusMetrics,
    session::{EndReason, Identity},
    subscribe,
    subscription::{SubscribeConfig, Vitals},
};
use towline_protocol::{BootId, CallError, Epoch, InstanceId, Method, session::ClaimMode, subject::Root};

use crate::{acting::Go, mark::Mark, runtime::RuntimeKind, store::Store};

/// Waits after a refusal: the first, and the longest.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why an agent no longer serves.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The platform gave up.
    #[error("the agent gave up: {0}")]
    Fatal(CallError),
    /// The engine stopped: what it accepted is done by an agent that is started anew.
    #[error("a task of the engine panicked, and nothing is carried out any more: start the agent again")]
    Stopped,
    /// The connection to the bus was closed for good.
    #[error("the bus was closed")]
    Closed,
    /// The bus does not take a subscription.
    #[error(transparent)]
    Subscribe(#[from] towline_bus::transport::SubscribeError),
}

/// What a link serves, and as whom.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) root: Root,
    pub(crate) instance: InstanceId,
    pub(crate) runtime: RuntimeKind,
    pub(crate) boot: BootId,
    pub(crate) store: Arc<Store>,
    pub(crate) vitals: watch::Receiver<Vitals>,
    pub(crate) metrics: BusMetrics,
    /// The epoch that is being served, for those who watch.
    pub(crate) serving: watch::Sender<Option<Epoch>>,
    pub(crate) mark: Mark,
    /// The last word of the hub that an epoch begins.
    pub(crate) go: watch::Sender<Option<Go>>,
}

impl Link {
    /// Serves `platform` over `transport` until `stopping`.
    pub(crate) async fn serve(
        &self,
        transport: Arc<dyn Transport>,
        platform: Arc<dyn Platform>,
        stopping: CancellationToken,
    ) -> Result<(), ServeError> {
        let mut mode = ClaimMode::Fresh;
        let mut wait = REFUSED.0;
        loop {
            let mut subscription =
                subscribe(Arc::clone(&transport), self.config(mode.clone()), Arc::clone(&platform)).await?;
            let mut serving = subscription.serving();
            let reason = loop {
                tokio::select! {
                    () = stopping.cancelled() => {
                        subscription.leave().await;
                        self.serving.send_replace(None);
                        return Ok(());
                    }
                    reason = subscription.ended() => break reason,
                    Ok(()) = serving.changed() => {
                        let epoch = *serving.borrow_and_update();
                        self.serving.send_replace(epoch);
                        if epoch.is_some() {
                            wait = REFUSED.0;
                        }
                    }
                }
            };
            self.serving.send_replace(None);
            match reason {
                EndReason::Kicked { .. } => {
                    tracing::warn!(%reason, "standing by until the other has gone");
                    mode = ClaimMode::Standby;
                }
                EndReason::Refused(error) => {
                    tracing::error!(%error, "refused by the hub; trying again in {}", humantime::format_duration(wait));
                    if stopping.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return Ok(());
                    }
                    wait = (wait * 2).min(REFUSED.1);
                }
                EndReason::Fatal(error) => return Err(ServeError::Fatal(error)),
                EndReason::Left => return Err(ServeError::Closed),
            }
        }
    }

    fn config(&self, mode: ClaimMode) -> SubscribeConfig {
        let store = Arc::clone(&self.store);
        let (mark, go) = (self.mark.clone(), self.go.clone());
        SubscribeConfig {
            root: self.root.clone(),
            instance: self.instance.clone(),
            identity: Identity {
                boot: self.boot,
                store: store.id(),
                last_epoch: store.last_epoch(),
                version: crate::VERSION.to_owned(),
                runtime: self.runtime.name().to_owned(),
                calls: Method::names(),
            },
            mode,
            vitals: self.vitals.clone(),
            record_epoch: Box::new(move |epoch| {
                // A grant exceeds the hub's own last epoch, too, so one that is not noted costs nothing yet.
                if let Err(error) = store.set_last_epoch(epoch) {
                    tracing::error!(%error, %epoch, "the epoch cannot be noted");
                }
            }),
            begin: Box::new(move |epoch, since| {
                // Here, before a call of the epoch can begin: none is to slip in before it is prepared.
                mark.prepare(epoch);
                go.send_replace(Some(Go { epoch, since }));
            }),
            metrics: self.metrics.clone(),
        }
    }
}
