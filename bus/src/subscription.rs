//! The agent's half of the bus: it claims an instance, serves it, and ends with a reason.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::session::{
    ClaimAnswer, ClaimMode, Health, Leaving, Ready, Renewal, RenewalAnswer, SessionOrder,
};
use towline_protocol::subject::{Pattern, Root, Subject, Verb};
use towline_protocol::{CallError, Epoch, InstanceId, wire};

use crate::clock;
use crate::exchange::{Responder, SharedLease};
use crate::metrics::BusMetrics;
use crate::platform::Platform;
use crate::session::{AgentEffect, AgentEvent, AgentSession, Ask, EndReason, Identity};
use crate::task::Tasks;
use crate::transport::{self, LinkState, Message, Transport};

/// How often timers are looked at: fine enough for questions that are repeated every 500 ms.
const TICK: Duration = Duration::from_millis(100);

/// How often a session that is over looks whether its last call has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(250);

/// Answers and orders that wait for the session; the hub sends one for each question.
const ORDERS_MAX: usize = 64;

/// How long calls under way may take to end once nobody hears them any more.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a heartbeat says beside that there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vitals {
    /// How the work stands.
    pub health: Health,
    /// The digest of what is applied.
    pub applied: Bytes,
}

/// What a subscription is told at its start.
pub struct SubscribeConfig {
    /// The first token of every subject.
    pub root: Root,
    /// The instance to serve.
    pub instance: InstanceId,
    /// Who serves it.
    pub identity: Identity,
    /// Whether to take over, or to wait until nobody serves.
    pub mode: ClaimMode,
    /// What heartbeats say; the platform's owner keeps it current.
    pub vitals: watch::Receiver<Vitals>,
    /// Called with each epoch before anything is done under it, so that it can be made durable.
    pub record_epoch: Box<dyn Fn(Epoch) + Send + Sync>,
    /// Called when the hub says go for a new epoch, before any call of it is begun. With it comes
    /// [`SessionOrder::since`]: whoever served last under an older epoch was passed over by another store. Must not block.
    pub begin: Box<dyn Fn(Epoch, Option<Epoch>) + Send + Sync>,
    /// What is counted.
    pub metrics: BusMetrics,
}

impl std::fmt::Debug for SubscribeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscribeConfig")
            .field("instance", &self.instance)
            .field("identity", &self.identity)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// A subscription under way. Dropping it stops serving without a goodbye; [`ActiveSubscription::leave`] says one.
#[derive(Debug)]
pub struct ActiveSubscription {
    serving: watch::Receiver<Option<Epoch>>,
    reason: watch::Receiver<Option<EndReason>>,
    leave: CancellationToken,
    tasks: Tasks,
}

impl ActiveSubscription {
    /// The epoch that is being served, and each change of it.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<Option<Epoch>> {
        self.serving.clone()
    }

    /// Waits until the subscription ends, and says why. Cancel safe.
    pub async fn ended(&mut self) -> EndReason {
        // The session's task always says why, unless it was stopped with its runtime.
        let reason = self.reason.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or(EndReason::Left)
    }

    /// Says goodbye and ends. Calls under way are finished first, for a few seconds.
    pub async fn leave(mut self) -> EndReason {
        self.leave.cancel();
        let reason = self.ended().await;
        self.tasks.stop(STOP_GRACE).await;
        reason
    }
}

