//! An agent's lease, as its tasks share it.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use towline_protocol::Epoch;

use crate::clock::Moment;
use crate::session::{Lease, NotNow};

/// How long a call waits for the go that it overtook: they travel on different subjects, and the hub sends the go first.
const GO_AWAITED_MAX: Duration = Duration::from_secs(1);

/// The lease of the session that serves: one task extends it, and each call asks it. What it says is up to [`Lease`].
#[derive(Debug, Default)]
pub(crate) struct SharedLease {
    lease: Mutex<Lease>,
    begun: Notify,
}

impl SharedLease {
    /// The epoch's subjects are heard from now on; its go is to come.
    pub(crate) fn expect(&self, epoch: Epoch) {
        self.lock().expect(epoch);
    }

    pub(crate) fn extend(&self, epoch: Epoch, until: Moment) {
        if self.lock().extend(epoch, until) {
            self.begun.notify_waiters();
        }
    }

    pub(crate) fn end(&self) {
        self.lock().end();
        self.begun.notify_waiters();
    }

    /// Whether the go of this epoch is still to come.
    pub(super) fn is_awaited(&self, epoch: Epoch) -> bool {
        self.lock().is_awaited(epoch)
    }

    /// Waits until the go of this epoch has come, or will not. A call that overtook it would be refused for nothing.
    pub(super) async fn awaited(&self, epoch: Epoch) {
        // Made before the look: it hears what comes from now on.
        let begun = self.begun.notified();
        if self.is_awaited(epoch) {
            // Later than that, the check of the lease refuses the call.
            let _ = tokio::time::timeout(GO_AWAITED_MAX, begun).await;
        }
    }

    /// Notes what an answer says of the hub's clock, which it got `now`.
    pub(crate) fn set_hub_time(&self, unix_ms: u64, asked_at: Moment, now: Moment) {
        self.lock().set_hub_time(unix_ms, asked_at, now);
    }

    /// Whether a call of this epoch that is wanted up to `not_after` (Unix milliseconds of hub time) may begin now.
    pub(super) fn check(&self, epoch: Epoch, not_after: Option<u64>, now: Moment) -> Result<(), NotNow> {
        self.lock().check(epoch, not_after, now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lease> {
        self.lease.lock().expect("no holder of this lock panics")
    }
}
