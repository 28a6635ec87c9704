//! Errors that cross the bus: a stable code, the effect, a message and help for people, and a map of per-id errors that
//! survives every hop.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire_enum;

wire_enum! {
    /// What went wrong. Stable: scripts depend on the words. *The effect, not the code, says whether to retry.*
    pub enum Code {
        /// Nobody serves the instance now; nothing of this attempt was done.
        Unavailable = "unavailable",
        /// The call was sent; then agent, bus or time was lost.
        UnknownOutcome = "unknown_outcome",
        /// The call reached the agent after the moment up to which it was wanted, and was not executed.
        Expired = "expired",
        /// The caller took the call back.
        Cancelled = "cancelled",
        /// No room for one more call now.
        Busy = "busy",
        /// This caller may not do that.
        Denied = "denied",
        /// The request is wrong in itself, and will be wrong again.
        Invalid = "invalid",
        /// Larger than one message may be.
        TooLarge = "too_large",
        /// What the call names does not exist.
        NotFound = "not_found",
        /// Somebody else owns it, or it is already there.
        Conflict = "conflict",
        /// The session is older than what it would act on.
        Fenced = "fenced",
        /// The session was replaced by a newer one.
        Kicked = "kicked",
        /// The platform gave up; its subscription ends with this error.
        Fatal = "fatal",
        /// This agent lacks the call.
        UpgradeNeeded = "upgrade_needed",
        /// This runtime cannot do that.
        Unsupported = "unsupported",
        /// The runtime said no; see the per-id errors.
        Cluster = "cluster",
    }
}

impl Code {
    /// What a person can do about it, where that does not depend on the case at hand.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unavailable => {
                "check that the agent runs and reaches the bus; `towline instances` shows when it was last heard"
            }
            Self::UnknownOutcome => {
                "the work may have been done: look at the instance, or repeat the call with the same Idempotency-Key"
            }
            Self::Expired => "nothing was done; repeat the call with more time",
            Self::Busy => "repeat the call later, or make fewer at once",
            Self::TooLarge => "send less in one call",
            Self::UpgradeNeeded => "upgrade the agent of this instance",
            Self::Kicked => {
                "another agent serves this instance now; stop one of the two if that is not meant"
            }
            _ => return None,
        })
    }
}

wire_enum! {
    /// What a failed call did.
    pub enum Effect {
        /// Nothing was done; the call can be repeated.
        None = "none",
        /// Part of it was done; the per-id errors say what was not.
        Partial = "partial",
        /// Nobody knows.
        Unknown = "unknown",
    }
}

/// Why one of several things that a call asked for was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemError {
    /// What went wrong with this one.
    pub code: Code,
    /// A sentence for people, lower case, without a full stop.
    pub message: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl ItemError {
    /// An error with a code and a sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Why a call failed. It is the same value on every hop, from the runtime to the person who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// What went wrong.
    pub code: Code,
    /// What was done all the same.
    pub effect: Effect,
    /// A sentence for people, lower case, without a full stop.
    pub message: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Errors by resource id, where several things were asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, ItemError>,
}

impl CallError {
    /// An error with the effect `none` and the code's own help.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let help = code.help().map(str::to_owned);
        Self { code, effect: Effect::None, message: message.into(), help, errors: BTreeMap::new() }
    }

    /// The runtime refused some of what was asked: `partial` where something was done, else `none`.
    pub fn cluster(errors: BTreeMap<String, ItemError>, effect: Effect) -> Self {
        let message = match errors.len() {
            1 => "1 resource failed".to_owned(),
            n => format!("{n} resources failed"),
        };
        Self { code: Code::Cluster, effect, message, help: None, errors }
    }

    /// The call was sent, and then something was lost.
    pub fn unknown_outcome(message: impl Into<String>) -> Self {
        Self::new(Code::UnknownOutcome, message).with_effect(Effect::Unknown)
    }

    /// Sets the effect.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Replaces the help.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether the platform's subscription ends with this error.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.code == Code::Fatal
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (position, (id, error)) in self.errors.iter().enumerate() {
            write!(f, "{}{id}: {error}", if position == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for CallError {}
