//! A transport that loses, delays, doubles and reorders, over any other: for tests of everything above it.
//!
//! What it does to a message is drawn from a seed, so that the same messages in the same order meet the same faults. The
//! order of one subject is kept, as every transport keeps it; subjects overtake each other. A partition is silent: publishes
//! succeed and go nowhere, and nothing arrives, as with a cut that nobody has noticed yet. What is under way when it begins
//! is lost, as in a cable that is cut: nothing of before it arrives after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use super::{LinkState, PublishError, SubscribeError, Subscription, Transport, TransportEvent};
use crate::task::Tasks;

/// Messages that wait for their time. A test that has more under way than this tests something else.
const WAITING_MAX: usize = 65_536;

/// How often a message meets each fault, in percent, and how long it is delayed at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// It is lost.
    pub loss_percent: u8,
    /// It arrives twice.
    pub double_percent: u8,
    /// It is delayed by up to this; others overtake it.
    pub delay_max: Duration,
}

/// Whether the connection is parted from the bus.
#[derive(Debug, Clone, Copy, Default)]
struct Partition {
    is_on: bool,
    /// How often it has begun: what was published before the last time is lost.
    begun: u64,
}

/// A message under way. It counts among those as long as it is kept.
#[derive(Debug)]
struct Letter {
    subject: String,
    reply: Option<String>,
    payload: Bytes,
    /// How many partitions had begun when it was published.
    partitions: u64,
    counted: UnderWay,
}

/// One of the messages under way.
#[derive(Debug)]
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn one_of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A transport with faults. Its own publishes meet them; what arrives met those of its publisher.
#[derive(Debug)]
pub struct FaultyTransport {
    inner: Arc<dyn Transport>,
    state: Mutex<State>,
    partition: watch::Sender<Partition>,
    waiting: mpsc::Sender<(Instant, Letter)>,
    under_way: Arc<AtomicUsize>,
    tasks: Tasks,
}

#[derive(Debug)]
struct State {
    faults: Faults,
    random: u64,
    /// When the last message of a subject is due: the next one must not overtake it.
    due: HashMap<String, Instant>,
}

impl FaultyTransport {
    /// Puts faults before a transport.
    #[must_use]
    pub fn over(inner: Arc<dyn Transport>, faults: Faults, seed: u64) -> Arc<Self> {
        let (waiting, letters) = mpsc::channel(WAITING_MAX);
        let tasks = Tasks::new();
        let partition = watch::Sender::new(Partition::default());
        let deliveries = deliver(inner.clone(), letters, partition.subscribe(), tasks.stopping().clone());
        tasks.spawn("faulty deliveries", deliveries);
        let state = Mutex::new(State { faults, random: seed | 1, due: HashMap::new() });
        Arc::new(Self { inner, state, partition, waiting, under_way: Arc::default(), tasks })
    }

    /// Changes the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Parts this connection from the bus, or joins it again. Nobody is told. What is under way when it is parted is lost.
    pub fn set_partitioned(&self, partitioned: bool) {
        if partitioned {
            self.lock().due.clear();
        }
        self.partition.send_modify(|partition| {
            partition.begun += u64::from(partitioned && !partition.is_on);
            partition.is_on = partitioned;
        });
    }

