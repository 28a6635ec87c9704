//! How Towline's messages travel.
//!
//! | module | what it holds |
//! |---|---|
//! | [`platform`] | what an instance implements, and what [`MessageBus::connect`] hands back: near and far are one type |
//! | [`message_bus`] | the hub's half: who serves, who is there, calls to them |
//! | [`subscription`] | the agent's half: claim, serve, end with a reason |
//! | [`transport`] | what carries the bytes: in memory, with the semantics of NATS |
//! | [`session`] | the right to be heard, as two pure state machines |
//! | [`presence`] | connected, unreachable, never seen: a pure state machine |
//! | [`exchange`] | calls and streams over frames, on both sides |
//! | [`authority`] | who grants epochs |
//! | [`event`] | what happens to sessions, for those who watch |
//! | [`metrics`] | what the bus counts |
//! | [`clock`], [`task`] | the only reader of clocks; the only place that spawns |

pub mod authority;
pub mod clock;
#[doc(hidden)]
pub mod doors;
pub mod event;
pub mod exchange;
mod map;
pub mod message_bus;
pub mod metrics;
pub mod platform;
pub mod presence;
pub mod session;
pub mod subscription;
pub mod task;
pub mod transport;

pub use authority::Authority;
pub use message_bus::{MessageBus, Remote};
pub use platform::{CallContext, Platform};
pub use subscription::subscribe;
pub use transport::Transport;
