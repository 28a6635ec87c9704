//! Tasks that are named, owned and joined.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one owner. Each gets the token that says when to end; [`Tasks::close`] cancels and joins them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// Starts `task` under `name`. It is told to end through [`Tasks::token`].
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(async move {
            task.await;
            tracing::trace!(task = name, "task has ended");
        });
    }

    /// Cancelled when the owner wants its tasks to end.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks all tasks to end and waits for them, at most for `patience`.
    pub(crate) async fn close(&self, patience: Duration) {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.tracker.len(), "some tasks did not end in time");
        }
    }
}