impl Drop for ActiveSubscription {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

/// Subscribes a platform for an instance. It goes on through any outage of hub and bus, until it is kicked, the platform
/// gives up, the hub refuses, or it is left or dropped.
///
/// # Errors
/// When the transport does not take the subscription for the hub's answers.
pub async fn subscribe(
    transport: Arc<dyn Transport>,
    config: SubscribeConfig,
    platform: Arc<dyn Platform>,
) -> Result<ActiveSubscription, transport::SubscribeError> {
    let tasks = Tasks::new();
    let boot = config.identity.boot;
    let answers = Pattern::Answers { instance: config.instance.clone(), boot };
    let answers = transport.subscribe(config.root.pattern(&answers), None).await?;
    let counting = config.metrics.clone().count_events(transport.events(), tasks.stopping().clone());
    tasks.spawn("alarms", counting);
    let (serving, is_serving) = watch::channel(None);
    let (reason, ended) = watch::channel(None);
    let leave = CancellationToken::new();
    let lease = Arc::new(SharedLease::default());
    let (fatal, failed) = mpsc::channel(1);
    let responder = Responder::new(transport.clone(), &config, platform, lease.clone(), tasks.clone(), fatal);
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let session = AgentSession::new(config.identity.clone(), config.mode.clone(), seed);
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let driver = Driver {
        transport,
        config,
        session,
        lease,
        responder,
        serving,
        orders,
        ordered,
        failed,
        hearing: None,
        tasks: tasks.clone(),
    };
    tasks.spawn("subscription", driver.run(answers, leave.clone(), reason));
    Ok(ActiveSubscription { serving: is_serving, reason: ended, leave, tasks })
}

struct Driver {
    transport: Arc<dyn Transport>,
    config: SubscribeConfig,
    session: AgentSession,
    lease: Arc<SharedLease>,
    responder: Responder,
    serving: watch::Sender<Option<Epoch>>,
    orders: mpsc::Sender<SessionOrder>,
    ordered: mpsc::Receiver<SessionOrder>,
    failed: mpsc::Receiver<CallError>,
    /// Cancelled to hear an epoch's subjects no more.
    hearing: Option<CancellationToken>,
    tasks: Tasks,
}

impl Driver {
    async fn run(
        mut self,
        mut answers: transport::Subscription,
        leave: CancellationToken,
        reason: watch::Sender<Option<EndReason>>,
    ) {
        let mut link = self.transport.link();
        link.mark_changed();
        let mut ticks = tokio::time::interval(TICK);
        let stopping = self.tasks.stopping().clone();
        let ended = loop {
            let event = tokio::select! {
                () = stopping.cancelled() => break EndReason::Left,
                () = leave.cancelled() => Some(AgentEvent::Leave(EndReason::Left)),
                Some(error) = self.failed.recv() => Some(AgentEvent::Leave(EndReason::Fatal(error))),
                answer = answers.next() => match answer {
                    Some(answer) => self.read_answer(&answer),
                    None => break EndReason::Left,
                },
                Some(order) = self.ordered.recv() => Some(AgentEvent::Ordered(order)),
                Ok(()) = link.changed() => Some(match *link.borrow_and_update() {
                    LinkState::Connected => AgentEvent::LinkUp,
                    LinkState::Disconnected => AgentEvent::LinkDown,
                }),
                _ = ticks.tick() => Some(AgentEvent::Tick),
            };
            let Some(event) = event else { continue };
            if let Some(reason) = self.feed(event).await {
                break reason;
            }
        };
        self.lease.end();
        self.hear_no_more();
        self.serving.send_replace(None);
        tracing::info!(instance = %self.config.instance, reason = %ended, "subscription ended");
        reason.send_replace(Some(ended));
    }

    /// Feeds the machine, and what comes of that, until nothing more does.
    async fn feed(&mut self, event: AgentEvent) -> Option<EndReason> {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            for effect in self.session.handle(clock::now(), event) {
                match effect {
                    AgentEffect::End(reason) => return Some(reason),
                    AgentEffect::Subscribe(epoch) => next = Some(self.hear(epoch).await),
                    AgentEffect::Ask { number, ask } => self.ask(number, &ask).await,
                    AgentEffect::Begin { epoch, since } => (self.config.begin)(epoch, since),
                    AgentEffect::ServeUntil { epoch, until } => {
                        self.lease.extend(epoch, until);
                        self.serving.send_if_modified(|serving| serving.replace(epoch) != Some(epoch));
                    }
                    AgentEffect::HubTime { hub_unix_ms, asked_at } => {
                        self.lease.set_hub_time(hub_unix_ms, asked_at, clock::now());
                    }
                    AgentEffect::StopServing => {
                        self.lease.end();
                        self.serving.send_replace(None);
                    }
                }
            }
        }
        None
    }

    fn read_answer(&self, message: &Message) -> Option<AgentEvent> {
        let event = self.try_read_answer(message);
        if event.is_none() && !message.no_responders {
            self.config.metrics.refusals.with_label_values(&["malformed_answer"]).inc();
        }
        event
    }

    /// What the hub's answer says. Each kind of answer has a field that the others lack, which tells them apart.
    fn try_read_answer(&self, message: &Message) -> Option<AgentEvent> {
        let frame = Frame::decode(&message.payload).ok().filter(|frame| frame.header.kind == Kind::Answer)?;
        let number = frame.header.sequence;
        if let Ok(answer) = wire::decode::<ClaimAnswer>(&frame.body) {
            return Some(AgentEvent::ClaimAnswered { number, answer });
        }
        if let Ok(answer) = wire::decode::<RenewalAnswer>(&frame.body) {
            return Some(AgentEvent::RenewalAnswered { number, answer });
        }
        wire::decode::<SessionOrder>(&frame.body)
            .ok()
            .map(|answer| AgentEvent::ReadyAnswered { number, answer })
    }

