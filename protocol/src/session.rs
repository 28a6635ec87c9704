//! What agent and hub say about the right to be heard: claim, ready, renewal, stand-down, goodbye; kick and go.
//!
//! Each message is flat: a word says what it is, and optional fields carry the rest, so that either side can be newer.
//! The rules behind them are state machines in `towline_bus::session`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::CallError;
use crate::id::{BootId, Epoch, StoreId};
use crate::wire_enum;

wire_enum! {
    /// How an agent claims.
    pub enum ClaimMode {
        /// It wants to serve, and takes over if somebody else does.
        Fresh = "fresh",
        /// It served under an epoch until just now, and wants to go on.
        Resume = "resume",
        /// It serves only if nobody else does.
        Standby = "standby",
    }
}

/// Asks for an epoch. Repeating it with the same nonce returns the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The process that claims.
    pub boot: BootId,
    /// Drawn anew for each claim, kept for its repetitions.
    pub nonce: u64,
    /// The store behind the process.
    pub store: StoreId,
    /// How it claims.
    pub mode: ClaimMode,
    /// The last epoch that its store saw; a grant exceeds it.
    #[serde(default)]
    pub last_epoch: Option<Epoch>,
    /// The epoch to go on with, for `resume`.
    #[serde(default)]
    pub held: Option<Epoch>,
    /// The agent's build.
    #[serde(default)]
    pub version: String,
    /// The agent's runtime.
    #[serde(default)]
    pub runtime: String,
    /// The calls that it answers.
    #[serde(default)]
    pub calls: Vec<String>,
}

wire_enum! {
    /// What the hub says to a claim.
    pub enum ClaimOutcome {
        /// The epoch is reserved: subscribe, then say ready.
        Reserved = "reserved",
        /// Go on with the epoch held.
        Resumed = "resumed",
        /// Somebody else serves: stand by and ask again.
        Standby = "standby",
        /// No; the error says why.
        Refused = "refused",
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimAnswer {
    /// What was decided.
    pub outcome: ClaimOutcome,
    /// The nonce of the claim that this answers.
    pub nonce: u64,
    /// The epoch reserved or resumed.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// The epoch that serves now, for a standby.
    #[serde(default)]
    pub holder: Option<Epoch>,
    /// How often to renew; the hub may ask for longer as the fleet grows.
    #[serde(default)]
    pub renew_every_ms: Option<u64>,
    /// Hub time when it answered, in Unix milliseconds.
    pub hub_unix_ms: u64,
    /// Why it was refused.
    #[serde(default)]
    pub error: Option<CallError>,
}

/// Says that the agent hears the subjects of its reserved epoch. Repeated until answered with `go`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The process that is ready.
    pub boot: BootId,
    /// The epoch that it was given.
    pub epoch: Epoch,
    /// The digest of what it has applied.
    #[serde(default)]
    pub applied: Bytes,
}

wire_enum! {
    /// What the hub orders a session to do.
    pub enum Order {
        /// Begin to serve.
        Go = "go",
        /// The older session has not stood down yet: ask again.
        Wait = "wait",
        /// Stop serving: a newer session took over, or this one ran out.
        Kick = "kick",
    }
}

/// An order on a session's own subject, and the answer to a ready, a stand-down or a goodbye.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOrder {
    /// What to do.
    pub order: Order,
    /// The epoch that it is said to.
    pub epoch: Epoch,
    /// The newer epoch, for a kick that has one.
    #[serde(default)]
    pub by: Option<Epoch>,
    /// For a go: the epoch from which on no other store was given this instance; none where no other is known. A store
    /// that was told to go last under an older one was passed over in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Epoch>,
    /// Hub time when it was said, in Unix milliseconds.
    pub hub_unix_ms: u64,
}

wire_enum! {
    /// How the work behind the heartbeats stands: an agent whose engine is stuck is not healthy.
    pub enum HealthState {
        /// Work goes on.
        Healthy = "healthy",
        /// Work has not moved for too long.
        Stalled = "stalled",
    }
}

/// How the agent's work stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub state: HealthState,
    /// And what there is to say about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: HealthState::Healthy, detail: None }
    }
}

/// A heartbeat: renews the lease, and says how the agent stands. The frame's sequence numbers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The process that renews.
    pub boot: BootId,
    /// The epoch whose lease is renewed.
    pub epoch: Epoch,
    /// The digest of what it has applied.
    #[serde(default)]
    pub applied: Bytes,
    /// How its work stands.
    #[serde(default)]
    pub health: Health,
}

wire_enum! {
    /// What the hub says to a renewal.
    pub enum RenewalOutcome {
        /// The lease is renewed.
        Renewed = "renewed",
        /// A newer session serves.
        Kicked = "kicked",
        /// The hub knows no such session (it was restarted, say): claim again, to resume.
        Unknown = "unknown",
    }
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalAnswer {
    /// What was decided.
    pub outcome: RenewalOutcome,
    /// The epoch that it is said to.
    pub epoch: Epoch,
    /// The newer epoch, for a kick.
    #[serde(default)]
    pub by: Option<Epoch>,
    /// Hub time when it answered, in Unix milliseconds.
    pub hub_unix_ms: u64,
}

/// Says that the session begins no call any more: the stand-down that a kick asks for, and the goodbye of a clean end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// The process that leaves.
    pub boot: BootId,
    /// The epoch that it gives back.
    pub epoch: Epoch,
}
