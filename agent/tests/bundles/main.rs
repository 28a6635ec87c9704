//! Bundles on the process runtime, through the platform that the agent serves.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

mod bench;
mod life;
mod restarts;
mod trouble;
