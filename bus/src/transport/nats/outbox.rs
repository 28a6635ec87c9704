//! Gathers what is published at the same time, and hands it to the client at once.
//!
//! The client writes as soon as it has a message: its task is woken by the first publish, and the runtime runs it next,
//! before the other tasks that are about to publish. So under load it writes a message or two at a time, and each write
//! costs more than all else about a message, here and at the server. The outbox lets the tasks that are ready go first.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::bulk::{self, Bulk, Place, UnderWay};
use crate::clock::{self, Moment};

/// Messages that may wait in the outbox, and again in the client's own queue: several turns each, and together as many as
/// the client alone holds by default. Publishers beyond wait for room.
pub(super) const MESSAGES_MAX: usize = 1_024;

/// Messages handed to the client in one go: what one turn of a task may send without being interrupted.
const BATCH_MAX: usize = 128;

/// Messages follow each other closer than this, on average, where it pays to gather them: above some 30,000 a second. Below,
/// the turn that others are given would only delay a message.
const CROWDED_GAP: Duration = Duration::from_micros(32);

/// How close messages follow each other: a moving average, in which each weighs an eighth.
struct Pace {
    last: Moment,
    gap: Duration,
    /// Messages since `last`, but for the one that came then.
    more: u32,
}

impl Pace {
    fn new(now: Moment) -> Self {
        Self { last: now, gap: CROWDED_GAP, more: 0 }
    }

    /// Notes that so many came, and says whether it is worth waiting for others.
    fn is_crowded(&mut self, now: Moment, came: usize) -> bool {
        let messages = self.more.saturating_add(u32::try_from(came).unwrap_or(u32::MAX)).max(1);
        // An hour of silence weighs as much as a hundredth of a second: what matters is that it was quiet.
        let gap = now.since(self.last).min(GAP_MAX) / messages;
        self.gap = (self.gap * 7 + gap) / 8;
        (self.last, self.more) = (now, 0);
        self.gap < CROWDED_GAP
    }

    /// One more came, with those noted last.
    fn more(&mut self) {
        self.more = self.more.saturating_add(1);
    }
}

/// The longest gap that counts.
const GAP_MAX: Duration = Duration::from_millis(10);

/// What goes out.
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) reply: Option<String>,
    pub(super) payload: Bytes,
    pub(super) place: Place,
}

pub(super) enum Item {
    Message(Outgoing),
    /// Everything before it has been handed to the client.
    Emptied(oneshot::Sender<()>),
}

/// An outbox, and the end that [`hand_over`] empties.
pub(super) fn outbox() -> (mpsc::Sender<Item>, mpsc::Receiver<Item>) {
    mpsc::channel(MESSAGES_MAX)
}

/// Hands over what comes, in its order, until `stopping` is cancelled.
pub(super) async fn hand_over(
    client: Client,
    bulk: Bulk,
    mut items: mpsc::Receiver<Item>,
    stopping: CancellationToken,
) {
    let work = async {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut pace = Pace::new(clock::now());
        let mut under_way = UnderWay::new(&bulk, clock::now());
        loop {
            let came = tokio::select! {
                biased;
                came = items.recv_many(&mut batch, BATCH_MAX) => came,
                () = tokio::time::sleep(bulk::LOOK_EVERY), if !under_way.is_empty() => {
                    look(&client, &mut under_way);
                    continue;
                }
            };
            if came == 0 {
                return;
            }
            if pace.is_crowded(clock::now(), batch.len()) {
                // Whoever is ready to publish does so now.
                tokio::task::yield_now().await;
                while let Some(item) = (batch.len() < BATCH_MAX).then(|| items.try_recv().ok()).flatten() {
                    batch.push(item);
                    pace.more();
                }
            }
            for item in batch.drain(..) {
                match item {
                    Item::Message(message) => hand(&client, message, &mut under_way).await,
                    // Who waited may have given up.
                    Item::Emptied(told) => drop(told.send(())),
                }
            }
            if !under_way.is_empty() {
                look(&client, &mut under_way);
            }
        }
    };
    stopping.run_until_cancelled(work).await;
}

/// Looks at what the client has written.
fn look(client: &Client, under_way: &mut UnderWay) {
    let statistics = client.statistics();
    let connects = statistics.connects.load(Ordering::Relaxed);
    under_way.look(clock::now(), connects, statistics.out_bytes.load(Ordering::Relaxed));
}

async fn hand(client: &Client, message: Outgoing, under_way: &mut UnderWay) {
    // What the client would keep for the next connection comes too late there.
    if client.connection_state() != State::Connected {
        return;
    }
    let counts = bulk::counts(&message);
    let Outgoing { subject, reply, payload, place } = message;
    under_way.give(client.statistics().out_bytes.load(Ordering::Relaxed), counts, place);
    let handed = match reply {
        Some(reply) => client.publish_with_reply(subject, reply, payload).await,
        None => client.publish(subject, payload).await,
    };
    // To have been published is no promise of arrival; who waits for an answer notices.
    if let Err(error) = handed {
        tracing::debug!(%error, "a message was not taken by the client");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Moment {
        Moment::since_boot(Duration::from_micros(micros))
    }

    #[test]
    fn many_messages_make_a_crowd_and_silence_ends_it() {
        let mut pace = Pace::new(at(0));
        let one_at_a_time =
            (1..20).map(|n| pace.is_crowded(at(n * 180), 1)).filter(|crowded| *crowded).count();
        assert_eq!(one_at_a_time, 0, "one call after the other");
        assert!((0..40).any(|n| pace.is_crowded(at(4_000 + n * 10), 1)), "calls at once");
        assert!(!pace.is_crowded(at(3_600_000_000), 1), "an hour later");
    }

    #[test]
    fn those_gathered_count_as_much_as_those_that_came_first() {
        let mut pace = Pace::new(at(0));
        for n in 1..50 {
            pace.is_crowded(at(n * 100), 1);
            (0..9).for_each(|_| pace.more());
        }
        assert!(pace.is_crowded(at(5_000), 1), "ten in each 100 us");
    }
}
