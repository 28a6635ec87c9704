//! What goes into the agent's machine, and what comes out.

use towline_protocol::session::{Claim, ClaimAnswer, RenewalAnswer, SessionOrder};
use towline_protocol::{BootId, CallError, Epoch, StoreId};

use crate::clock::Moment;

/// Who claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Random per process start.
    pub boot: BootId,
    /// The store behind the process.
    pub store: StoreId,
    /// The last epoch that the store saw.
    pub last_epoch: Option<Epoch>,
    /// The agent's build.
    pub version: String,
    /// The agent's runtime.
    pub runtime: String,
    /// The calls that it answers.
    pub calls: Vec<String>,
}

/// What happened, for the agent's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The bus is reached.
    LinkUp,
    /// The bus is not reached.
    LinkDown,
    /// The hub answered a claim.
    ClaimAnswered {
        /// The question's number.
        number: u32,
        /// What it said.
        answer: ClaimAnswer,
    },
    /// The subjects of this epoch are heard, proven by a round trip.
    Subscribed {
        /// The epoch.
        epoch: Epoch,
    },
    /// They are not, for now.
    NotSubscribed {
        /// The epoch.
        epoch: Epoch,
    },
    /// The hub answered a ready.
    ReadyAnswered {
        /// The question's number.
        number: u32,
        /// What it said.
        answer: SessionOrder,
    },
    /// The hub ordered something on the session's own subject.
    Ordered(SessionOrder),
    /// The hub answered a heartbeat.
    RenewalAnswered {
        /// The heartbeat's number.
        number: u32,
        /// What it said.
        answer: RenewalAnswer,
    },
    /// The session is to end.
    Leave(EndReason),
    /// Time passed.
    Tick,
}

/// A question to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// For an epoch.
    Claim(Claim),
    /// To be activated.
    Ready(Epoch),
    /// To renew the lease.
    Renewal(Epoch),
    /// To note a stand-down.
    StandDown(Epoch),
    /// To note a clean end.
    Goodbye(Epoch),
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEffect {
    /// Ask the hub.
    Ask {
        /// The question's number.
        number: u32,
        /// The question.
        ask: Ask,
    },
    /// Hear the subjects of this epoch, prove it, and say so. An earlier epoch is not heard any more.
    Subscribe(Epoch),
    /// The hub said go for this epoch, which is new. Said once, before calls of it begin.
    Begin {
        /// The epoch.
        epoch: Epoch,
        /// As in [`SessionOrder::since`].
        since: Option<Epoch>,
    },
    /// Begin calls of this epoch, until the moment given. Said again with each renewal.
    ServeUntil {
        /// The epoch.
        epoch: Epoch,
        /// Begin nothing after this.
        until: Moment,
    },
    /// The hub's clock showed this no earlier than `asked_at`.
    HubTime {
        /// Unix milliseconds.
        hub_unix_ms: u64,
        /// When the question was sent that this came in answer to.
        asked_at: Moment,
    },
    /// Begin no call any more; work under way goes on.
    StopServing,
    /// The session is over.
    End(EndReason),
}

/// Why a subscription ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// A newer subscription took over.
    Kicked {
        /// Its epoch, if the hub said which.
        by: Option<Epoch>,
    },
    /// The platform gave up.
    Fatal(CallError),
    /// The hub refused the claim.
    Refused(CallError),
    /// It was asked to end.
    Left,
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kicked { by: Some(by) } => write!(f, "kicked by the newer subscription of epoch {by}"),
            Self::Kicked { by: None } => f.write_str("kicked by a newer subscription"),
            Self::Fatal(error) => write!(f, "the platform gave up: {error}"),
            Self::Refused(error) => write!(f, "the hub refused the claim: {error}"),
            Self::Left => f.write_str("left"),
        }
    }
}
