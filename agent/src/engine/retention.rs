//! What is forgotten, and when. Pure.

use std::ops::Range;

/// Results kept of one owner: at a change an hour, six weeks.
pub(crate) const RECORDS_OF_ONE: u64 = 1_000;

/// Jobs kept of all bundles together, those that have not ended beside them: some MiB.
pub(crate) const JOBS: u64 = 10_000;

/// The numbers to forget of those from `first` to `last`, of which the newest `most` are kept. At most a few at once, so
/// that a store that held too many comes down without a pause.
pub(crate) fn surplus(first: u64, last: u64, most: u64) -> Range<u64> {
    const AT_ONCE: u64 = 4;
    let end = (last + 1).saturating_sub(most).max(first);
    first..end.min(first.saturating_add(AT_ONCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        assert_eq!(surplus(1, 10, 10), 1..1);
        assert_eq!(surplus(1, 11, 10), 1..2);
        assert_eq!(surplus(5, 6, 10), 5..5);
        assert_eq!(surplus(1, 1_000, 10), 1..5);
    }
}
