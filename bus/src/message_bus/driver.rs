//! Feeds the sessions: messages, answers of the authority and time go in; what comes out is done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Semaphore, mpsc};
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::session::{Claim, Leaving, Ready, Renewal};
use towline_protocol::subject::{Root, Subject, Verb};
use towline_protocol::{BootId, Epoch, InstanceId, limits, wire};

use super::roster::{Entry, Roster, Told};
use crate::authority::{Authority, AuthorityError, ClaimId, Grant};
use crate::clock;
use crate::event::{BusEvent, EventKind};
use crate::metrics::BusMetrics;
use crate::presence::{Change, Hearing};
use crate::session::{HubEffect, HubEvent, Question};
use crate::task::Tasks;
use crate::transport::{LinkState, Message, Subscription, Transport};

/// How often presence and waiting claims are looked at: a twentieth of the time in which loss must be noticed.
const TICK: Duration = Duration::from_millis(250);

/// Answers of the authority that wait for the driver.
const ANSWERS_MAX: usize = 1_024;

/// Questions to an authority that does not answer at once: those of ten thousand agents, twice. Beyond that an agent gets no
/// answer, and asks again.
const READS_MAX: usize = 20_000;

/// Changes that the authority is asked for at once: one of each of ten thousand instances, for a session asks for one at a time.
/// Beyond that an agent is refused, and asks again.
const WRITES_MAX: usize = 10_000;

pub(super) struct Driver {
    transport: Arc<dyn Transport>,
    root: Root,
    authority: Arc<dyn Authority>,
    roster: Arc<Roster>,
    metrics: BusMetrics,
    events: mpsc::Sender<BusEvent>,
    tasks: Tasks,
    answers: mpsc::Sender<(InstanceId, HubEvent)>,
    answered: mpsc::Receiver<(InstanceId, HubEvent)>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    hearing: Hearing,
}

