//! Keeps large messages from filling the way to the server: what is queued before a heartbeat delays it, and a slow link is
//! slow with megabytes.
//!
//! Everything to the server goes one way, in order: the outbox, the client's queue, its socket. So only a few large messages
//! are let in at a time. When one has left is seen from the client's count of bytes, for its flush is no proof: it also ends when
//! the socket takes nothing. The client counts a message twice, when it takes it from its queue and when it writes it. It takes
//! 64 KiB ahead of its socket, and a message more: that much earlier than it is written, a message may seem to be.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use towline_protocol::limits;

use super::outbox::Outgoing;
use crate::clock::{self, Moment};

/// Messages above this are bulk: a quarter of the largest frame. What sessions say takes hundreds of bytes.
const BULK_BYTES_MIN: usize = 32 << 10;

/// Bulk messages between a publisher and the socket: the window of one transfer, 2 MiB. That takes 1.7 s at 10 Mbit/s, and a
/// lease lasts 5 s.
const BULK_MESSAGES_MAX: usize = limits::STREAM_WINDOW_FRAMES as usize;

/// How often the count is looked at while bulk messages are on their way: 2 MiB a millisecond are more than any link.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A client that has written nothing for this long, though it has something to write, is stuck; or the count is wrong. Neither
/// is a reason to let nothing pass.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// The places for bulk messages. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Bulk {
    places: Arc<Semaphore>,
    left: LastLeft,
}

/// When a message was last seen to have left.
#[derive(Debug, Clone)]
struct LastLeft(Arc<Mutex<Moment>>);

impl LastLeft {
    fn lock(&self) -> MutexGuard<'_, Moment> {
        // Whatever is there is whole: it is set in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, taken by one bulk message; none by any other.
pub(super) type Place = Option<OwnedSemaphorePermit>;

impl Bulk {
    pub(super) fn new(now: Moment) -> Self {
        let left = LastLeft(Arc::new(Mutex::new(now)));
        Self { places: Arc::new(Semaphore::new(BULK_MESSAGES_MAX)), left }
    }

    /// A place for a message of so many bytes, if there is one now.
    pub(super) fn try_place(&self, bytes: usize) -> Option<Place> {
        if bytes < BULK_BYTES_MIN {
            return Some(None);
        }
        self.places.clone().try_acquire_owned().ok().map(Some)
    }

    /// Waits for a place; none when nothing has left for `still`. First come, first served; cancel safe.
    pub(super) async fn place(&self, still: Duration) -> Option<Place> {
        let place = self.places.clone().acquire_owned();
        tokio::pin!(place);
        let begun = clock::now();
        loop {
            let stood = clock::now().since(begun.max(*self.left.lock()));
            let more = still.checked_sub(stood)?;
            if let Ok(place) = tokio::time::timeout(more, &mut place).await {
                return place.ok().map(Some);
            }
        }
    }
}

/// The bulk messages that the client was given and has not written, as far as its count tells.
#[derive(Debug)]
pub(super) struct UnderWay {
    left: LastLeft,
    /// What the count will be once all that the client was given is taken and written.
    expected: u64,
    /// Each with what the count will be once it is written.
    places: VecDeque<(u64, OwnedSemaphorePermit)>,
    /// How often the client has connected: what it had not written before is lost.
    connects: u64,
    /// The count, and when it moved last.
    moved: (u64, Moment),
}

impl UnderWay {
    pub(super) fn new(bulk: &Bulk, now: Moment) -> Self {
        let left = bulk.left.clone();
        Self { left, expected: 0, places: VecDeque::new(), connects: 0, moved: (0, now) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The client was given a message that it will count for so much, having counted so far before it.
    pub(super) fn give(&mut self, counted: u64, counts: u64, place: Place) {
        // The client writes more than it is given: if it has counted beyond, it has written all.
        self.expected = self.expected.max(counted) + counts;
        self.places.extend(place.map(|place| (self.expected, place)));
    }

    /// Frees the places of those that are written.
    pub(super) fn look(&mut self, now: Moment, connects: u64, counted: u64) {
        if counted != self.moved.0 || self.places.is_empty() {
            self.moved = (counted, now);
        }
        let is_other = connects != self.connects;
        if is_other || now.since(self.moved.1) > STUCK_AFTER {
            self.connects = connects;
            self.expected = counted;
            self.places.clear();
        }
        while self.places.front().is_some_and(|(expected, _)| *expected <= counted) {
            self.places.pop_front();
            *self.left.lock() = now;
        }
    }
}

/// What the client counts for a message: its parts when it takes them, and `PUB subject reply 123\r\n…\r\n` when it writes that.
pub(super) fn counts(message: &Outgoing) -> u64 {
    let parts = message.subject.len() + message.reply.as_ref().map_or(0, String::len) + message.payload.len();
    let digits = message.payload.len().checked_ilog10().map_or(1, |log| log as usize + 1);
    let around = "PUB ".len() + " ".len() + usize::from(message.reply.is_some()) + digits + 2 * "\r\n".len();
    (2 * parts + around) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(seconds))
    }

