//! The calls that wait for frames, and what has come for each. One lock and no channel for each: a call is seldom more
//! than one frame.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use towline_protocol::frame::{Frame, Kind};
use towline_protocol::{AttemptId, Epoch, InstanceId, limits};

use crate::exchange::WORKING;
use crate::map::QuickMap;

/// Frames that wait for one call. Its sender has no credit for more than the window; the rest is room for keep-alives.
const FRAMES_MAX: usize = 2 * limits::STREAM_WINDOW_FRAMES as usize;

/// What comes for a call.
pub(super) enum Arrival {
    Frame(Box<Frame>),
    /// The server says that nobody heard the call.
    NoResponders,
    LinkLost,
}

/// Who is asked, and where the answer is awaited.
pub(super) struct Asked {
    pub(super) reply_subject: String,
    pub(super) instance: InstanceId,
    pub(super) epoch: Epoch,
}

struct Pending {
    asked: Asked,
    arrived: VecDeque<Arrival>,
    /// When something came last but an answer's beginning, whether or not it is kept. Most calls have nothing else, and read no
    /// clock for it.
    talked: Option<Instant>,
    reader: Option<Waker>,
}

impl Pending {
    fn push(&mut self, arrival: Arrival) -> Option<Waker> {
        self.arrived.push_back(arrival);
        self.reader.take()
    }
}

/// All calls under way at this hub.
#[derive(Default)]
pub(super) struct PendingCalls(Mutex<QuickMap<AttemptId, Pending>>);

impl PendingCalls {
    /// Makes a call known; whether there was room for it.
    pub(super) fn insert(&self, attempt: AttemptId, asked: Asked) -> bool {
        let mut calls = self.lock();
        let has_room = calls.len() < limits::HUB_CALLS_MAX;
        if has_room {
            calls.insert(attempt, Pending { asked, arrived: VecDeque::new(), talked: None, reader: None });
        }
        has_room
    }

    pub(super) fn remove(&self, attempt: AttemptId) {
        let removed = self.lock().remove(&attempt);
        // Its frames are freed without the lock.
        drop(removed);
    }

    /// Hands a reply to its call, if `read` makes an arrival of it. What does not fit is counted by whoever asks.
    pub(super) fn deliver(
        &self,
        attempt: AttemptId,
        read: impl FnOnce(&Asked) -> Result<Arrival, &'static str>,
    ) -> Result<(), &'static str> {
        let reader = {
            let mut calls = self.lock();
            let call = calls.get_mut(&attempt).ok_or("late_reply")?;
            let arrival = read(&call.asked)?;
            if !is_answer(&arrival) {
                call.talked = Some(Instant::now());
            }
            if is_idle_talk(&arrival) && call.arrived.len() > FRAMES_MAX / 2 {
                // A reader that is this far behind has not missed us; what is left of its queue is for items.
                return Ok(());
            }
            if call.arrived.len() >= FRAMES_MAX {
                // A sender beyond its credit loses frames, and with them its message: the gap is an error at the reader.
                return Err("overrun");
            }
            call.push(arrival)
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// What was sent is lost with the link, or its answer is: nobody waits for that.
    pub(super) fn lose_link(&self) {
        let readers: Vec<Waker> =
            self.lock().values_mut().filter_map(|call| call.push(Arrival::LinkLost)).collect();
        readers.into_iter().for_each(Waker::wake);
    }

    /// When something came last for a call but its answer's beginning, which its reader has: for who waits for something else.
    pub(super) fn talked(&self, attempt: AttemptId) -> Option<Instant> {
        self.lock().get(&attempt).and_then(|call| call.talked)
    }

    /// The next that came for a call. It has one reader.
    pub(super) fn poll(&self, attempt: AttemptId, cx: &mut Context<'_>) -> Poll<Arrival> {
        let mut calls = self.lock();
        // A call is taken off the list by its reader alone.
        let Some(call) = calls.get_mut(&attempt) else { return Poll::Ready(Arrival::LinkLost) };
        if let Some(arrival) = call.arrived.pop_front() {
            return Poll::Ready(arrival);
        }
        if !call.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            call.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, QuickMap<AttemptId, Pending>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

fn is_answer(arrival: &Arrival) -> bool {
    matches!(arrival, Arrival::Frame(frame) if frame.header.kind == Kind::Reply)
}

fn is_idle_talk(arrival: &Arrival) -> bool {
    let Arrival::Frame(frame) = arrival else { return false };
    frame.header.kind == Kind::KeepAlive && frame.header.sequence == WORKING
}
