use towline_agent::manifest::{ByteSize, Span};
use towline_hub::time::{NanoTime, Time, parse_duration, parse_since};

use crate::text_reads_back;

/// Times, durations and sizes in parameters, headers and manifests.
pub fn time(data: &[u8]) {
    const NOW_UNIX_MS: u64 = 1_800_000_000_000;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let time = text_reads_back::<Time>(text);
    text_reads_back::<NanoTime>(text);
    text_reads_back::<Span>(text);
    text_reads_back::<ByteSize>(text);
    if let Ok(duration) = parse_duration(text) {
        assert!(!duration.is_zero(), "{text:?} is no time at all");
    }
    if let Ok(since) = parse_since(text, NOW_UNIX_MS) {
        match time {
            Some(time) => assert_eq!(since, time.unix_ms()),
            None => assert!(since <= NOW_UNIX_MS, "{text:?} ago is in the future"),
        }
    }
}
