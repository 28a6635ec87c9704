//! Telling others what became of a bundle: each listener has a queue and a task of its own, so that one that is slow, or
//! panics, holds up nobody.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use towline_protocol::Name;

use super::Engine;

/// Events that wait for one listener. What is more is left out: the state can be asked for.
const QUEUE: usize = 64;

/// What became of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEvent {
    /// The bundle.
    pub bundle: Name,
    /// What became of it.
    pub change: BundleChange,
    /// Something of it failed.
    pub failed: bool,
}

/// What became of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleChange {
    /// Its first version was carried out.
    Created,
    /// It was worked on.
    Updated,
    /// Nothing of it is left.
    Deleted,
}

/// Who is told.
#[derive(Debug, Default)]
pub(super) struct Callbacks(Mutex<Vec<mpsc::Sender<BundleEvent>>>);

impl Callbacks {
    pub(super) fn tell(&self, event: &BundleEvent) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| match listener.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(bundle = %event.bundle, "a listener is behind, and misses an event");
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }
}

impl Engine {
    /// Calls `listener` whenever work on a bundle has ended, in the order of those ends, on a thread that may block. It is
    /// called again after it panicked.
    pub(crate) fn on_change(&self, listener: impl Fn(BundleEvent) + Send + Sync + 'static) {
        let (sender, mut events) = mpsc::channel(QUEUE);
        self.inner.callbacks.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        let listener = Arc::new(listener);
        let stopping = self.inner.tasks.stopping().clone();
        self.inner.tasks.spawn("callback", async move {
            while let Some(Some(event)) = stopping.run_until_cancelled(events.recv()).await {
                let listener = Arc::clone(&listener);
                // A panic ends the call alone, and was logged where it happened.
                if tokio::task::spawn_blocking(move || listener(event)).await.is_err() {
                    tracing::error!("a listener panicked; it is told of the next event all the same");
                }
            }
        });
    }
}
