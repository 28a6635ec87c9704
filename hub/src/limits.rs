//! The hub's own bounds, each with its reason. Those of the conversation with agents stand in
//! [`towline_protocol::limits`].

use std::time::Duration;

use towline_protocol::limits::MESSAGE_BYTES_MAX;

/// Events kept; the oldest go first. About 200 bytes each: 20 MiB of store, and a month of a fleet of 1,000 instances
/// that come and go three times a day.
pub const EVENTS_MAX: u64 = 100_000;

/// Matching events that one read of the store hands out: what a watcher may hold of history at once.
pub const EVENTS_PAGE: usize = 256;

/// Rows that one such read looks at: a filter that matches nothing must not hold a reader for the whole table.
pub const EVENTS_SCAN_MAX: usize = 8_192;

/// Bus events taken into one transaction.
pub const EVENTS_BATCH_MAX: usize = 256;

/// How long an `Idempotency-Key` may be used again: half of what an agent remembers, so that clocks and delays between
/// the two never matter.
pub const REQUEST_ID_VALID: Duration = Duration::from_secs(24 * 3600);

/// How long the pin of a request id is kept: as long as an agent remembers its outcome. In the second half the key is
/// refused; without the pin it would be taken for a new one.
pub const PIN_KEPT: Duration = Duration::from_secs(48 * 3600);

/// Pins kept; the oldest go first. Nearly three mutating calls a second for 48 hours; about 80 MiB of store.
pub const PINS_MAX: u64 = 500_000;

/// Pins that one insertion prunes at most, so that it stays short after a burst has aged.
pub const PINS_PRUNED_AT_ONCE: usize = 64;

/// Instances on record: ten times the fleet that one hub is made for.
pub const INSTANCES_MAX: usize = 100_000;

/// Labels of one instance.
pub const LABELS_MAX: usize = 64;

/// A label's key or value, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;

/// Writes that wait for the store. A storm of 10,000 agents waits in the bus, not here.
pub const WRITE_QUEUE_MAX: usize = 1_024;

/// Writes that share one commit: a commit costs a disk flush, whatever is in it.
pub const WRITE_BATCH_MAX: usize = 256;

/// Memory that the store may use for its pages: all of a 10,000-instance hub's hot tables.
pub const STORE_CACHE_BYTES: usize = 32 << 20;

/// Connections to the API at once. Each has a task and a file descriptor; a connection carries one request at a time, so
/// this also bounds requests.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Connections to the metrics listener at once: a scraper or two, and a person.
pub const METRICS_CONNECTIONS_MAX: usize = 32;

/// How long a connection may take to send a request's head.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a body may stand still while it is read.
pub const BODY_STALL_MAX: Duration = Duration::from_secs(30);

/// A body that holds names and labels.
pub const BODY_SMALL_BYTES_MAX: usize = 64 << 10;

/// A body that holds ids: 100,000 of them at 300 bytes each.
pub const BODY_IDS_BYTES_MAX: usize = 32 << 20;

/// A body that holds definitions: the largest message in Base64, and room for ids and punctuation.
pub const BODY_DEFINITIONS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 3 * 4 + (4 << 20);

/// Bytes of bodies that the API holds at once, over all requests: five of the largest ones.
pub const BODIES_BYTES_MAX: usize = 5 * BODY_DEFINITIONS_BYTES_MAX;

/// Bodies above this are parsed away from the threads that serve everybody: 256 KiB of JSON take about a millisecond.
pub const PARSE_INLINE_BYTES_MAX: usize = 256 << 10;

/// How often a silent event stream says that it is still there: proxies cut what is silent for 30 to 60 s.
pub const SSE_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long requests and work under way may take to end when the hub stops.
pub const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// How long the last events may take to reach the store when the hub stops.
pub const RECORD_GRACE: Duration = Duration::from_secs(2);

/// Distinct versions that are a label of their own; the rest count as `other`.
pub const VERSION_LABELS_MAX: usize = 20;

/// Version pings under way at once.
pub const VERSION_PINGS_AT_ONCE: usize = 32;

/// How long a version ping waits: as long as a version call does by default.
pub const VERSION_PING_TIME: Duration = Duration::from_secs(5);

/// How often the version of each connected instance is asked for, unless configured.
pub const VERSION_PING_EVERY: Duration = Duration::from_secs(60);

/// A token file holds one line.
pub const TOKEN_BYTES_MAX: u64 = 4_096;
