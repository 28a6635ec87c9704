//! Versions of the frame layout and of the call set.

use serde::{Deserialize, Serialize};

/// The layout of the binary header. It changes only when a reader of the old layout could not skip what is new; what can
/// be skipped goes into header extensions instead.
pub const FRAME_VERSION: u8 = 1;

/// A version of the call set, as the calls' `since` column names it. Peers never compare these for equality: an agent
/// lists its calls in its claim, and the hub looks a call up there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallSetVersion(pub u8);

impl CallSetVersion {
    /// ping, version, services, apply.
    pub const V4: Self = Self(4);
    /// Adds export, sync and logs.
    pub const V5: Self = Self(5);
    /// Adds bundles, jobs, capacity and addresses.
    pub const V6: Self = Self(6);
    /// The newest one that this build speaks.
    pub const LATEST: Self = Self::V6;
}

impl std::fmt::Display for CallSetVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "V{}", self.0)
    }
}
