//! What is forgotten, and when. Pure.

use std::ops::Range;

/// Results kept of one owner: at a change an hour, six weeks.
pub(crate) const RECORDS_OF_ONE: u64 = 1_000;

/// Jobs kept of all bundles together, those that have not ended beside them: some MiB.
pub(crate) const JOBS: u64 = 10_000;

/// Bundles that are gone and whose record is kept all the same.
pub(crate) const GONE: usize = 1_000;

/// The bundles to forget of those that are gone, given with the time since when: the ones that went first.
pub(crate) fn long_gone<T: Clone>(mut gone: Vec<(u64, T)>, most: usize) -> Vec<T> {
    let surplus = gone.len().saturating_sub(most);
    gone.sort_by_key(|(since, _)| *since);
    gone.into_iter().take(surplus).map(|(_, name)| name).collect()
}

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
    fn z_s7_of_what_is_gone_the_last_ones_are_remembered() {
        assert_eq!(long_gone(vec![(3, 'c'), (1, 'a'), (2, 'b')], 1), ['a', 'b']);
        assert_eq!(long_gone(vec![(1, 'a')], 1), [] as [char; 0]);
    }

    #[test]
    fn the_newest_are_kept() {
        assert_eq!(surplus(1, 10, 10), 1..1);
        assert_eq!(surplus(1, 11, 10), 1..2);
        assert_eq!(surplus(5, 6, 10), 5..5);
        assert_eq!(surplus(1, 1_000, 10), 1..5);
    }
}
