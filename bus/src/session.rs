//! The right to be heard: at most one session of an instance serves, the newest wins, and a process that was frozen
//! through a takeover begins nothing when it thaws.
//!
//! Two pure state machines: [`HubSession`], one per instance on the hub, and [`AgentSession`], one per agent process.
//! Events and the time go in, effects come out; drivers (`MessageBus`, `subscribe`) do what the effects say. What an agent
//! may begin is said by its [`Lease`], which is pure, too. Simulation and model checking drive these very types.
//!
//! ```text
//! agent                                hub
//!   │  claim (boot, nonce, store, mode)  │
//!   ├───────────────────────────────────►│  reserve the next epoch
//!   │◄───────────────────────────────────┤  reserved e
//!   │  subscribe e, prove it by a round trip
//!   │  ready e                           │
//!   ├───────────────────────────────────►│  make e the active epoch by compare-and-set; kick the older;
//!   │◄───────────────────────────────────┤  wait for its stand-down, or for its lease to end
//!   │  go e                              │
//!   │  renewal e, every 2 s              │
//!   ├───────────────────────────────────►│  read which epoch is active
//!   │◄───────────────────────────────────┤  renewed, or kicked, or unknown (claim again, to resume)
//! ```

mod agent;
mod hub;
mod lease;

pub use agent::{AgentEffect, AgentEvent, AgentSession, Ask, EndReason, Identity};
pub use hub::{HubEffect, HubEvent, HubSession, Question, Target};
pub use lease::{Lease, NotNow};
