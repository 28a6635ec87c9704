//! What is known of the disk behind the store: that it refused the last change, or has not answered for long.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use towline_bus::clock::Moment;

use super::StoreError;

/// How long one commit may take before the disk is said not to answer: far above any that works, and below the patience of
/// those who wait, so that an operator hears of it while they do.
const STALLED: Duration = Duration::from_secs(10);

/// Written by the store's writer, read by whoever tells of its health.
#[derive(Debug, Default)]
pub(super) struct Disk(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Why the last change was not written, if it was not.
    failure: Option<StoreError>,
    /// When the commit began that is under way.
    busy_since: Option<Moment>,
}

impl Disk {
    /// A commit begins.
    pub(super) fn begins(&self, now: Moment) {
        self.seen().busy_since = Some(now);
    }

    /// It has ended, so or so.
    pub(super) fn ended(&self, committed: &Result<(), StoreError>) {
        *self.seen() = Seen { failure: committed.clone().err(), busy_since: None };
    }

    /// What is wrong with it, as far as anybody knows.
    pub(super) fn failure(&self, now: Moment) -> Option<StoreError> {
        let seen = self.seen();
        let busy = seen.busy_since.map_or(Duration::ZERO, |since| now.since(since));
        if busy > STALLED { Some(StoreError::Stalled(busy.as_secs())) } else { seen.failure.clone() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn a_disk_that_does_not_answer_is_told_of_before_it_does() {
        let disk = Disk::default();
        disk.begins(at(100));
        assert_eq!(disk.failure(at(110)), None);
        assert_eq!(disk.failure(at(112)), Some(StoreError::Stalled(12)));
        disk.ended(&Ok(()));
        assert_eq!(disk.failure(at(1_000)), None);
    }

    #[test]
    fn a_change_that_was_refused_is_told_of_until_one_is_written() {
        let disk = Disk::default();
        let full = StoreError::Failed("no space is left".to_owned());
        disk.begins(at(1));
        disk.ended(&Err(full.clone()));
        disk.begins(at(2));
        assert_eq!(disk.failure(at(3)), Some(full), "nobody knows better yet");
        disk.ended(&Ok(()));
        assert_eq!(disk.failure(at(3)), None);
    }
}
