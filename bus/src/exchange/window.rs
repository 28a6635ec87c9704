//! How much a receiver asks for of the messages that come to it in parts: what is under way stands before all else on its link.
//!
//! A sender sends its first frame unasked, and never has more under way than it was asked for. So the receiver decides: all its
//! messages share one window, and each may always have one frame under way, so that none waits for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use towline_protocol::frame::Frame;
use towline_protocol::limits;

/// The window of one receiver.
#[derive(Debug)]
pub(super) struct Window {
    frames: u32,
    /// Asked for and not received, of all messages.
    under_way: AtomicU32,
    messages: AtomicU32,
}

impl Window {
    /// Of so many frames.
    pub(super) fn new(frames: u32) -> Arc<Self> {
        Arc::new(Self { frames, under_way: AtomicU32::new(0), messages: AtomicU32::new(0) })
    }

    /// For a message of which the first frame has come.
    pub(super) fn of_message(self: &Arc<Self>, first: &Frame) -> Asking {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let frames = frames_of(first);
        Asking { window: self.clone(), frames, asked: 1, received: 1, last_alone: false }
    }
}

/// How many frames a message has, by its first one: they are of one size, but for the last.
pub(super) fn frames_of(first: &Frame) -> u32 {
    let bytes = first.header.total.map_or(0, |total| total.sent_bytes);
    let each = u64::try_from(first.body.len()).unwrap_or(u64::MAX).max(1);
    u32::try_from(bytes.div_ceil(each)).unwrap_or(u32::MAX).max(1)
}

/// What is asked for of one message. Dropping it gives back what did not come.
#[derive(Debug)]
pub(super) struct Asking {
    window: Arc<Window>,
    frames: u32,
    asked: u32,
    received: u32,
    last_alone: bool,
}

impl Asking {
    /// The last frame is asked for when all others have come, and so tells what its sender wants as of then.
    pub(super) fn last_alone(mut self) -> Self {
        self.last_alone = true;
        self
    }

    /// Whether nothing is left to ask for.
    pub(super) const fn is_all(&self) -> bool {
        self.asked >= self.frames
    }

    /// The frame up to which to ask, now that so many were received; none as long as enough is under way.
    pub(super) fn next(&mut self, received: u32) -> Option<u32> {
        let came = received.min(self.asked).saturating_sub(self.received);
        self.window.under_way.fetch_sub(came, Ordering::Relaxed);
        self.received = self.received.max(received);
        // Whoever sends unasked needs not be asked for it.
        self.asked = self.asked.max(received);
        let own = self.asked - self.received;
        let share = self.window.frames / self.window.messages.load(Ordering::Relaxed).max(1);
        let share = share.clamp(1, limits::STREAM_WINDOW_FRAMES);
        if self.is_all() || own > share / 2 {
            return None;
        }
        let free = self.window.frames.saturating_sub(self.window.under_way.load(Ordering::Relaxed));
        let more = share.saturating_sub(own).min(free).max(u32::from(own == 0));
        let end = self.frames - u32::from(self.last_alone && self.received + 1 < self.frames);
        let more = more.min(end.saturating_sub(self.asked));
        if more == 0 {
            return None;
        }
        self.window.under_way.fetch_add(more, Ordering::Relaxed);
        self.asked += more;
        Some(self.asked)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.window.under_way.fetch_sub(self.asked - self.received, Ordering::Relaxed);
        self.window.messages.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use proptest::prelude::*;
    use towline_protocol::frame::{Encoding, Header, Kind, Total};

    use super::*;

    fn first(frames: u32) -> Frame {
        let mut header = Header::new(Kind::Reply, Encoding::MessagePack);
        let bytes = u64::from(frames) * 4;
        header.total = Some(Total { sent_bytes: bytes, full_bytes: bytes, digest: [0; 32] });
        Frame { header, body: Bytes::from_static(b"four") }
    }

    #[test]
    fn more_is_asked_for_when_half_of_it_has_come() {
        let window = Window::new(8);
        let mut asking = window.of_message(&first(20));
        let told: Vec<_> = (1..=20).filter_map(|received| asking.next(received)).collect();
        assert_eq!(told, [9, 13, 17, 20]);
        drop(asking);
        let mut asking = window.of_message(&first(20)).last_alone();
        let told: Vec<_> = (1..=20).filter_map(|received| asking.next(received)).collect();
        assert_eq!(told, [9, 13, 17, 19, 20]);
        assert_eq!(window.of_message(&first(1)).next(1), None);
    }

    proptest! {
        /// Messages that come and go, with their frames in any order between them.
        #[test]
        fn all_messages_come_whole_and_share_one_window(
            sizes in prop::collection::vec(1_u32..80, 1..30),
            last_alone: bool,
            turns in prop::collection::vec(0_usize..30, 1..50),
        ) {
            const FRAMES: u32 = 32;
            let window = Window::new(FRAMES);
            let mut waiting: VecDeque<u32> = sizes.into();
            let mut coming: Vec<(Asking, u32, u32)> = Vec::new();
            let mut turns = turns.into_iter().cycle();
            while !waiting.is_empty() || !coming.is_empty() {
                let turn = turns.next().unwrap();
                if (turn % 3 == 0 || coming.is_empty()) && let Some(size) = waiting.pop_front() {
                    let asking = window.of_message(&first(size));
                    let asking = if last_alone { asking.last_alone() } else { asking };
                    coming.push((asking, 1, 1));
                    let (asking, _, allowed) = coming.last_mut().unwrap();
                    *allowed = asking.next(1).unwrap_or(*allowed);
                } else if !coming.is_empty() {
                    let at = turn % coming.len();
                    let (asking, received, allowed) = &mut coming[at];
                    let frames = asking.frames;
                    if *received < frames {
                        prop_assert!(*received < *allowed, "frame {received} of {frames} is never asked for");
                        *received += 1;
                        *allowed = asking.next(*received).unwrap_or(*allowed);
                    } else {
                        coming.swap_remove(at);
                    }
                }
                let under_way: u32 = coming.iter().map(|(_, received, allowed)| allowed - received).sum();
                prop_assert_eq!(under_way, window.under_way.load(Ordering::Relaxed));
                prop_assert!(under_way <= FRAMES + u32::try_from(coming.len()).unwrap());
            }
            prop_assert_eq!(window.messages.load(Ordering::Relaxed), 0);
        }
    }
}
