//! Every bound of the conversation, in one place, each with its reason.
//!
//! Sizes are bytes, times are [`Duration`]s. Bounds that belong to one side alone (queue lengths of the hub's API, say)
//! stand in a `limits` module of that crate.

use std::time::Duration;

/// The largest content of one call or answer: 64 MiB. An export of a large cluster fits; two of them do not exhaust a
/// small agent.
pub const CONTENT_BYTES_MAX: usize = 64 << 20;

/// The largest message, before compression and chunking: the largest content, and 64 KiB for the names around it.
pub const MESSAGE_BYTES_MAX: usize = CONTENT_BYTES_MAX + (64 << 10);

/// The largest body of one frame: 128 KiB. Far below NATS' `max_payload` (1 MiB), and small enough that a heartbeat
/// waits behind one for about a millisecond on a 1 Gbit/s link.
pub const FRAME_BODY_BYTES_MAX: usize = 128 << 10;

/// The largest header extension area: 1 KiB. Today's extensions take under 120 bytes; the rest is room for newer peers.
pub const FRAME_EXTENSION_BYTES_MAX: usize = 1 << 10;

/// Bodies below this are sent as they are: compressing 4 KiB saves less than the work costs.
pub const COMPRESS_BYTES_MIN: usize = 4 << 10;

/// Frames of one transfer that may be under way without a further credit. 16 × 128 KiB = 2 MiB keeps a 100 ms link at
/// 20 MiB/s busy and bounds what a dead receiver leaves in the broker.
pub const STREAM_WINDOW_FRAMES: u32 = 16;

/// Frames of all large answers together that a hub has asked for and not received: 32 MiB, half of what a NATS server keeps for one
/// connection before it ends it. Each answer has its part, up to a whole window.
pub const HUB_WINDOW_FRAMES: u32 = 256;

/// The same for large calls at an agent: 1 MiB, for which a renewal's answer waits 1.7 s on a link of 5 Mbit/s. A lease lasts 5 s.
pub const AGENT_WINDOW_FRAMES: u32 = 32;

/// The parts in which a call goes that does not fit one frame: the first of each is sent unasked, and each may have one under way.
pub const CALL_PART_BYTES: usize = 32 << 10;

/// Large answers that one agent sends at once: 16 windows, 32 MiB under way. More wait, and say that they are at work.
pub const TRANSFERS_MAX: usize = 16;

/// Bytes of incomplete transfers that one connection holds for all its senders together: four full messages.
pub const REASSEMBLY_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// Bytes of incomplete answers that one instance may have announced to a hub at once: two full messages. More wait for those
/// before them, whoever else the hub listens to.
pub const REASSEMBLY_SHARE_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Silence on a running call after which its caller gives it up. The agent says every [`RENEW_EVERY`] that it still works.
pub const CALL_SILENCE_MAX: Duration = Duration::from_secs(6);

/// A transfer whose next frame does not come for this long is given up: three keep-alives.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_secs(15);

/// How often each side of an open stream says that it is still there.
pub const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A stream whose reader takes nothing that waits for it is given up after this long: as long as a person reads a page.
pub const STREAM_READER_MAX: Duration = Duration::from_secs(10 * 60);

/// Nesting of a MessagePack body. Our deepest message has six levels.
pub const BODY_DEPTH_MAX: usize = 32;

/// Ids in one call: 100,000 resources are more than a cluster holds, and their errors still fit one message.
pub const IDS_MAX: usize = 100_000;

/// Definitions or actions in one call.
pub const DEFINITIONS_MAX: usize = 10_000;

/// Items of one page (workloads, bundles, jobs, records), whatever the caller asks: as many as a bundle may hold, at
/// some hundred bytes each.
pub const PAGE_ITEMS_MAX: usize = DEFINITIONS_MAX;

/// Items of one page when the caller does not say.
pub const PAGE_ITEMS_DEFAULT: usize = 1_000;

/// The items of a page, from what the caller asked: at least one, at most [`PAGE_ITEMS_MAX`].
#[must_use]
pub fn page(limit: Option<u32>) -> usize {
    let asked = limit.and_then(|limit| usize::try_from(limit).ok());
    asked.unwrap_or(PAGE_ITEMS_DEFAULT).clamp(1, PAGE_ITEMS_MAX)
}

/// The largest version of a bundle: 2^53, so that JSON readers keep it exact.
pub const BUNDLE_VERSION_MAX: u64 = 1 << 53;

/// The reason for a deletion or a pause, in bytes: a few sentences.
pub const REASON_BYTES_MAX: usize = 1 << 10;

/// The message of one progress record, in bytes: with what is around it, it fits a frame many times over.
pub const JOB_MESSAGE_BYTES_MAX: usize = 16 << 10;

/// A resource id in bytes: room for namespace, kind and name of 63 each, thrice over.
pub const RESOURCE_ID_BYTES_MAX: usize = 512;

/// A request id in characters: a UUID, a ULID or a hash fits.
pub const REQUEST_ID_CHARS_MAX: usize = 64;

/// A name (tenant, instance): a DNS label, so that it can become one.
pub const NAME_CHARS_MAX: usize = 63;

/// A free word in an open enum, or a version: longer ones are not words.
pub const WORD_CHARS_MAX: usize = 128;

/// A log line in one frame; longer lines arrive in pieces.
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// Call names in one claim: the table has under forty.
pub const CALLS_MAX: usize = 256;

/// The largest epoch: 2^53, so that JSON readers keep it exact.
pub const EPOCH_MAX: u64 = 1 << 53;

/// The longest a call may take, whatever its caller asks: 20 minutes, as long as a slow roll-out.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// How often an agent renews its lease.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// An agent begins no hub call later than this after *sending* its last answered renewal.
pub const LEASE_AGENT: Duration = Duration::from_secs(5);

/// How long the hub waits for a lease to end: the agent's time, plus one second for clocks that run apart.
pub const LEASE_HUB: Duration = Duration::from_secs(6);

/// A connected instance counts as unreachable after 2.5 missed renewals.
pub const PRESENCE_LOST_AFTER: Duration = Duration::from_millis(5_000);

/// A reservation that is not made ready in this time ends by itself.
pub const RESERVATION_MAX: Duration = Duration::from_secs(10);

/// How often an agent repeats a question that was not answered.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A standby asks this often at least and twice as often at most, at random between.
pub const STANDBY_ASK_MIN: Duration = Duration::from_secs(2);

/// Takeovers of one instance within [`TAKEOVER_WINDOW`] after which fresh claims are treated as a standby's.
pub const TAKEOVERS_MAX: usize = 3;

/// The window in which takeovers are counted.
pub const TAKEOVER_WINDOW: Duration = Duration::from_secs(10 * 60);

/// Calls that one agent works on at once; more are refused as `busy`. Pings are not counted.
pub const AGENT_CALLS_MAX: usize = 1_024;

/// Calls that one hub keeps under way at once, over all instances.
pub const HUB_CALLS_MAX: usize = 16_384;

/// Messages that wait in one subscription: all replies of a hub come on one, and each of its calls may be answered at the same
/// moment. At 128 KiB each a full queue of the largest frames would hold 2 GiB, which the credit window prevents: no sender
/// has more than [`STREAM_WINDOW_FRAMES`] under way, and an agent no more than [`TRANSFERS_MAX`] large answers.
pub const SUBSCRIPTION_MESSAGES_MAX: usize = HUB_CALLS_MAX;
