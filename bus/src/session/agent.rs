//! The agent's side of its session.

mod words;

use std::collections::VecDeque;
use std::time::Duration;

use towline_protocol::session::{
    Claim, ClaimAnswer, ClaimMode, ClaimOutcome, Order, RenewalAnswer, RenewalOutcome, SessionOrder,
};
use towline_protocol::{CallError, Epoch, limits};

use crate::clock::Moment;

pub use self::words::{AgentEffect, AgentEvent, Ask, EndReason, Identity};

/// Questions to an absent hub come no more often than this in the end: ten thousand agents then ask it 2,500 to 5,000
/// times a second together, which it answers.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(4);

/// Questions under way whose sending times are kept. More than this many unanswered are two leases long.
const QUESTIONS_KEPT: usize = 16;

#[derive(Debug, Clone)]
enum Phase {
    /// A claim is under way, or about to be.
    Claiming { claim: Claim, sent: Sent, tries: u32 },
    /// Somebody else serves; ask again at this moment.
    StandingBy { ask_at: Moment },
    /// Waiting until the epoch's subjects are heard; `retry_at` when that failed.
    Subscribing { epoch: Epoch, mode: ClaimMode, retry_at: Option<Moment> },
    /// Waiting for go, as it was claimed; a hub said at `heard` that it knows of it.
    Readying { epoch: Epoch, mode: ClaimMode, sent: Sent, heard: Moment },
    /// Serving, as long as renewals are answered.
    Serving { epoch: Epoch, sent: Sent, renew_at: Moment },
    /// Over.
    Ended,
}

/// When each question was sent. A lease counts from the sending of the very question that was answered: an answer that
/// waited in the buffers of a frozen process must not count from a question that was asked after the thaw.
#[derive(Debug, Clone, Default)]
struct Sent(VecDeque<(u32, Moment)>);

impl Sent {
    fn note(&mut self, number: u32, now: Moment) {
        self.0.push_back((number, now));
        while self.0.len() > QUESTIONS_KEPT {
            self.0.pop_front();
        }
    }

    fn last(&self) -> Option<Moment> {
        self.0.back().map(|(_, at)| *at)
    }

    fn at(&self, number: u32) -> Option<Moment> {
        self.0.iter().find(|(known, _)| *known == number).map(|(_, at)| *at)
    }
}

/// An agent's session, as the agent decides it.
#[derive(Debug, Clone)]
pub struct AgentSession {
    identity: Identity,
    phase: Phase,
    linked: bool,
    last_number: u32,
    renew_every: Duration,
    random: u64,
}

impl AgentSession {
    /// A session that will claim once the bus is reached. `seed` is where its nonces and jitter come from.
    #[must_use]
    pub fn new(identity: Identity, mode: ClaimMode, seed: u64) -> Self {
        let mut session = Self {
            identity,
            phase: Phase::Ended,
            linked: false,
            last_number: 0,
            renew_every: limits::RENEW_EVERY,
            random: seed,
        };
        session.phase = session.claiming(mode, None);
        session
    }

