//! Towline's remote end: carries out bundles, apply and sync on a local runtime, and tells the truth about what came of it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`agent`] | all of it as one component, for `towline-agent` and `towline dev` |
//! | [`config`] | its configuration file |
//! | [`manifest`] | what a user writes, read strictly |
//! | `engine` | bundles: accepted, then carried out, whatever happens in between |
//! | [`direct`] | apply, sync, export, services, logs, repair |
//! | [`doctor`] | what is left on this host of agents that nobody has any more |
//! | [`mark`] | the right to act on this host, which at most one epoch has |
//! | [`runtime`] | what runs units: processes, so far |
//! | [`shim`] | the supervisor above each unit, a process of its own |
//! | [`tether`] | what ties other programs to the agent |
//! | [`store`] | what survives: bundles, jobs, the record, direct resources, outcomes, identity |

mod acting;
pub mod agent;
mod asker;
mod calls;
pub mod config;
pub mod direct;
pub mod doctor;
#[doc(hidden)]
pub mod doors;
mod engine;
pub mod failpoints;
mod health;
mod holder;
mod link;
mod lock_file;
pub mod manifest;
pub mod mark;
mod metrics;
mod owners;
mod platform;
mod proc;
pub mod runtime;
pub mod shim;
pub mod store;
pub mod tether;

pub use agent::{Agent, AgentConfig, OpenAgentError};
pub use engine::{BundleChange, BundleEvent};
pub use link::ServeError;
pub use metrics::ListenError;

/// The agent's version, as `--version` prints it and `version` answers.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