    /// Hears an epoch's subjects. The epoch is recorded first: a claim after a restart must exceed it.
    ///
    /// The bus server handles what one connection sends in order; so the hub's answer to the ready that follows proves
    /// that the subscriptions stand: that is the round trip.
    async fn hear(&mut self, epoch: Epoch) -> AgentEvent {
        self.hear_no_more();
        (self.config.record_epoch)(epoch);
        let (root, instance) = (&self.config.root, self.config.instance.clone());
        let calls = root.pattern(&Pattern::Calls { instance: instance.clone(), epoch });
        let controls = root.pattern(&Pattern::Controls { instance, epoch });
        let heard = async {
            Ok::<_, transport::SubscribeError>((
                self.transport.subscribe(calls, None).await?,
                self.transport.subscribe(controls, None).await?,
            ))
        };
        match heard.await {
            Ok((calls, controls)) => {
                let hearing = CancellationToken::new();
                self.hearing = Some(hearing.clone());
                self.lease.expect(epoch);
                self.tasks.spawn("calls", hear_calls(calls, self.responder.clone(), hearing.clone()));
                let root = self.config.root.clone();
                let controls =
                    hear_controls(controls, root, self.responder.clone(), self.orders.clone(), hearing);
                self.tasks.spawn("controls", controls);
                AgentEvent::Subscribed { epoch }
            }
            Err(error) => {
                tracing::warn!(%error, "could not hear an epoch's subjects; trying again");
                AgentEvent::NotSubscribed { epoch }
            }
        }
    }

    fn hear_no_more(&mut self) {
        if let Some(hearing) = self.hearing.take() {
            hearing.cancel();
        }
    }

    async fn ask(&self, number: u32, ask: &Ask) {
        let instance = self.config.instance.clone();
        let boot = self.config.identity.boot;
        let vitals = || self.config.vitals.borrow().clone();
        let verb = |verb| Subject::Ask { instance: instance.clone(), verb };
        let leaving = |epoch: &Epoch| wire::encode(&Leaving { boot, epoch: *epoch });
        let (subject, kind, body) = match ask {
            Ask::Claim(claim) => (verb(Verb::Claim), Kind::Ask, wire::encode(claim)),
            Ask::Ready(epoch) => {
                let ready = Ready { boot, epoch: *epoch, applied: vitals().applied };
                (verb(Verb::Ready), Kind::Ask, wire::encode(&ready))
            }
            Ask::Renewal(epoch) => {
                let Vitals { health, applied } = vitals();
                let renewal = Renewal { boot, epoch: *epoch, applied, health };
                (Subject::Heartbeat { instance: instance.clone() }, Kind::Heartbeat, wire::encode(&renewal))
            }
            Ask::StandDown(epoch) => (verb(Verb::StandDown), Kind::Ask, leaving(epoch)),
            Ask::Goodbye(epoch) => (verb(Verb::Goodbye), Kind::Ask, leaving(epoch)),
        };
        let mut header = Header::new(kind, Encoding::MessagePack);
        header.sequence = number;
        let payload = Frame { header, body: body.into() }.encode();
        self.config.metrics.bytes_out.inc_by(payload.len() as u64);
        // What is not sent is asked again.
        if let Err(error) = self.transport.publish(self.config.root.subject(&subject), None, payload).await {
            tracing::debug!(%error, ?subject, "not sent");
        }
    }
}

async fn hear_calls(mut calls: transport::Subscription, responder: Responder, until: CancellationToken) {
    while let Some(Some(message)) = until.run_until_cancelled(calls.next()).await {
        responder.on_call(&message);
        // What has come meanwhile, without listening for the end before each.
        while let Some(Some(message)) = calls.next().now_or_never() {
            responder.on_call(&message);
        }
    }
}

async fn hear_controls(
    mut controls: transport::Subscription,
    root: Root,
    responder: Responder,
    orders: mpsc::Sender<SessionOrder>,
    until: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = controls.next() => message,
            // Work that goes on after a kick still needs credit for its answer.
            () = until.cancelled(), if responder.is_idle() => return,
            () = tokio::time::sleep(DRAIN_LOOK), if until.is_cancelled() => continue,
        };
        let Some(message) = message else { return };
        match root.parse(&message.subject) {
            Ok(Subject::Session { .. }) => {
                let order =
                    Frame::decode(&message.payload).ok().filter(|frame| frame.header.kind == Kind::Order);
                if let Some(Ok(order)) = order.map(|frame| wire::decode(&frame.body)) {
                    // A full queue: the hub says it again.
                    let _ = orders.try_send(order);
                } else {
                    responder.refuse("malformed_order");
                }
            }
            Ok(Subject::Control { epoch, attempt, .. }) => responder.on_control(epoch, attempt, &message),
            _ => responder.refuse("malformed_subject"),
        }
    }
}