    /// The epoch that is being served, or was until the lease ran out.
    #[must_use]
    pub const fn serving(&self) -> Option<Epoch> {
        match &self.phase {
            Phase::Serving { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    /// Decides what an event means.
    pub fn handle(&mut self, now: Moment, event: AgentEvent) -> Vec<AgentEffect> {
        let mut effects = Vec::new();
        match event {
            AgentEvent::LinkUp => {
                self.linked = true;
                self.hurry(now);
                self.on_tick(now, &mut effects);
            }
            AgentEvent::LinkDown => self.linked = false,
            AgentEvent::ClaimAnswered { number, answer } => {
                self.on_claim_answer(now, number, answer, &mut effects);
            }
            AgentEvent::ReadyAnswered { number, answer } => {
                self.on_ready_answer(now, number, &answer, &mut effects);
            }
            AgentEvent::Subscribed { epoch } => self.on_subscribed(now, epoch, &mut effects),
            AgentEvent::NotSubscribed { epoch } => {
                if let Phase::Subscribing { epoch: wanted, retry_at, .. } = &mut self.phase
                    && *wanted == epoch
                {
                    *retry_at = Some(now + limits::ASK_AGAIN_AFTER);
                }
            }
            AgentEvent::Ordered(order) => self.on_order(now, &order, &mut effects),
            AgentEvent::RenewalAnswered { number, answer } => {
                self.on_renewal_answer(now, number, &answer, &mut effects);
            }
            AgentEvent::Leave(reason) => self.end(now, reason, &mut effects),
            AgentEvent::Tick => self.on_tick(now, &mut effects),
        }
        effects
    }

    fn on_tick(&mut self, now: Moment, effects: &mut Vec<AgentEffect>) {
        if !self.linked {
            return;
        }
        match &mut self.phase {
            Phase::Claiming { claim, sent, tries } => {
                let pause = (limits::ASK_AGAIN_AFTER * 2_u32.pow((*tries).min(4))).min(ASK_PAUSE_MAX);
                let spread = pause.mul_f64(0.5 + 0.5 * fraction(next_random(&mut self.random)));
                if sent.last().is_some_and(|last| now.since(last) < spread) {
                    return;
                }
                if sent.last().is_some() {
                    *tries = tries.saturating_add(1);
                }
                let ask = Ask::Claim(claim.clone());
                self.ask(now, ask, effects);
            }
            Phase::StandingBy { ask_at } if now >= *ask_at => {
                self.phase = self.claiming(ClaimMode::Standby, None);
                self.on_tick(now, effects);
            }
            Phase::Subscribing { epoch, retry_at, .. } if retry_at.is_some_and(|at| now >= at) => {
                *retry_at = None;
                effects.push(AgentEffect::Subscribe(*epoch));
            }
            // The hub that reserved it is gone, and no other knows of it.
            Phase::Readying { mode, heard, .. } if now.since(*heard) > limits::RESERVATION_MAX => {
                let mode = mode.clone();
                self.phase = self.claiming(mode, None);
                self.on_tick(now, effects);
            }
            Phase::Readying { epoch, sent, .. }
                if sent.last().is_none_or(|last| now.since(last) >= limits::ASK_AGAIN_AFTER) =>
            {
                let ask = Ask::Ready(*epoch);
                self.ask(now, ask, effects);
            }
            Phase::Serving { epoch, renew_at, .. } if now >= *renew_at => {
                *renew_at = now + self.renew_every;
                let ask = Ask::Renewal(*epoch);
                self.ask(now, ask, effects);
            }
            _ => {}
        }
    }

    /// After the link came back, nothing waits for its timer.
    fn hurry(&mut self, now: Moment) {
        match &mut self.phase {
            Phase::Claiming { sent, tries, .. } => (*sent, *tries) = (Sent::default(), 0),
            Phase::Readying { sent, heard, .. } => (*sent, *heard) = (Sent::default(), now),
            Phase::Serving { renew_at, .. } => *renew_at = now,
            Phase::Subscribing { retry_at, .. } => *retry_at = retry_at.map(|_| now),
            Phase::StandingBy { .. } | Phase::Ended => {}
        }
    }

    fn on_claim_answer(
        &mut self,
        now: Moment,
        number: u32,
        answer: ClaimAnswer,
        effects: &mut Vec<AgentEffect>,
    ) {
        let Phase::Claiming { claim, sent, .. } = &self.phase else { return };
        let Some(asked_at) = sent.at(number).filter(|_| claim.nonce == answer.nonce) else { return };
        let (held, mode) = (claim.held, claim.mode.clone());
        effects.push(AgentEffect::HubTime { hub_unix_ms: answer.hub_unix_ms, asked_at });
        if let Some(every) = answer.renew_every_ms {
            // Never longer than what keeps a lease of ours: a hub that asks for more means another protocol version.
            self.renew_every =
                Duration::from_millis(every).clamp(limits::RENEW_EVERY / 4, limits::RENEW_EVERY);
        }
        match (answer.outcome, answer.epoch) {
            (ClaimOutcome::Reserved, Some(epoch)) => {
                effects.extend(held.map(|_| AgentEffect::StopServing));
                let mode = if mode == ClaimMode::Standby { mode } else { ClaimMode::Fresh };
                self.phase = Phase::Subscribing { epoch, mode, retry_at: None };
                effects.push(AgentEffect::Subscribe(epoch));
            }
            (ClaimOutcome::Resumed, Some(epoch)) if held == Some(epoch) => {
                // The next renewal comes in its time: one hub that never heard the claim, beside another that did, must not
                // make us claim and renew in a circle.
                self.serve(now, now + self.renew_every, epoch, asked_at, effects);
            }
            (ClaimOutcome::Standby, _) if held.is_some() => {
                // Somebody else serves what was ours.
                let by = answer.holder;
                self.end(now, EndReason::Kicked { by }, effects);
            }
            (ClaimOutcome::Refused, _) => {
                let error = answer.error.unwrap_or_else(|| {
                    CallError::new(
                        towline_protocol::Code::Denied,
                        "the hub refused the claim without a reason",
                    )
                });
                if error.code == towline_protocol::Code::Busy {
                    self.stand_by(now);
                } else {
                    self.end(now, EndReason::Refused(error), effects);
                }
            }
            // Standby, or an answer of a newer hub: ask again later.
            _ => self.stand_by(now),
        }
    }

    fn stand_by(&mut self, now: Moment) {
        let spread = limits::STANDBY_ASK_MIN.mul_f64(1.0 + fraction(next_random(&mut self.random)));
        self.phase = Phase::StandingBy { ask_at: now + spread };
    }

    fn on_subscribed(&mut self, now: Moment, epoch: Epoch, effects: &mut Vec<AgentEffect>) {
        let Phase::Subscribing { epoch: wanted, mode, .. } = &self.phase else { return };
        if *wanted == epoch {
            self.phase = Phase::Readying { epoch, mode: mode.clone(), sent: Sent::default(), heard: now };
            self.on_tick(now, effects);
        }
    }

    fn on_ready_answer(
        &mut self,
        now: Moment,
        number: u32,
        answer: &SessionOrder,
        effects: &mut Vec<AgentEffect>,
    ) {
        let Phase::Readying { epoch, sent, heard, .. } = &mut self.phase else { return };
        let Some(asked_at) = sent.at(number).filter(|_| *epoch == answer.epoch) else { return };
        let epoch = *epoch;
        effects.push(AgentEffect::HubTime { hub_unix_ms: answer.hub_unix_ms, asked_at });
        match answer.order {
            Order::Go => {
                effects.push(AgentEffect::Begin { epoch, since: answer.since });
                self.serve(now, now, epoch, asked_at, effects);
            }
            Order::Kick => self.end(now, EndReason::Kicked { by: answer.by }, effects),
            // Wait, or an answer of a newer hub: ask again in time.
            _ => *heard = now,
        }
    }

    fn on_order(&mut self, now: Moment, order: &SessionOrder, effects: &mut Vec<AgentEffect>) {
        let mine = match &self.phase {
            Phase::Readying { epoch, .. }
            | Phase::Subscribing { epoch, .. }
            | Phase::Serving { epoch, .. } => *epoch,
            Phase::Claiming { claim: Claim { held: Some(held), .. }, .. } => *held,
            Phase::Claiming { .. } | Phase::StandingBy { .. } | Phase::Ended => return,
        };
        if order.epoch != mine {
            return;
        }
        match order.order {
            Order::Kick => self.end(now, EndReason::Kicked { by: order.by }, effects),
            // It answers no question, so no lease can count from it: ask, and be told at once.
            Order::Go => {
                if let Phase::Readying { epoch, .. } = &self.phase {
                    let ask = Ask::Ready(*epoch);
                    self.ask(now, ask, effects);
                }
            }
            _ => {}
        }
    }

    fn on_renewal_answer(
        &mut self,
        now: Moment,
        number: u32,
        answer: &RenewalAnswer,
        effects: &mut Vec<AgentEffect>,
    ) {
        let Phase::Serving { epoch, sent, .. } = &self.phase else { return };
        let epoch = *epoch;
        if answer.epoch != epoch {
            return;
        }
        let Some(asked_at) = sent.at(number) else { return };
        effects.push(AgentEffect::HubTime { hub_unix_ms: answer.hub_unix_ms, asked_at });
        match answer.outcome {
            RenewalOutcome::Renewed => {
                effects.push(AgentEffect::ServeUntil { epoch, until: asked_at + limits::LEASE_AGENT });
            }
            RenewalOutcome::Kicked => self.end(now, EndReason::Kicked { by: answer.by }, effects),
            // The hub does not know us any more: ask it whether we may go on. The lease runs out meanwhile, if it must.
            _ => {
                self.phase = self.claiming(ClaimMode::Resume, Some(epoch));
                self.on_tick(now, effects);
            }
        }
    }

    /// Serves from now; the lease counts from when the answered question was sent.
    fn serve(
        &mut self,
        now: Moment,
        renew_at: Moment,
        epoch: Epoch,
        asked_at: Moment,
        effects: &mut Vec<AgentEffect>,
    ) {
        self.identity.last_epoch = Some(epoch);
        self.phase = Phase::Serving { epoch, sent: Sent::default(), renew_at };
        effects.push(AgentEffect::ServeUntil { epoch, until: asked_at + limits::LEASE_AGENT });
        self.on_tick(now, effects);
    }

    /// Stops serving, tells the hub so, and ends.
    fn end(&mut self, now: Moment, reason: EndReason, effects: &mut Vec<AgentEffect>) {
        let epoch = match &self.phase {
            Phase::Subscribing { epoch, .. }
            | Phase::Readying { epoch, .. }
            | Phase::Serving { epoch, .. } => Some(*epoch),
            Phase::Claiming { claim, .. } => claim.held,
            Phase::StandingBy { .. } => None,
            Phase::Ended => return,
        };
        self.phase = Phase::Ended;
        effects.push(AgentEffect::StopServing);
        if let Some(epoch) = epoch {
            let ask = match &reason {
                EndReason::Kicked { .. } => Ask::StandDown(epoch),
                _ => Ask::Goodbye(epoch),
            };
            self.ask(now, ask, effects);
        }
        effects.push(AgentEffect::End(reason));
    }

    fn claiming(&mut self, mode: ClaimMode, held: Option<Epoch>) -> Phase {
        let claim = Claim {
            boot: self.identity.boot,
            nonce: next_random(&mut self.random),
            store: self.identity.store,
            mode,
            last_epoch: self.identity.last_epoch,
            held,
            version: self.identity.version.clone(),
            runtime: self.identity.runtime.clone(),
            calls: self.identity.calls.clone(),
        };
        Phase::Claiming { claim, sent: Sent::default(), tries: 0 }
    }

    fn ask(&mut self, now: Moment, ask: Ask, effects: &mut Vec<AgentEffect>) {
        self.last_number = self.last_number.wrapping_add(1);
        let number = self.last_number;
        if let Phase::Claiming { sent, .. } | Phase::Readying { sent, .. } | Phase::Serving { sent, .. } =
            &mut self.phase
        {
            sent.note(number, now);
        }
        effects.push(AgentEffect::Ask { number, ask });
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): jitter and nonces need no
/// better, and a machine that carries its own seed replays exactly.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in [0, 1).
fn fraction(random: u64) -> f64 {
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}
