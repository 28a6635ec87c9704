//! Room for answers that come in parts: bytes count once they may come, whatever was announced; and no instance takes the
//! room of the others.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use towline_protocol::{InstanceId, limits};

use crate::exchange::window::Window;
use crate::map::QuickMap;

/// The memory of one hub for answers under way.
pub(super) struct Room {
    /// Bytes that all answers under way share, each as far as its sender was told that it may go.
    shared: Arc<Semaphore>,
    /// Whoever finds no shared room goes on with this, to the end of its answer: so of many that wait for each other, each
    /// with a part of what it needs, one always goes on.
    last: Arc<Semaphore>,
    /// Announced bytes by instance; kept while anybody has or awaits any.
    shares: Mutex<QuickMap<InstanceId, Arc<Semaphore>>>,
    /// What is under way of answers that have their turn.
    pub(super) window: Arc<Window>,
}

impl Room {
    pub(super) fn new() -> Arc<Self> {
        Self::of(limits::REASSEMBLY_BYTES_MAX - limits::MESSAGE_BYTES_MAX)
    }

    fn of(shared: usize) -> Arc<Self> {
        let shared = Arc::new(Semaphore::new(shared));
        let last = Arc::new(Semaphore::new(1));
        Arc::new(Self {
            shared,
            last,
            shares: Mutex::default(),
            window: Window::new(limits::HUB_WINDOW_FRAMES),
        })
    }

    /// For one answer of an instance. It holds nothing yet.
    pub(super) fn of_answer(self: &Arc<Self>, instance: &InstanceId) -> Held {
        let full = || Arc::new(Semaphore::new(limits::REASSEMBLY_SHARE_BYTES_MAX));
        let share = self.lock().entry(instance.clone()).or_insert_with(full).clone();
        let (room, instance) = (self.clone(), instance.clone());
        Held { room, instance, share: Some(share), announced: None, shared: None, last: None }
    }

    fn lock(&self) -> MutexGuard<'_, QuickMap<InstanceId, Arc<Semaphore>>> {
        self.shares.lock().expect("no holder of this lock panics")
    }
}

/// What one answer holds; free again when dropped.
pub(super) struct Held {
    room: Arc<Room>,
    instance: InstanceId,
    /// Until it is dropped.
    share: Option<Arc<Semaphore>>,
    announced: Option<OwnedSemaphorePermit>,
    shared: Option<OwnedSemaphorePermit>,
    last: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Waits for the instance's own answers before this one, if together they announce more than its share.
    pub(super) async fn take_turn(&mut self, announced: usize) {
        let most = limits::REASSEMBLY_SHARE_BYTES_MAX;
        let Some(share) = self.share.clone().filter(|_| self.announced.is_none()) else { return };
        self.announced = share.acquire_many_owned(permits(announced.min(most))).await.ok();
    }

    /// Waits until so many bytes of the answer, from its beginning, may come.
    pub(super) async fn grow(&mut self, to: usize) {
        let has = self.shared.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if to <= has || self.last.is_some() {
            return;
        }
        let more = self.room.shared.clone().acquire_many_owned(permits(to - has));
        tokio::select! {
            biased;
            Ok(more) = more => match &mut self.shared {
                Some(shared) => shared.merge(more),
                none => *none = Some(more),
            },
            Ok(last) = self.room.last.clone().acquire_owned() => self.last = Some(last),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A permit keeps its semaphore, too.
        self.announced = None;
        let mut shares = self.room.lock();
        // Under the lock: of two that leave at once, the second sees that it is the last.
        self.share = None;
        if shares.get(&self.instance).is_some_and(|share| Arc::strong_count(share) == 1) {
            shares.remove(&self.instance);
        }
    }
}

/// A semaphore counts in `u32`; a message never needs that many.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn id(name: &str) -> InstanceId {
        name.parse().unwrap()
    }

    fn has_turn(held: &mut Held, announced: usize) -> bool {
        held.take_turn(announced).now_or_never().is_some()
    }

    fn grows(held: &mut Held, to: usize) -> bool {
        held.grow(to).now_or_never().is_some()
    }

    #[test]
    fn an_instance_waits_for_its_own_answers_alone() {
        let room = Room::new();
        let mut of_a: Vec<_> = (0..3).map(|_| room.of_answer(&id("a"))).collect();
        let turns: Vec<_> = of_a.iter_mut().map(|held| has_turn(held, limits::MESSAGE_BYTES_MAX)).collect();
        assert_eq!(turns, [true, true, false]);
        assert!(has_turn(&mut room.of_answer(&id("b")), limits::MESSAGE_BYTES_MAX));
        assert!(!has_turn(&mut of_a[2], limits::MESSAGE_BYTES_MAX));
        of_a.remove(0);
        assert!(has_turn(&mut of_a[1], limits::MESSAGE_BYTES_MAX));
        drop(of_a);
        assert!(room.lock().is_empty(), "nothing is kept of who has left");
    }

    #[test]
    fn of_those_that_wait_for_each_other_one_goes_on() {
        let room = Room::of(10);
        let mut all: Vec<_> = ["a", "b", "c"].map(|name| room.of_answer(&id(name))).into_iter().collect();
        assert!(grows(&mut all[0], 5) && grows(&mut all[1], 5), "as far as there is room");
        assert!(grows(&mut all[0], 9), "the first that finds none goes on");
        assert!(grows(&mut all[0], 1_000), "to its end");
        assert!(!grows(&mut all[1], 9) && !grows(&mut all[2], 1), "the others wait");
        all.remove(0);
        assert!(grows(&mut all[0], 9) && grows(&mut all[1], 1));
    }
}
