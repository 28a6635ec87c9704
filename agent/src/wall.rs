//! The wall clock, for showing to people and for forgetting old outcomes.

/// Now, in Unix milliseconds.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
