//! Calls and streams over frames: [`Caller`] on the hub, [`Responder`] on the agent, and the cutting and joining of
//! messages that both share.
//!
//! A call is one frame on the session's call subject, and its answer one frame on the caller's reply subject. What is
//! larger is cut into chunks: the sender may be [`STREAM_WINDOW_FRAMES`](towline_protocol::limits::STREAM_WINDOW_FRAMES)
//! ahead of the receiver's last credit. While an agent works on a call it says so every two seconds, so that the caller
//! learns within seconds that agent or bus were lost, however long the call may take.

mod caller;
mod responder;
mod transfer;

pub use caller::{Caller, Destination};
pub(crate) use responder::{Lease, Responder};

/// The sequence of a keep-alive that says: still at work.
const WORKING: u32 = 0;
/// The sequence of the keep-alive that says: the stream is open.
const OPENED: u32 = 1;