impl Driver {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        root: Root,
        authority: Arc<dyn Authority>,
        roster: Arc<Roster>,
        metrics: BusMetrics,
        events: mpsc::Sender<BusEvent>,
        tasks: Tasks,
    ) -> Self {
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let hearing = Hearing::new(clock::now());
        let reads = Arc::new(Semaphore::new(READS_MAX));
        let writes = Arc::new(Semaphore::new(WRITES_MAX));
        Self {
            transport,
            root,
            authority,
            roster,
            metrics,
            events,
            tasks,
            answers,
            answered,
            reads,
            writes,
            hearing,
        }
    }

    pub(super) async fn run(mut self, mut asks: Subscription, mut heartbeats: Subscription) {
        let mut ticks = tokio::time::interval(TICK);
        let mut link = self.transport.link();
        let stopping = self.tasks.stopping().clone();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                message = heartbeats.next() => match message {
                    Some(message) => self.on_message(&message).await,
                    None => return,
                },
                message = asks.next() => match message {
                    Some(message) => self.on_message(&message).await,
                    None => return,
                },
                Some((instance, event)) = self.answered.recv() => self.feed(&instance, event).await,
                _ = ticks.tick() => self.on_tick().await,
                Ok(()) = link.changed() => {
                    if *link.borrow_and_update() == LinkState::Connected {
                        self.metrics.reconnects.inc();
                        self.hearing.regain(clock::now());
                    }
                }
            }
        }
    }

    async fn on_message(&mut self, message: &Message) {
        self.metrics.bytes_in.inc_by(message.payload.len() as u64);
        match self.read(message) {
            Ok((instance, event)) => self.feed(&instance, event).await,
            Err(reason) => self.metrics.refusals.with_label_values(&[reason]).inc(),
        }
    }

    /// What a message says. The instance is the one of the subject, which the bus server vouches for; what stands in the
    /// body is claimed by that instance and no other.
    fn read(&self, message: &Message) -> Result<(InstanceId, HubEvent), &'static str> {
        let subject = self.root.parse(&message.subject).map_err(|_| "malformed_subject")?;
        let frame = Frame::decode(&message.payload).map_err(|_| "malformed_frame")?;
        let number = frame.header.sequence;
        match subject {
            Subject::Heartbeat { instance } => {
                let renewal: Renewal = body(&frame, Kind::Heartbeat)?;
                Ok((instance, HubEvent::Renewal { number, renewal }))
            }
            Subject::Ask { instance, verb } => {
                let event = match verb {
                    Verb::Claim => {
                        HubEvent::Claim { number, claim: checked_claim(body(&frame, Kind::Ask)?)? }
                    }
                    Verb::Ready => HubEvent::Ready { number, ready: body::<Ready>(&frame, Kind::Ask)? },
                    Verb::StandDown => HubEvent::StoodDown { leaving: body::<Leaving>(&frame, Kind::Ask)? },
                    Verb::Goodbye => HubEvent::Goodbye { leaving: body::<Leaving>(&frame, Kind::Ask)? },
                };
                Ok((instance, event))
            }
            _ => Err("malformed_subject"),
        }
    }

    async fn feed(&mut self, instance: &InstanceId, event: HubEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let (effects, told) = self.decide(instance, event);
            self.roster.note_change();
            for told in told {
                self.tell(instance, told);
            }
            for effect in effects {
                events.extend(self.act(instance, effect).await);
            }
        }
    }

    fn decide(&self, instance: &InstanceId, event: HubEvent) -> (Vec<HubEffect>, Vec<Told>) {
        let mut entries = self.roster.lock();
        // Only a claim makes an instance known, or the authority; whatever else comes from a stranger is answered and
        // forgotten.
        let makes_known =
            matches!(event, HubEvent::Claim { .. } | HubEvent::EpochRead { result: Ok(Some(_)), .. });
        let new = || Entry::new(self.authority.replicas());
        let mut stranger = new();
        let entry = match entries.get_mut(instance) {
            Some(entry) => entry,
            None if makes_known => entries.entry(instance.clone()).or_insert_with(new),
            None => &mut stranger,
        };
        entry.handle(clock::now(), event)
    }

    /// Does it. What is known at once comes back as an event.
    async fn act(&mut self, instance: &InstanceId, effect: HubEffect) -> Option<HubEvent> {
        let hub_unix_ms = clock::unix_ms();
        match effect {
            HubEffect::AnswerClaim { boot, number, mut answer } => {
                answer.hub_unix_ms = hub_unix_ms;
                self.answer(instance, boot, number, wire::encode(&answer)).await;
            }
            HubEffect::AnswerReady { boot, number, mut answer } => {
                answer.hub_unix_ms = hub_unix_ms;
                self.answer(instance, boot, number, wire::encode(&answer)).await;
            }
            HubEffect::AnswerRenewal { boot, number, mut answer } => {
                answer.hub_unix_ms = hub_unix_ms;
                self.answer(instance, boot, number, wire::encode(&answer)).await;
            }
            HubEffect::Order(mut order) => {
                order.hub_unix_ms = hub_unix_ms;
                let subject = Subject::Session { instance: instance.clone(), epoch: order.epoch };
                self.publish(&subject, Kind::Order, 0, wire::encode(&order)).await;
            }
            HubEffect::Reserve { boot, nonce, above } => {
                return self.reserve(instance.clone(), ClaimId { boot, nonce }, above);
            }
            HubEffect::ReadEpoch { question } => return self.read_epoch(instance.clone(), question),
            HubEffect::Activate { expected, grant } => {
                return self.activate(instance.clone(), expected, grant);
            }
            HubEffect::NoteEnd { epoch } => self.note_end(instance.clone(), epoch),
            HubEffect::CountKick => self.metrics.kicks.inc(),
            HubEffect::Tell { epoch, kind, detail } => {
                self.tell(instance, Told { epoch, kind, heartbeat: 0, detail })
            }
        }
        None
    }

    /// Asks the authority on a task of its own: a store that is slow for one instance delays no other's heartbeat.
    fn reserve(&self, instance: InstanceId, claim: ClaimId, above: Option<Epoch>) -> Option<HubEvent> {
        let (authority, answers) = (self.authority.clone(), self.answers.clone());
        let Ok(permit) = self.writes.clone().try_acquire_owned() else {
            return Some(HubEvent::Reserved { nonce: claim.nonce, result: Err(too_many()) });
        };
        self.tasks.spawn_isolated("bus reserve", async move {
            let _permit = permit;
            let result = authority.reserve(&instance, claim, above).await;
            // The driver is gone: the hub is stopping.
            let _ = answers.send((instance, HubEvent::Reserved { nonce: claim.nonce, result })).await;
        });
        None
    }

    /// An authority that answers from memory is asked here and now: ten thousand agents ask 5,000 times a second.
    fn read_epoch(&self, instance: InstanceId, question: Question) -> Option<HubEvent> {
        let (authority, answers) = (self.authority.clone(), self.answers.clone());
        let mut reading = Box::pin(async move {
            let result = authority.active(&instance).await;
            (instance, result)
        });
        if let Some((_, result)) = (&mut reading).now_or_never() {
            return Some(HubEvent::EpochRead { question, result });
        }
        let permit = self.reads.clone().try_acquire_owned().ok()?;
        self.tasks.spawn_isolated("bus read epoch", async move {
            let _permit = permit;
            let (instance, result) = reading.await;
            // The driver is gone: the hub is stopping.
            let _ = answers.send((instance, HubEvent::EpochRead { question, result })).await;
        });
        None
    }

    fn activate(&self, instance: InstanceId, expected: Option<Epoch>, grant: Grant) -> Option<HubEvent> {
        let (authority, answers) = (self.authority.clone(), self.answers.clone());
        let epoch = grant.epoch;
        let Ok(permit) = self.writes.clone().try_acquire_owned() else {
            return Some(HubEvent::Activated { epoch, result: Err(too_many()) });
        };
        self.tasks.spawn_isolated("bus activate", async move {
            let _permit = permit;
            let result = authority.activate(&instance, expected, grant).await;
            // The driver is gone: the hub is stopping.
            let _ = answers.send((instance, HubEvent::Activated { epoch, result })).await;
        });
        None
    }

    fn note_end(&self, instance: InstanceId, epoch: Epoch) {
        let authority = self.authority.clone();
        let Ok(permit) = self.writes.clone().try_acquire_owned() else {
            tracing::warn!(%instance, "a goodbye was not noted, for too much is; its lease will be waited for");
            return;
        };
        self.tasks.spawn_isolated("bus note end", async move {
            let _permit = permit;
            if let Err(error) = authority.end(&instance, epoch).await {
                tracing::warn!(%error, %instance, "a goodbye was not noted; its lease will be waited for");
            }
        });
    }

    async fn answer(&self, instance: &InstanceId, boot: BootId, number: u32, body: Vec<u8>) {
        let subject = Subject::Answer { instance: instance.clone(), boot, number };
        self.publish(&subject, Kind::Answer, number, body).await;
    }

    async fn publish(&self, subject: &Subject, kind: Kind, sequence: u32, body: Vec<u8>) {
        let mut header = Header::new(kind, Encoding::MessagePack);
        header.sequence = sequence;
        let payload = Frame { header, body: body.into() }.encode();
        self.metrics.bytes_out.inc_by(payload.len() as u64);
        // What does not get out is asked for again.
        if let Err(error) = self.transport.publish(self.root.subject(subject), None, payload).await {
            tracing::debug!(%error, ?subject, "not sent");
        }
    }

    fn tell(&self, instance: &InstanceId, told: Told) {
        let Told { epoch, kind, heartbeat, detail } = told;
        tracing::info!(%instance, %epoch, %kind, "{detail}");
        let instance = instance.clone();
        let event = BusEvent { instance, epoch, kind, heartbeat, at_unix_ms: clock::unix_ms(), detail };
        if let Err(error) = self.events.try_send(event) {
            tracing::error!(%error, "an event was not stored: whoever stores them does not keep up");
        }
    }

    async fn on_tick(&mut self) {
        let now = clock::now();
        let is_linked = *self.transport.link().borrow() == LinkState::Connected;
        let Some(deaf_until) = self.hearing.look(now, is_linked) else { return };
        let (lost, effects) = {
            let mut entries = self.roster.lock();
            let mut lost = Vec::new();
            let mut effects = Vec::new();
            for (instance, entry) in entries.iter_mut() {
                if let Some(Change::Lost { silent }) = entry.presence.check(now, deaf_until)
                    && let Some(target) = entry.last()
                {
                    let detail = format!("not heard for {} ms", silent.as_millis());
                    let (epoch, heartbeat) = (target.epoch, entry.last_heartbeat);
                    let told = Told { epoch, kind: EventKind::Disconnected, heartbeat, detail };
                    lost.push((instance.clone(), told));
                }
                let due = entry.session.handle(now, HubEvent::Tick);
                effects.extend(due.into_iter().map(|effect| (instance.clone(), effect)));
            }
            (lost, effects)
        };
        for (instance, told) in lost {
            self.tell(&instance, told);
            self.roster.note_change();
        }
        for (instance, effect) in effects {
            if let Some(event) = self.act(&instance, effect).await {
                self.feed(&instance, event).await;
            }
        }
    }
}

fn too_many() -> AuthorityError {
    AuthorityError { reason: format!("{WRITES_MAX} sessions are being changed at this hub") }
}

fn body<T: serde::de::DeserializeOwned>(frame: &Frame, kind: Kind) -> Result<T, &'static str> {
    if frame.header.kind != kind {
        return Err("malformed_frame");
    }
    wire::decode::<T>(&frame.body).map_err(|_| "malformed_body")
}

/// Bounds what a claim makes the hub remember.
fn checked_claim(claim: Claim) -> Result<Claim, &'static str> {
    let is_word = |text: &String| text.len() <= limits::WORD_CHARS_MAX;
    let fits = claim.calls.len() <= limits::CALLS_MAX
        && claim.calls.iter().all(is_word)
        && is_word(&claim.version)
        && is_word(&claim.runtime);
    if fits { Ok(claim) } else { Err("oversized_claim") }
}