    /// Whether a message meets no fault, and none before it is still under way: it must not overtake those of its subject.
    fn is_faultless(&self) -> bool {
        self.lock().faults == Faults::default() && self.under_way.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl Drop for FaultyTransport {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

impl State {
    /// When each copy of a message is due; none for one that is lost.
    fn fate(&mut self, subject: &str, now: Instant) -> Vec<Instant> {
        // Forget what is over, so that memory follows what is under way.
        self.due.retain(|_, due| *due > now);
        if self.draw(100) < u64::from(self.faults.loss_percent) {
            return Vec::new();
        }
        let copies = if self.draw(100) < u64::from(self.faults.double_percent) { 2 } else { 1 };
        let delay_us = u64::try_from(self.faults.delay_max.as_micros()).unwrap_or(u64::MAX);
        let mut fate = Vec::with_capacity(copies);
        for _ in 0..copies {
            let delay = Duration::from_micros(self.draw(delay_us.saturating_add(1)));
            let earliest = self.due.get(subject).copied().unwrap_or(now);
            let due = earliest.max(now + delay);
            self.due.insert(subject.to_owned(), due);
            fate.push(due);
        }
        fate
    }

    /// xorshift64 (Marsaglia 2003): reproducible, and good enough for dice.
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % below.max(1)
    }
}

/// Sends each letter when it is due, unless a partition has begun meanwhile.
async fn deliver(
    inner: Arc<dyn Transport>,
    mut letters: mpsc::Receiver<(Instant, Letter)>,
    mut partition: watch::Receiver<Partition>,
    stopping: tokio_util::sync::CancellationToken,
) {
    let mut waiting: BTreeMap<(Instant, u64), Letter> = BTreeMap::new();
    let mut count = 0_u64;
    loop {
        let next = waiting.first_key_value().map(|((due, _), _)| *due);
        let timer = async {
            match next {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            letter = letters.recv() => match letter {
                Some((due, letter)) => {
                    count += 1;
                    waiting.insert((due, count), letter);
                }
                None => return,
            },
            Ok(()) = partition.changed() => {
                let begun = partition.borrow_and_update().begun;
                waiting.retain(|_, letter| letter.partitions == begun);
            }
            () = timer => {
                let Some((_, letter)) = waiting.pop_first() else { continue };
                let Letter { subject, reply, payload, partitions, counted } = letter;
                if partitions == partition.borrow().begun {
                    // Whoever tests faults expects loss.
                    let _ = inner.publish(subject, reply, payload).await;
                }
                drop(counted);
            }
        }
    }
}

#[async_trait]
impl Transport for FaultyTransport {
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if *self.inner.link().borrow() == LinkState::Disconnected {
            return Err(PublishError::Disconnected);
        }
        let limit = self.max_payload();
        if payload.len() > limit {
            return Err(PublishError::TooLarge { found: payload.len(), limit });
        }
        let Partition { is_on, begun: partitions } = *self.partition.borrow();
        if is_on {
            return Ok(());
        }
        if self.is_faultless() {
            return self.inner.publish(subject, reply, payload).await;
        }
        let fate = self.lock().fate(&subject, Instant::now());
        for due in fate {
            let (subject, reply, payload) = (subject.clone(), reply.clone(), payload.clone());
            let counted = UnderWay::one_of(&self.under_way);
            let letter = Letter { subject, reply, payload, partitions, counted };
            self.waiting.send((due, letter)).await.map_err(|_| PublishError::Disconnected)?;
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        pattern: String,
        queue: Option<String>,
    ) -> Result<Subscription, SubscribeError> {
        let inner = self.inner.subscribe(pattern, queue).await?;
        let partition = self.partition.subscribe();
        let messages = futures::stream::unfold(inner, |mut inner| async {
            let message = inner.next().await?;
            Some((message, inner))
        });
        Ok(Subscription::new(messages.filter(move |_| std::future::ready(!partition.borrow().is_on))))
    }

    fn link(&self) -> watch::Receiver<LinkState> {
        self.inner.link()
    }

    fn events(&self) -> broadcast::Receiver<TransportEvent> {
        self.inner.events()
    }

    fn max_payload(&self) -> usize {
        self.inner.max_payload()
    }

    async fn close(&self) {
        self.inner.close().await;
        self.tasks.stopping().cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::super::memory::MemoryBroker;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn fates(seed: u64) -> Vec<Vec<Duration>> {
        let faults = Faults { loss_percent: 30, double_percent: 30, delay_max: Duration::from_millis(50) };
        let mut state = State { faults, random: seed, due: HashMap::new() };
        let now = Instant::now();
        let mut one = |n: u32| state.fate(&format!("s{}", n % 3), now).iter().map(|due| *due - now).collect();
        (0..200).map(&mut one).collect()
    }

    #[tokio::test]
    async fn the_same_seed_draws_the_same_faults() {
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        let lost = fates(7).iter().filter(|fate| fate.is_empty()).count();
        let doubled = fates(7).iter().filter(|fate| fate.len() == 2).count();
        assert!((20..100).contains(&lost) && (10..90).contains(&doubled), "{lost} lost, {doubled} doubled");
    }

    #[tokio::test]
    async fn a_subject_keeps_its_order() {
        for subject in 0..3 {
            let due: Vec<_> = fates(7).into_iter().skip(subject).step_by(3).flatten().collect();
            assert!(due.is_sorted(), "subject {subject}");
        }
    }

    async fn publish(link: &FaultyTransport, subject: &str, text: impl ToString) {
        link.publish(subject.to_owned(), None, text.to_string().into()).await.unwrap();
    }

    async fn next(heard: &mut Subscription) -> Message {
        tokio::time::timeout(PATIENCE, heard.next()).await.expect("a message in time").expect("it is open")
    }

    /// Through the transport, as a listener to everything hears it.
    #[tokio::test]
    async fn subjects_overtake_each_other_and_none_itself() {
        const SENT: usize = 120;
        let broker = MemoryBroker::new();
        let listener = broker.connect();
        let mut heard = listener.subscribe("s.>".to_owned(), None).await.unwrap();
        let faults = Faults { delay_max: Duration::from_millis(30), ..Faults::default() };
        let link = FaultyTransport::over(broker.connect(), faults, 7);
        for number in 0..SENT {
            publish(&link, &format!("s.{}", number % 3), number).await;
        }
        let mut order = Vec::new();
        for _ in 0..SENT {
            let message = next(&mut heard).await;
            order.push(std::str::from_utf8(&message.payload).unwrap().parse::<usize>().unwrap());
        }
        assert!(!order.is_sorted(), "no subject overtook another");
        for subject in 0..3 {
            let own: Vec<_> = order.iter().filter(|number| *number % 3 == subject).collect();
            assert!(own.len() == SENT / 3 && own.is_sorted(), "subject {subject}: {own:?}");
        }
    }

    /// What is under way when the faults end is not overtaken either.
    #[tokio::test]
    async fn a_subject_keeps_its_order_when_the_faults_end() {
        let broker = MemoryBroker::new();
        let listener = broker.connect();
        let mut heard = listener.subscribe("s".to_owned(), None).await.unwrap();
        let faults = Faults { delay_max: Duration::from_millis(20), ..Faults::default() };
        let link = FaultyTransport::over(broker.connect(), faults, 7);
        for number in 0..200 {
            link.set_faults(if number % 10 < 5 { faults } else { Faults::default() });
            publish(&link, "s", number).await;
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        for number in 0..200 {
            assert_eq!(next(&mut heard).await.payload, number.to_string());
        }
    }

    #[tokio::test]
    async fn what_is_under_way_when_a_partition_begins_is_lost() {
        let broker = MemoryBroker::new();
        let listener = broker.connect();
        let mut heard = listener.subscribe("s.>".to_owned(), None).await.unwrap();
        let late = Faults { delay_max: Duration::from_millis(500), ..Faults::default() };
        let link = FaultyTransport::over(broker.connect(), late, 7);
        // Half of them would arrive while it is parted, and half of them after.
        let begun = Instant::now();
        for number in 0..100 {
            publish(&link, &format!("s.{number}"), "before").await;
        }
        link.set_partitioned(true);
        publish(&link, "s.0", "during").await;
        tokio::time::sleep_until(begun + late.delay_max / 2).await;
        link.set_partitioned(false);
        link.set_faults(Faults::default());
        tokio::time::sleep_until(begun + late.delay_max).await;
        publish(&link, "s.0", "after").await;
        let mut before = 0;
        loop {
            let message = next(&mut heard).await;
            match message.payload.as_ref() {
                b"after" => break,
                b"before" => before += 1,
                other => panic!("{other:?} came"),
            }
        }
        // Some were faster than the cut.
        assert!(before < 50, "{before} of 100 came");
    }
}
