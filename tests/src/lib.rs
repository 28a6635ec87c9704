//! What tests across crates need: a hub with its API, agents on its bus, and the API itself as a platform.
//!
//! | module | what it holds |
//! |---|---|
//! | [`chain`] | HTTP API → hub → bus → agent, with a mock or with a real runtime |
//! | [`docker`] | a Docker engine of the tests' own |
//! | [`http_platform`] | the API as a `Platform`, so that the battery runs over it |
//! | [`jwt`], [`tls`] | who may connect to a nats-server: operators, accounts, users; certificates |
//! | [`nats`] | a real nats-server, and a proxy that cuts links |
//! | [`netns`] | network namespaces, and links that are cut |
//! | [`noise`] | bytes that do not shrink |
//! | [`permissions`] | a nats-server's users with exactly their rights |
//! | [`processes`] | the real binaries, killed, frozen and cut off |
//! | [`wait`] | level-triggered waiting |
//!
//! A test that needs something that is missing fails, and says what to do; none is skipped.

#![expect(clippy::panic, reason = "a fixture fails its test by panicking")]

pub mod chain;
pub mod docker;
pub mod http_platform;
pub mod jwt;
pub mod nats;
pub mod netns;
pub mod noise;
pub mod permissions;
pub mod processes;
pub mod tls;
pub mod wait;
