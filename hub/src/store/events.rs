//! The log of events: append-only, each event once, bounded by count.

use redb::{ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use towline_bus::event::{BusEvent, EventKind};
use towline_protocol::{Epoch, InstanceId};

use super::{Store, StoreError, decode, encode};
use crate::limits;

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const EVENT_IDS: TableDefinition<'_, (&str, u64, &str, u32), u64> = TableDefinition::new("event_ids");

pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(EVENTS)?;
    transaction.open_table(EVENT_IDS)?;
    Ok(())
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// Its place: from 1, without gaps, in the order of recording.
    pub sequence: u64,
    /// The instance that it happened to.
    pub instance: InstanceId,
    /// The session that it happened to.
    pub epoch: Epoch,
    /// What happened.
    pub kind: EventKind,
    /// The number of the heartbeat before it, for what may happen to a session more than once.
    #[serde(default)]
    pub heartbeat: u32,
    /// When, in Unix milliseconds of the hub's clock.
    pub at_unix_ms: u64,
    /// A sentence for people.
    #[serde(default)]
    pub detail: String,
}

/// Which events are wanted; empty wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this instance alone.
    pub instance: Option<InstanceId>,
    /// Of these kinds alone.
    pub kinds: Vec<EventKind>,
    /// Not older than this, in Unix milliseconds.
    pub since_unix_ms: Option<u64>,
}

impl EventFilter {
    /// Whether an event is wanted.
    #[must_use]
    pub fn wants(&self, event: &StoredEvent) -> bool {
        self.instance.as_ref().is_none_or(|wanted| *wanted == event.instance)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.since_unix_ms.is_none_or(|since| event.at_unix_ms >= since)
    }
}

/// Some of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events that were wanted, in order.
    pub events: Vec<StoredEvent>,
    /// How far the log was read; the next page begins after it.
    pub read_to: u64,
    /// The oldest event that is still there, wanted or not.
    pub oldest: Option<u64>,
}

impl Store {
    /// Appends the events that are not there yet, by (instance, epoch, kind, heartbeat), and returns the last sequence of the log.
    /// Durable before the answer.
    ///
    /// # Errors
    /// When the store fails; repeating the call writes nothing twice.
    pub async fn append_events(&self, events: Vec<BusEvent>) -> Result<u64, StoreError> {
        self.write(move |transaction| append(transaction, &events, limits::EVENTS_MAX)).await
    }

    /// The last sequence of the log; 0 while it is empty.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn last_event(&self) -> Result<u64, StoreError> {
        self.read(|transaction| {
            let events = transaction.open_table(EVENTS)?;
            Ok(events.last()?.map_or(0, |(sequence, _)| sequence.value()))
        })
        .await
    }

    /// The events after a sequence that a filter wants: at most [`limits::EVENTS_PAGE`], out of
    /// [`limits::EVENTS_SCAN_MAX`] looked at.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn events_after(&self, after: u64, filter: EventFilter) -> Result<EventPage, StoreError> {
        self.read(move |transaction| {
            let table = transaction.open_table(EVENTS)?;
            let oldest = table.first()?.map(|(sequence, _)| sequence.value());
            let mut page = EventPage { events: Vec::new(), read_to: after, oldest };
            for row in table.range(after.saturating_add(1)..)?.take(limits::EVENTS_SCAN_MAX) {
                let (sequence, event) = row?;
                page.read_to = sequence.value();
                let event: StoredEvent = decode(event.value())?;
                if filter.wants(&event) {
                    page.events.push(event);
                }
                if page.events.len() == limits::EVENTS_PAGE {
                    break;
                }
            }
            Ok(page)
        })
        .await
    }
}

