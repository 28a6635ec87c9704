//! Until when an agent may begin calls.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use towline_protocol::Epoch;

use crate::clock::Moment;

/// How long a call waits for the go that it overtook: they travel on different subjects, and the hub sends the go first.
const GO_AWAITED_MAX: Duration = Duration::from_secs(1);

/// Until when calls may begin, and how hub time is derived.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    state: Mutex<LeaseState>,
    begun: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct LeaseState {
    /// The epoch whose subjects are heard, and whose go has not come yet.
    awaited: Option<Epoch>,
    epoch: Option<Epoch>,
    until: Moment,
    /// The hub's clock showed this no earlier than at that moment.
    hub: Option<(u64, Moment)>,
}

impl LeaseState {
    /// The latest that the hub's clock can show now: whoever acts before a moment of hub time is safe with it. The wall
    /// clock has no part in it.
    fn hub_unix_ms_at_most(&self, now: Moment) -> Option<u64> {
        let (hub, asked_at) = self.hub?;
        Some(hub.saturating_add(u64::try_from(now.since(asked_at).as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Why a call may not begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotNow {
    /// The session has no lease, or its lease has ended.
    LeaseOver,
    /// It came after the moment up to which it was wanted.
    TooLate,
}

impl Lease {
    /// The epoch's subjects are heard from now on; its go is to come.
    pub(crate) fn expect(&self, epoch: Epoch) {
        self.lock().awaited = Some(epoch);
    }

    pub(crate) fn extend(&self, epoch: Epoch, until: Moment) {
        let mut state = self.lock();
        if state.epoch != Some(epoch) {
            *state = LeaseState { awaited: None, epoch: Some(epoch), until, hub: state.hub };
            self.begun.notify_waiters();
        }
        state.until = state.until.max(until);
    }

    pub(crate) fn end(&self) {
        let mut state = self.lock();
        (state.awaited, state.epoch) = (None, None);
        self.begun.notify_waiters();
    }

    /// Whether the go of this epoch is still to come.
    pub(super) fn is_awaited(&self, epoch: Epoch) -> bool {
        self.lock().awaited == Some(epoch)
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

    pub(crate) fn set_hub_time(&self, hub_unix_ms: u64, asked_at: Moment) {
        self.lock().hub = Some((hub_unix_ms, asked_at));
    }

    /// Whether a call of this epoch that is wanted up to `not_after` (Unix milliseconds of hub time) may begin now.
    pub(super) fn check(&self, epoch: Epoch, not_after: Option<u64>, now: Moment) -> Result<(), NotNow> {
        let state = *self.lock();
        if state.epoch != Some(epoch) || now > state.until {
            return Err(NotNow::LeaseOver);
        }
        let late = not_after.zip(state.hub_unix_ms_at_most(now));
        if late.is_some_and(|(not_after, hub)| hub > not_after) { Err(NotNow::TooLate) } else { Ok(()) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LeaseState> {
        self.state.lock().expect("no holder of this lock panics")
    }
}
