//! What goes into the hub's machine, and what comes out.

use towline_protocol::call::CallSet;
use towline_protocol::session::{Claim, ClaimAnswer, Leaving, Ready, Renewal, RenewalAnswer, SessionOrder};
use towline_protocol::{BootId, Epoch, StoreId};

use crate::authority::{Activation, AuthorityError, Grant};
use crate::event::EventKind;

/// What happened, for the hub's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubEvent {
    /// An agent claims; `number` is the question's, for the answer's subject.
    Claim {
        /// The question's number.
        number: u32,
        /// What it claims.
        claim: Claim,
    },
    /// The authority answered a [`HubEffect::Reserve`].
    Reserved {
        /// The claim's nonce.
        nonce: u64,
        /// The epoch, or why there is none.
        result: Result<Epoch, AuthorityError>,
    },
    /// An agent hears the subjects of its epoch.
    Ready {
        /// The question's number.
        number: u32,
        /// Who is ready.
        ready: Ready,
    },
    /// The authority answered a [`HubEffect::Activate`].
    Activated {
        /// The epoch that was to become active.
        epoch: Epoch,
        /// What came of it.
        result: Result<Activation, AuthorityError>,
    },
    /// A heartbeat.
    Renewal {
        /// The heartbeat's number.
        number: u32,
        /// What it says.
        renewal: Renewal,
    },
    /// An agent stood down after a kick.
    StoodDown {
        /// Who.
        leaving: Leaving,
    },
    /// An agent left of its own will.
    Goodbye {
        /// Who.
        leaving: Leaving,
    },
    /// The authority answered a [`HubEffect::ReadEpoch`].
    EpochRead {
        /// The question that waits for it.
        question: Question,
        /// What is active, or why nobody knows.
        result: Result<Option<Grant>, AuthorityError>,
    },
    /// Time passed.
    Tick,
}

/// A question to which *yes* is said only by what the authority tells after it came: another replica may have activated a
/// newer session, and what this one remembers is old then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// May it go on?
    Renewal {
        /// The heartbeat's number.
        number: u32,
        /// Who asks.
        boot: BootId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// May it begin?
    Ready {
        /// The question's number.
        number: u32,
        /// Who asks.
        boot: BootId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// May it go on with what it holds?
    Resume {
        /// The question's number.
        number: u32,
        /// What it claims.
        claim: Claim,
    },
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubEffect {
    /// Answer a claim.
    AnswerClaim {
        /// To whom.
        boot: BootId,
        /// To which question.
        number: u32,
        /// The answer; the driver fills in hub time.
        answer: ClaimAnswer,
    },
    /// Answer a ready, on the asker's own answer subject.
    AnswerReady {
        /// To whom.
        boot: BootId,
        /// To which question.
        number: u32,
        /// The answer; the driver fills in hub time.
        answer: SessionOrder,
    },
    /// Answer a heartbeat.
    AnswerRenewal {
        /// To whom.
        boot: BootId,
        /// To which one.
        number: u32,
        /// The answer; the driver fills in hub time.
        answer: RenewalAnswer,
    },
    /// Say something on a session's own subject.
    Order(SessionOrder),
    /// Ask the authority for an epoch.
    Reserve {
        /// The process that claims.
        boot: BootId,
        /// The claim's nonce: it gets the same epoch from each replica that asks for it.
        nonce: u64,
        /// The last epoch that the claimer's store saw.
        above: Option<Epoch>,
    },
    /// Ask the authority for a compare-and-set.
    Activate {
        /// The epoch that must still be active.
        expected: Option<Epoch>,
        /// What is to become active.
        grant: Grant,
    },
    /// Ask the authority what is active now.
    ReadEpoch {
        /// The question that waits for it.
        question: Question,
    },
    /// Tell the authority that the session ended of its own will.
    NoteEnd {
        /// Its epoch.
        epoch: Epoch,
    },
    /// A session was told to stand down: counted once.
    CountKick,
    /// Tell those who watch.
    Tell {
        /// The session that it happened to.
        epoch: Epoch,
        /// What happened.
        kind: EventKind,
        /// A sentence for people.
        detail: String,
    },
}

/// Where calls to the instance go now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The active epoch.
    pub epoch: Epoch,
    /// The process behind it.
    pub boot: BootId,
    /// The store behind the process.
    pub store: StoreId,
    /// The agent's build, as it claimed; empty for a session that a restarted hub only knows from its store.
    pub version: String,
    /// The agent's runtime.
    pub runtime: String,
    /// The calls that it answers.
    pub calls: CallSet,
}
