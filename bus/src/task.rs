//! The only place that spawns: every task has a name, an owner that waits for it, and a policy for its failure.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The tasks of one component. Clones share them; the component's owner calls [`Tasks::stop`].
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tasks that also stop when `parent` does.
    #[must_use]
    pub fn child_of(parent: &CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stopping: parent.child_token() }
    }

    /// Spawns a task. It should end soon after [`Tasks::stopping`] is cancelled. A panic in it is logged under its name
    /// and stops the component: half a component is worse than none.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stopping = self.stopping.clone();
        let guard = StopOnPanic { name, stopping };
        let body = async move {
            let guard = guard;
            future.await;
            drop(guard);
        };
        self.track(name, body);
    }

    /// Spawns a task whose panic ends nothing but itself: for work on behalf of one caller.
    pub fn spawn_isolated<F>(&self, name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.track(name, future)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    fn track<F>(&self, name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(future.instrument(tracing::debug_span!("task", name))))
    }

    /// Cancelled when the component stops; tasks select on it.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Whether no task is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Tells all tasks to end and waits for them, at most `grace`. Returns whether all have ended. Cancel safe: calling
    /// it again goes on waiting.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

/// Dropped by unwinding alone: a task that ends, or is dropped with its runtime, forgets or merely loses it.
struct StopOnPanic {
    name: &'static str,
    stopping: CancellationToken,
}

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "task panicked; its component stops");
            self.stopping.cancel();
        }
    }
}
