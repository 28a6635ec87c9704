//! Calls and streams over frames: [`Caller`] on the hub, `Responder` on the agent, and the cutting and joining of
//! messages that both share.
//!
//! A call is one frame on the session's call subject, and its answer one frame on the caller's reply subject. What is
//! larger is cut into chunks: the sender may be [`STREAM_WINDOW_FRAMES`](towline_protocol::limits::STREAM_WINDOW_FRAMES)
//! ahead of the receiver's last credit. While an agent works on a call it says so every two seconds, so that the caller
//! learns within seconds that agent or bus were lost, however long the call may take.

mod caller;
mod responder;
mod transfer;
mod window;

use bytes::Bytes;
use towline_protocol::frame::Frame;
use towline_protocol::{CallError, Code, limits};

use self::transfer::{Incoming, Joined, Outgoing};
use crate::transport::Transport;

pub use caller::{Caller, Destination};
pub(crate) use responder::{Responder, SharedLease};

/// The sequence of a keep-alive that says: still at work.
const WORKING: u32 = 0;
/// The sequence of the keep-alive that says: the stream is open.
const OPENED: u32 = 1;

/// Messages above this are compressed off the runtime's own threads: 256 KiB take about a millisecond.
const COMPRESS_INLINE_BYTES_MAX: usize = 256 << 10;

/// What a frame's header and extensions take at most.
const FRAME_HEAD_BYTES_MAX: usize = limits::FRAME_EXTENSION_BYTES_MAX + 64;

/// Messages are cut no smaller than this: a server that takes less than it, and a head, is of no use to anybody.
const FRAME_BODY_BYTES_MIN: usize = 4 << 10;

/// The largest body of a frame over this transport: our own bound, or what the server takes if that is less.
fn frame_bytes(transport: &dyn Transport) -> usize {
    let most = transport.max_payload().saturating_sub(FRAME_HEAD_BYTES_MAX);
    most.clamp(FRAME_BODY_BYTES_MIN, limits::FRAME_BODY_BYTES_MAX)
}

/// Makes a message of frames that this transport takes, off the runtime's threads if it is large.
async fn compress(body: Vec<u8>, transport: &dyn Transport) -> Result<Outgoing, CallError> {
    let frame_bytes = frame_bytes(transport);
    if body.len() <= COMPRESS_INLINE_BYTES_MAX || body.len() > limits::MESSAGE_BYTES_MAX {
        return Ok(Outgoing::new(body, frame_bytes)?);
    }
    // Boxed, as all that is rare: every call's future would be the larger for it.
    let made = Box::pin(tokio::task::spawn_blocking(move || Outgoing::new(body, frame_bytes))).await;
    Ok(made.map_err(|_| CallError::new(Code::Cancelled, "the runtime is shutting down"))??)
}

/// Refuses lists that are longer than a call may carry.
pub(crate) fn check_count(what: &str, found: usize, most: usize) -> Result<(), CallError> {
    if found <= most {
        return Ok(());
    }
    Err(CallError::new(Code::TooLarge, format!("{found} {what} in one call, and {most} are allowed")))
}

/// Joins frames into a message; none when they do not make one. Hidden: it is the fuzzer's door to a private matter.
#[doc(hidden)]
pub fn join(frames: impl IntoIterator<Item = Frame>) -> Option<Bytes> {
    let mut frames = frames.into_iter();
    let mut joined = Incoming::begin(frames.next()?).ok()?;
    loop {
        match joined {
            Joined::Whole(message) => return Some(message),
            Joined::Partly(incoming) => joined = incoming.add(&frames.next()?).ok()?,
        }
    }
}
