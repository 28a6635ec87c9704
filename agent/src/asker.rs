//! Whoever has something brought about: it may lose interest, and it hears that the work comes on.

use std::{fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

/// Clones are the same asker.
#[derive(Clone)]
pub(crate) struct Asker {
    cancelled: CancellationToken,
    hears: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl From<CancellationToken> for Asker {
    /// One that does not listen.
    fn from(cancelled: CancellationToken) -> Self {
        Self::new(cancelled, || {})
    }
}

impl Asker {
    /// One that calls `hears` whenever the work comes on: after each of its parts, however long it takes as a whole.
    pub(crate) fn new(cancelled: CancellationToken, hears: impl Fn() + Send + Sync + 'static) -> Self {
        Self { cancelled, hears: Arc::new(hears) }
    }

    /// The work has come on.
    pub(crate) fn tell(&self) {
        (self.hears)();
    }

    /// Whether it has lost interest.
    pub(crate) fn is_gone(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Returns when it loses interest. Cancel safe.
    pub(crate) async fn gone(&self) {
        self.cancelled.cancelled().await;
    }
}
