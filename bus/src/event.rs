//! What happens to sessions, for those who watch. The id of an event is (instance, epoch, kind, heartbeat): whoever stores it
//! does so once.

use towline_protocol::{Epoch, InstanceId, wire_enum};

wire_enum! {
    /// What happened.
    pub enum EventKind {
        /// A session was activated, and serves.
        Connected = "connected",
        /// A session was not heard any more.
        Disconnected = "disconnected",
        /// A session was heard again after it was missed.
        Reconnected = "reconnected",
        /// A session said goodbye.
        Left = "left",
        /// A session was told to stand down for a newer one.
        Kicked = "kicked",
        /// A session took over from one that still lived.
        Takeover = "takeover",
        /// Agents keep taking this instance from each other.
        Duplicate = "duplicate",
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusEvent {
    /// The instance that it happened to.
    pub instance: InstanceId,
    /// The session that it happened to.
    pub epoch: Epoch,
    /// What happened.
    pub kind: EventKind,
    /// The number of the last heartbeat before it, for what may happen to a session more than once; else 0. All replicas
    /// hear the same heartbeats, so all of them give the event the same id.
    pub heartbeat: u32,
    /// When, in Unix milliseconds of the hub's clock.
    pub at_unix_ms: u64,
    /// A sentence for people.
    pub detail: String,
}