fn append(transaction: &WriteTransaction, new: &[BusEvent], keep: u64) -> Result<u64, StoreError> {
    let mut events = transaction.open_table(EVENTS)?;
    let mut ids = transaction.open_table(EVENT_IDS)?;
    let mut last = events.last()?.map_or(0, |(sequence, _)| sequence.value());
    for BusEvent { instance, epoch, kind, heartbeat, at_unix_ms, detail } in new {
        let instance_key = instance.to_string();
        let id = (instance_key.as_str(), epoch.get(), kind.as_str(), *heartbeat);
        if ids.get(id)?.is_some() {
            continue;
        }
        last += 1;
        let event = StoredEvent {
            sequence: last,
            instance: instance.clone(),
            epoch: *epoch,
            kind: kind.clone(),
            heartbeat: *heartbeat,
            at_unix_ms: *at_unix_ms,
            detail: detail.clone(),
        };
        events.insert(last, encode(&event).as_slice())?;
        ids.insert(id, last)?;
    }
    while events.len()? > keep {
        let Some(oldest) = events.pop_first()?.map(|(_, event)| decode::<StoredEvent>(event.value())) else {
            break;
        };
        let oldest = oldest?;
        // Its id goes with it: kept alone, ids would grow without a bound.
        let instance_key = oldest.instance.to_string();
        ids.remove((instance_key.as_str(), oldest.epoch.get(), oldest.kind.as_str(), oldest.heartbeat))?;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(epoch: u64, kind: EventKind) -> BusEvent {
        BusEvent {
            instance: "acme/shop".parse().unwrap(),
            epoch: Epoch::new(epoch).unwrap(),
            kind,
            heartbeat: 0,
            at_unix_ms: 1_700_000_000_000 + epoch,
            detail: "the session serves".to_owned(),
        }
    }

    #[tokio::test]
    async fn each_event_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.last_event().await, Ok(0));
        let both = vec![event(1, EventKind::Connected), event(1, EventKind::Kicked)];
        assert_eq!(store.append_events(both.clone()).await, Ok(2));
        assert_eq!(store.append_events(both).await, Ok(2));
        assert_eq!(store.append_events(vec![event(2, EventKind::Connected)]).await, Ok(3));
        // What happens to one session again is another event.
        let lost = |heartbeat| vec![BusEvent { heartbeat, ..event(2, EventKind::Disconnected) }];
        assert_eq!(store.append_events(lost(5)).await, Ok(4));
        assert_eq!(store.append_events(lost(5)).await, Ok(4));
        assert_eq!(store.append_events(lost(9)).await, Ok(5));
        let page = store.events_after(1, EventFilter::default()).await.unwrap();
        assert_eq!(page.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!((page.read_to, page.oldest), (5, Some(1)));
        store.close().await;
    }

    #[tokio::test]
    async fn the_log_is_bounded_and_its_numbers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let many: Vec<_> = (1..=10).map(|epoch| event(epoch, EventKind::Connected)).collect();
        let last = store.write(move |transaction| append(transaction, &many, 4)).await;
        assert_eq!(last, Ok(10));
        let page = store.events_after(0, EventFilter::default()).await.unwrap();
        assert_eq!(page.oldest, Some(7));
        assert_eq!(page.events.len(), 4);
        assert_eq!(store.append_events(vec![event(11, EventKind::Left)]).await, Ok(11));
        store.close().await;
    }

    #[test]
    fn filters_are_conjunctions() {
        let event = StoredEvent {
            sequence: 1,
            instance: "acme/shop".parse().unwrap(),
            epoch: Epoch::new(1).unwrap(),
            kind: EventKind::Kicked,
            heartbeat: 0,
            at_unix_ms: 500,
            detail: String::new(),
        };
        let all = EventFilter::default();
        assert!(all.wants(&event));
        assert!(EventFilter { kinds: vec![EventKind::Left, EventKind::Kicked], ..all.clone() }.wants(&event));
        assert!(!EventFilter { kinds: vec![EventKind::Left], ..all.clone() }.wants(&event));
        assert!(!EventFilter { instance: Some("shop".parse().unwrap()), ..all.clone() }.wants(&event));
        assert!(EventFilter { since_unix_ms: Some(500), ..all.clone() }.wants(&event));
        assert!(!EventFilter { since_unix_ms: Some(501), ..all }.wants(&event));
    }
}
