//! The agent as a platform: apply, sync, export, services, logs, over the process runtime.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

mod bench;
mod calls;
mod files;
mod health;
mod repair;
mod updates;
