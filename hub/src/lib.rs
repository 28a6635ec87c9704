//! Towline's control plane.
//!
//! | module | what it holds |
//! |---|---|
//! | [`hub`] | the component: what it is told, how it starts, serves and drains |
//! | [`api`] | the HTTP API, and its JSON types for clients |
//! | [`registry`] | which instances there are, and how each stands |
//! | [`events`] | what happens to them, recorded once and watched without loss |
//! | [`store`] | one redb file: epochs, instances, events, pins of request ids |
//! | [`token`] | the secret that callers show |
//! | [`metrics`] | what the hub counts |
//! | [`limits`] | every bound of this side, with its reason |
//!
//! Invariants, as absences: no state outlives a restart but the store's; no gauge is kept, each is looked up; no mutating
//! call is sent before its pin is durable; no handler answers with an error that is not a problem document.

pub mod api;
pub mod data_dir;
pub mod events;
pub mod hub;
pub mod limits;
pub mod metrics;
pub mod registry;
mod server;
pub mod store;
pub mod time;
pub mod token;
mod version_pings;

pub use hub::{BuildError, Hub, HubConfig, RunError};
