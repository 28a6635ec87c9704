//! Whether a unit works: how one finds out, and what follows from what was found. For shims, who look at their own unit, and
//! for a runtime whose units have no shim.

mod judge;
mod net;
mod socks;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use self::judge::{Judge, Verdict};
pub(crate) use self::net::{Get, Peer, get, knock, status as http_status};
use crate::manifest::HealthSpec;

/// How a unit's health stands, where it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not known yet: it has just been started.
    Starting,
    /// It works.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// When looks are taken, and how many failures make a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Between two looks.
    pub(crate) interval: Duration,
    /// A look that takes longer has failed.
    pub(crate) timeout: Duration,
    /// So many failures in a row, and it does not work.
    pub(crate) retries: u32,
    /// Failures in this time after a start do not count.
    pub(crate) start_period: Duration,
}

impl From<&HealthSpec> for Rule {
    fn from(spec: &HealthSpec) -> Self {
        Self {
            interval: spec.interval.get(),
            timeout: spec.timeout.get(),
            retries: spec.retries,
            start_period: spec.start_period.get(),
        }
    }
}
