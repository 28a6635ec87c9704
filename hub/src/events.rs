//! What happens to sessions, from the bus into the store, and from there to whoever watches.
//!
//! ```text
//!   bus ──events──▶ record_all ──▶ store ◀──pages── EventTail, one per watcher
//!                        └───── last sequence ─────────▲
//! ```
//! Watchers are woken by the log's last sequence and read the store themselves, so a slow one is never sent past: it has
//! its own place, reads on from there, and is told when what it missed is no longer kept.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use towline_bus::event::{BusEvent, EventKind};

use crate::limits;
use crate::registry::Registry;
use crate::store::{EventFilter, Store, StoreError, StoredEvent};

/// How long the recorder waits before it tries a failed write again: long enough not to spin on a full disk.
const RECORD_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The log of events. Clones share it.
#[derive(Debug, Clone)]
pub struct EventLog {
    store: Store,
    last: watch::Sender<u64>,
}

impl EventLog {
    /// The log of a store.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let last = watch::Sender::new(store.last_event().await?);
        Ok(Self { store, last })
    }

    /// Appends events, each once, and wakes the watchers.
    ///
    /// # Errors
    /// When the store fails; repeating the call is sound.
    pub async fn append(&self, events: Vec<BusEvent>) -> Result<(), StoreError> {
        let last = self.store.append_events(events).await?;
        self.last.send_if_modified(|known| {
            let moved = *known < last;
            *known = last.max(*known);
            moved
        });
        Ok(())
    }

    /// Watches the log after a sequence: what is there, and with `follow` also what comes, until `stopping`.
    #[must_use]
    pub fn tail(
        &self,
        after: u64,
        filter: EventFilter,
        follow: bool,
        stopping: CancellationToken,
    ) -> EventTail {
        EventTail {
            store: self.store.clone(),
            last: self.last.subscribe(),
            position: after,
            resumed: after > 0,
            filter,
            ready: VecDeque::new(),
            follow,
            stopping,
        }
    }
}

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tailed {
    /// An event.
    Event(StoredEvent),
    /// Events after this sequence, up to the next event, are not kept any more.
    Gap {
        /// The last sequence that the watcher had.
        after: u64,
    },
}

/// One watcher's way through the log.
#[derive(Debug)]
pub struct EventTail {
    store: Store,
    last: watch::Receiver<u64>,
    position: u64,
    /// Whether the watcher has seen what came before its position; if not, nothing is missing there.
    resumed: bool,
    filter: EventFilter,
    ready: VecDeque<StoredEvent>,
    follow: bool,
    stopping: CancellationToken,
}

impl EventTail {
    /// The next thing to tell; `None` when the watch is over. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Tailed, StoreError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(Tailed::Event(event)));
            }
            let last = *self.last.borrow_and_update();
            if self.position > last {
                // A number from another log: this one was restored from a backup.
                let after = std::mem::replace(&mut self.position, last);
                return Some(Ok(Tailed::Gap { after }));
            }
            if self.position < last {
                match self.read_page().await {
                    Ok(None) => continue,
                    Ok(Some(gap)) => return Some(Ok(gap)),
                    Err(error) => return Some(Err(error)),
                }
            }
            if !self.follow {
                return None;
            }
            tokio::select! {
                changed = self.last.changed() => changed.ok()?,
                () = self.stopping.cancelled() => return None,
            }
        }
    }

    async fn read_page(&mut self) -> Result<Option<Tailed>, StoreError> {
        let page = self.store.events_after(self.position, self.filter.clone()).await?;
        let after = std::mem::replace(&mut self.position, page.read_to);
        let missed = self.resumed && page.oldest.is_some_and(|oldest| oldest > after + 1);
        self.resumed = true;
        self.ready = page.events.into();
        Ok(missed.then_some(Tailed::Gap { after }))
    }
}

/// Takes events from the bus until it is gone; after `stopping` it takes what is there and ends.
pub(crate) async fn record_all(
    mut events: mpsc::Receiver<BusEvent>,
    log: EventLog,
    registry: Registry,
    stopping: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            taken = events.recv_many(&mut batch, limits::EVENTS_BATCH_MAX) => if taken == 0 { return },
            () = stopping.cancelled() => return,
        }
        let batch = std::mem::take(&mut batch);
        while let Err(error) = record(&batch, &log, &registry).await {
            tracing::error!(%error, events = batch.len(), "events were not recorded yet");
            tokio::select! {
                () = tokio::time::sleep(RECORD_AGAIN_AFTER) => {}
                () = stopping.cancelled() => return,
            }
        }
    }
}

async fn record(batch: &[BusEvent], log: &EventLog, registry: &Registry) -> Result<(), StoreError> {
    for event in batch {
        if matches!(event.kind, EventKind::Connected | EventKind::Takeover) {
            registry.saw(&event.instance, event.at_unix_ms).await?;
        }
    }
    log.append(batch.to_vec()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::Epoch;

    fn event(epoch: u64) -> BusEvent {
        BusEvent {
            instance: "acme/shop".parse().unwrap(),
            epoch: Epoch::new(epoch).unwrap(),
            kind: EventKind::Connected,
            heartbeat: 0,
            at_unix_ms: 1_700_000_000_000,
            detail: String::new(),
        }
    }

    async fn next_sequence(tail: &mut EventTail) -> u64 {
        match tail.next().await.unwrap().unwrap() {
            Tailed::Event(event) => event.sequence,
            gap @ Tailed::Gap { .. } => panic!("{gap:?}"),
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let log = EventLog::open(store.clone()).await.unwrap();
        let mut tail = log.tail(0, EventFilter::default(), true, CancellationToken::new());
        // More than a page, written before the watcher looks once.
        let many = u64::try_from(limits::EVENTS_PAGE * 3 + 7).unwrap();
        log.append((1..=many).map(event).collect()).await.unwrap();
        for sequence in 1..=many {
            assert_eq!(next_sequence(&mut tail).await, sequence);
        }
        log.append(vec![event(many + 1)]).await.unwrap();
        assert_eq!(next_sequence(&mut tail).await, many + 1);
        store.close().await;
    }

    #[tokio::test]
    async fn a_watch_ends_after_history_or_when_the_hub_stops() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let log = EventLog::open(store.clone()).await.unwrap();
        log.append(vec![event(1), event(2)]).await.unwrap();
        let stopping = CancellationToken::new();
        let mut history = log.tail(1, EventFilter::default(), false, stopping.clone());
        assert_eq!(next_sequence(&mut history).await, 2);
        assert_eq!(history.next().await, None);

        let mut following = log.tail(2, EventFilter::default(), true, stopping.clone());
        stopping.cancel();
        assert_eq!(following.next().await, None);
        store.close().await;
    }

    #[tokio::test]
    async fn a_watcher_is_told_what_it_can_no_longer_have() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let log = EventLog::open(store.clone()).await.unwrap();
        log.append(vec![event(1)]).await.unwrap();
        let mut tail = log.tail(900, EventFilter::default(), true, CancellationToken::new());
        assert_eq!(tail.next().await, Some(Ok(Tailed::Gap { after: 900 })));
        log.append(vec![event(2)]).await.unwrap();
        assert_eq!(next_sequence(&mut tail).await, 2);
        store.close().await;
    }
}