    fn under_way() -> (Bulk, UnderWay) {
        let bulk = Bulk::new(at(0));
        let under_way = UnderWay::new(&bulk, at(0));
        (bulk, under_way)
    }

    fn free(bulk: &Bulk) -> usize {
        bulk.places.available_permits()
    }

    #[test]
    fn a_place_is_free_once_its_message_is_written() {
        let (bulk, mut under_way) = under_way();
        under_way.look(at(0), 1, 100);
        for _ in 0..BULK_MESSAGES_MAX {
            let place = bulk.try_place(BULK_BYTES_MIN).expect("there is one");
            under_way.give(100, 1_000, place);
        }
        assert!(bulk.try_place(BULK_BYTES_MIN).is_none());
        assert!(matches!(bulk.try_place(BULK_BYTES_MIN - 1), Some(None)), "small ones need none");
        under_way.look(at(1), 1, 1_099);
        assert_eq!(free(&bulk), 0);
        under_way.look(at(1), 1, 3_100);
        assert_eq!(free(&bulk), 3);
        under_way.look(at(1), 1, 16_100);
        assert!(under_way.is_empty());
    }

    #[test]
    fn a_lost_or_a_stuck_connection_holds_no_place() {
        let (bulk, mut under_way) = under_way();
        let place = || bulk.try_place(BULK_BYTES_MIN).expect("there is one");
        under_way.look(at(0), 1, 0);
        under_way.give(0, 1_000, place());
        under_way.look(at(1), 2, 10);
        assert_eq!(free(&bulk), BULK_MESSAGES_MAX, "it was lost with its connection");
        under_way.give(10, 1_000, place());
        under_way.look(at(2), 2, 500);
        under_way.look(at(6), 2, 500);
        assert_eq!(free(&bulk), BULK_MESSAGES_MAX - 1);
        under_way.look(at(8), 2, 500);
        assert_eq!(free(&bulk), BULK_MESSAGES_MAX);
    }

    #[test]
    fn what_is_written_beside_is_no_debt() {
        let (bulk, mut under_way) = under_way();
        under_way.look(at(0), 1, 0);
        under_way.give(50, 1_000, bulk.try_place(BULK_BYTES_MIN).expect("there is one"));
        under_way.look(at(1), 1, 1_049);
        assert!(!under_way.is_empty(), "pings and the like came before it");
        under_way.look(at(1), 1, 1_050);
        assert!(under_way.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_a_place_waits_as_long_as_something_leaves() {
        let (bulk, mut under_way) = under_way();
        under_way.look(clock::now(), 1, 0);
        for _ in 0..BULK_MESSAGES_MAX {
            under_way.give(0, 1_000, bulk.try_place(BULK_BYTES_MIN).expect("there is one"));
        }
        assert!(bulk.place(Duration::from_millis(10)).await.is_none(), "nothing has left");
        let still = Duration::from_secs(2);
        let (first, second) = (bulk.place(still), bulk.place(still));
        let leaving = async {
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            under_way.look(clock::now(), 1, 1_000);
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            under_way.look(clock::now(), 1, 2_000);
        };
        let (first, second, ()) = tokio::join!(first, second, leaving);
        assert!(first.is_some() && second.is_some());
    }
}
