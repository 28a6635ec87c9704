//! The hub's side of an instance's session.

mod words;

use std::collections::VecDeque;
use std::time::Duration;

use towline_protocol::session::{
    Claim, ClaimAnswer, ClaimMode, ClaimOutcome, Leaving, Order, Ready, Renewal, RenewalAnswer,
    RenewalOutcome, SessionOrder,
};
use towline_protocol::{BootId, CallError, Code, Epoch, limits};

use crate::authority::{Activation, AuthorityError, Grant};
use crate::clock::Moment;
use crate::event::EventKind;

pub use self::words::{HubEffect, HubEvent, Target};

/// One instance's session, as the hub decides it.
#[derive(Debug, Clone, Default)]
pub struct HubSession {
    active: Option<Active>,
    claimed: Option<Claimed>,
    takeovers: VecDeque<Moment>,
    duplicate_told: bool,
}

/// The session that was activated last.
#[derive(Debug, Clone)]
struct Active {
    target: Target,
    /// Until then it may act on what it was sent, unless it says that it stood down.
    lease_ends: Moment,
    /// It acknowledged standing down, or said goodbye.
    gone: bool,
    /// The newer epoch that it was told to stand down for.
    kicked_by: Option<Epoch>,
    /// When the kick was said last.
    kick_said: Moment,
    /// The authority was asked to activate a newer one, and may have: from then on nothing lengthens this lease.
    doubted: bool,
}

impl Active {
    fn is_over(&self, now: Moment) -> bool {
        self.gone || now >= self.lease_ends
    }
}

/// The newest claim that is not active yet.
#[derive(Debug, Clone)]
struct Claimed {
    claim: Claim,
    number: u32,
    at: Moment,
    epoch: Option<Epoch>,
    /// The number of the latest ready, once there was one.
    ready: Option<u32>,
    /// The authority was asked to activate it.
    activating: bool,
}

impl HubSession {
    /// What a restarted hub knows: the grant may still be served, so its lease is taken to have been renewed just now,
    /// unless its agent said goodbye.
    #[must_use]
    pub fn restored(now: Moment, grant: &Grant) -> Self {
        let target = Target {
            epoch: grant.epoch,
            boot: grant.boot,
            store: grant.store,
            version: String::new(),
            runtime: String::new(),
            calls: Vec::new(),
        };
        let active = Active { gone: grant.ended, ..Active::new(target, now) };
        Self { active: Some(active), ..Self::default() }
    }

    /// Where calls go now; `None` while nobody may be called.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.active
            .as_ref()
            .filter(|active| !active.gone && active.kicked_by.is_none() && !active.doubted)
            .map(|active| &active.target)
    }

    /// The session that was active last, whether it may be called or not.
    #[must_use]
    pub fn last(&self) -> Option<&Target> {
        self.active.as_ref().map(|active| &active.target)
    }

    /// Decides what an event means.
    pub fn handle(&mut self, now: Moment, event: HubEvent) -> Vec<HubEffect> {
        let mut effects = Vec::new();
        match event {
            HubEvent::Claim { number, claim } => self.on_claim(now, number, claim, &mut effects),
            HubEvent::Reserved { nonce, result } => self.on_reserved(nonce, result, &mut effects),
            HubEvent::Ready { number, ready } => self.on_ready(now, number, &ready, &mut effects),
            HubEvent::Activated { epoch, result } => self.on_activated(now, epoch, result, &mut effects),
            HubEvent::Renewal { number, renewal } => self.on_renewal(now, number, &renewal, &mut effects),
            HubEvent::StoodDown { leaving } => {
                self.mark_gone(&leaving);
                self.advance(now, &mut effects);
            }
            HubEvent::Goodbye { leaving } => {
                if self.mark_gone(&leaving) {
                    effects.push(HubEffect::NoteEnd { epoch: leaving.epoch });
                    effects.push(tell(leaving.epoch, EventKind::Left, "the agent said goodbye"));
                }
                self.claimed.take_if(|claimed| claimed.claim.boot == leaving.boot && !claimed.activating);
                self.advance(now, &mut effects);
            }
            HubEvent::Tick => self.on_tick(now, &mut effects),
        }
        effects
    }

    fn on_claim(&mut self, now: Moment, number: u32, claim: Claim, effects: &mut Vec<HubEffect>) {
        let answer = |outcome, epoch, holder| HubEffect::AnswerClaim {
            boot: claim.boot,
            number,
            answer: claim_answer(claim.nonce, outcome, epoch, holder),
        };
        // A repetition returns the same epoch.
        if let Some(claimed) = self.claimed.as_mut()
            && (claimed.claim.boot, claimed.claim.nonce) == (claim.boot, claim.nonce)
        {
            claimed.number = number;
            claimed.at = now;
            effects.extend(claimed.epoch.map(|epoch| answer(ClaimOutcome::Reserved, Some(epoch), None)));
            return;
        }
        if self.may_resume(&claim) {
            let Some(active) = self.active.as_mut() else { return };
            active.lease_ends = now + limits::LEASE_HUB;
            active.target = target_of(active.target.epoch, &claim);
            effects.push(answer(ClaimOutcome::Resumed, Some(active.target.epoch), None));
            return;
        }
        let holder = self.holder(now, claim.boot);
        let stands_by = match claim.mode {
            ClaimMode::Standby => holder.is_some(),
            _ => holder.is_some() && self.is_contended(now, effects),
        };
        if stands_by {
            effects.push(answer(ClaimOutcome::Standby, None, holder));
            return;
        }
        effects.push(HubEffect::Reserve { nonce: claim.nonce, above: claim.last_epoch });
        self.claimed = Some(Claimed { claim, number, at: now, epoch: None, ready: None, activating: false });
    }

    /// Resume by the same boot while nobody else was activated, nor is about to be.
    fn may_resume(&self, claim: &Claim) -> bool {
        claim.mode == ClaimMode::Resume
            && self.active.as_ref().is_some_and(|active| {
                active.target.boot == claim.boot
                    && claim.held == Some(active.target.epoch)
                    && active.kicked_by.is_none()
                    && !active.gone
                    && !active.doubted
            })
    }

    /// The epoch, or the one to be, that another process holds now.
    fn holder(&self, now: Moment, boot: BootId) -> Option<Epoch> {
        let claimed = self
            .claimed
            .as_ref()
            .filter(|claimed| claimed.claim.boot != boot)
            .and_then(|claimed| claimed.epoch);
        let active = self.active.as_ref().filter(|active| active.target.boot != boot && !active.is_over(now));
        claimed.or_else(|| active.map(|active| active.target.epoch))
    }

    /// Whether agents keep taking the instance from each other. Says so once per bout.
    fn is_contended(&mut self, now: Moment, effects: &mut Vec<HubEffect>) -> bool {
        while self.takeovers.front().is_some_and(|first| now.since(*first) > limits::TAKEOVER_WINDOW) {
            self.takeovers.pop_front();
            self.duplicate_told = false;
        }
        if self.takeovers.len() < limits::TAKEOVERS_MAX {
            return false;
        }
        if let (false, Some(active)) = (self.duplicate_told, &self.active) {
            self.duplicate_told = true;
            let detail = "agents keep taking this instance from each other; later ones stand by until the holder is gone";
            effects.push(tell(active.target.epoch, EventKind::Duplicate, detail));
        }
        true
    }

    fn on_reserved(
        &mut self,
        nonce: u64,
        result: Result<Epoch, AuthorityError>,
        effects: &mut Vec<HubEffect>,
    ) {
        // A newer claim may have replaced this one meanwhile; its reservation then ends unused.
        let Some(claimed) = self.claimed.as_mut().filter(|claimed| claimed.claim.nonce == nonce) else {
            return;
        };
        let answer = match result {
            Ok(epoch) => {
                claimed.epoch = Some(epoch);
                claim_answer(nonce, ClaimOutcome::Reserved, Some(epoch), None)
            }
            Err(error) => {
                let refused = claim_answer(nonce, ClaimOutcome::Refused, None, None);
                ClaimAnswer { error: Some(CallError::new(Code::Busy, error.to_string())), ..refused }
            }
        };
        let (boot, number) = (claimed.claim.boot, claimed.number);
        if claimed.epoch.is_none() {
            self.claimed = None;
        }
        effects.push(HubEffect::AnswerClaim { boot, number, answer });
    }

    fn on_ready(&mut self, now: Moment, number: u32, ready: &Ready, effects: &mut Vec<HubEffect>) {
        let (boot, epoch) = (ready.boot, ready.epoch);
        let answer = |order, by| HubEffect::AnswerReady { boot, number, answer: order_to(order, epoch, by) };
        if let Some(active) = &mut self.active
            && (active.target.epoch, active.target.boot) == (epoch, boot)
        {
            if active.kicked_by.is_some() || active.gone {
                effects.push(answer(Order::Kick, active.kicked_by));
            } else if active.doubted {
                // Whoever is being activated decides; if nobody is any more, let it come back.
                effects.extend(self.claimed.is_none().then(|| answer(Order::Kick, None)));
            } else {
                // The agent's lease counts from this very question, so ours must count from its answer.
                active.lease_ends = now + limits::LEASE_HUB;
                effects.push(answer(Order::Go, None));
            }
            return;
        }
        let Some(claimed) = self.claimed.as_mut().filter(|claimed| claimed.epoch == Some(epoch)) else {
            let by = self.active.as_ref().map(|active| active.target.epoch).filter(|active| *active > epoch);
            let by = by.or_else(|| self.claimed.as_ref().and_then(|claimed| claimed.epoch));
            effects.push(answer(Order::Kick, by));
            return;
        };
        claimed.ready = Some(number);
        claimed.at = now;
        self.advance(now, effects);
        if self.claimed.as_ref().is_some_and(|claimed| !claimed.activating) {
            effects.push(answer(Order::Wait, None));
        }
    }

    /// Moves a ready claim on: kicks what is active, and activates once that is over.
    fn advance(&mut self, now: Moment, effects: &mut Vec<HubEffect>) {
        // Who fell silent while it waited would be shown as connected, and be called, though nobody is there.
        let is_due = |claimed: &&mut Claimed| {
            claimed.ready.is_some() && !claimed.activating && now.since(claimed.at) <= limits::RENEW_EVERY
        };
        let Some(claimed) = self.claimed.as_mut().filter(is_due) else { return };
        let Some(epoch) = claimed.epoch else { return };
        if let Some(active) = self.active.as_mut() {
            // The same process claims anew only once its older session has ended.
            if active.target.boot != claimed.claim.boot && !active.is_over(now) {
                kick(active, now, epoch, effects);
                return;
            }
        }
        claimed.activating = true;
        if let Some(active) = &mut self.active {
            active.doubted = true;
        }
        let grant = Grant { epoch, boot: claimed.claim.boot, store: claimed.claim.store, ended: false };
        let expected = self.active.as_ref().map(|active| active.target.epoch);
        effects.push(HubEffect::Activate { expected, grant });
    }

    fn on_activated(
        &mut self,
        now: Moment,
        epoch: Epoch,
        result: Result<Activation, AuthorityError>,
        effects: &mut Vec<HubEffect>,
    ) {
        let Some(claimed) = self.claimed.take_if(|claimed| claimed.epoch == Some(epoch)) else { return };
        match result {
            Ok(Activation::Won) => {
                let older = self.active.take().filter(|older| older.kicked_by.is_some());
                if let Some(older) = older {
                    self.takeovers.push_back(now);
                    let detail = format!("took over from epoch {}", older.target.epoch);
                    effects.push(tell(epoch, EventKind::Takeover, &detail));
                }
                let target = target_of(epoch, &claimed.claim);
                effects.push(tell(epoch, EventKind::Connected, &connected_detail(&target)));
                self.active = Some(Active::new(target, now));
                effects.push(HubEffect::Order(order_to(Order::Go, epoch, None)));
                if let Some(number) = claimed.ready {
                    let answer = order_to(Order::Go, epoch, None);
                    effects.push(HubEffect::AnswerReady { boot: claimed.claim.boot, number, answer });
                }
            }
            // An earlier attempt whose outcome was not known had taken effect after all.
            Ok(Activation::Lost { active: Some(grant) }) if grant.epoch == epoch => {
                self.claimed = Some(claimed);
                self.on_activated(now, epoch, Ok(Activation::Won), effects);
            }
            Ok(Activation::Lost { active }) => {
                // Another replica was faster. What it activated is what counts.
                let by = active.as_ref().map(|grant| grant.epoch);
                *self = active.map_or_else(Self::default, |grant| Self::restored(now, &grant));
                effects.push(HubEffect::Order(order_to(Order::Kick, epoch, by)));
            }
            // Not known, or not written: ask again at the next tick.
            Ok(Activation::Unknown) | Err(_) => self.claimed = Some(Claimed { activating: false, ..claimed }),
        }
    }

    fn on_renewal(&mut self, now: Moment, number: u32, renewal: &Renewal, effects: &mut Vec<HubEffect>) {
        let epoch = renewal.epoch;
        let (outcome, by) = match &mut self.active {
            Some(active) if (active.target.epoch, active.target.boot) == (epoch, renewal.boot) => {
                match active.kicked_by {
                    Some(by) => (RenewalOutcome::Kicked, Some(by)),
                    // Its lease had ended, and a newer one is being activated: neither yes nor no is true yet.
                    None if active.doubted && self.claimed.is_some() => return,
                    // A hub that was restarted does not know what the agent can: let it claim, to resume.
                    None if active.gone || active.doubted || active.target.calls.is_empty() => {
                        (RenewalOutcome::Unknown, None)
                    }
                    None => {
                        active.lease_ends = now + limits::LEASE_HUB;
                        (RenewalOutcome::Renewed, None)
                    }
                }
            }
            Some(active) if active.target.epoch > epoch => {
                (RenewalOutcome::Kicked, Some(active.target.epoch))
            }
            _ => (RenewalOutcome::Unknown, None),
        };
        let answer = RenewalAnswer { outcome, epoch, by, hub_unix_ms: 0 };
        effects.push(HubEffect::AnswerRenewal { boot: renewal.boot, number, answer });
    }

    /// Whether it was the active session that left.
    fn mark_gone(&mut self, leaving: &Leaving) -> bool {
        let active = self.active.as_mut().filter(|active| {
            (active.target.epoch, active.target.boot) == (leaving.epoch, leaving.boot) && !active.gone
        });
        active.is_some_and(|active| {
            active.gone = true;
            true
        })
    }

    fn on_tick(&mut self, now: Moment, effects: &mut Vec<HubEffect>) {
        self.claimed
            .take_if(|claimed| !claimed.activating && now.since(claimed.at) > limits::RESERVATION_MAX);
        self.advance(now, effects);
    }
}

impl Active {
    fn new(target: Target, now: Moment) -> Self {
        let lease_ends = now + limits::LEASE_HUB;
        Self { target, lease_ends, gone: false, kicked_by: None, kick_said: now, doubted: false }
    }
}

/// Tells the active session to stand down, and says it again as long as it does not.
fn kick(active: &mut Active, now: Moment, by: Epoch, effects: &mut Vec<HubEffect>) {
    const AGAIN: Duration = limits::ASK_AGAIN_AFTER;
    let epoch = active.target.epoch;
    if active.kicked_by.is_none() {
        effects.push(HubEffect::CountKick);
        effects.push(tell(epoch, EventKind::Kicked, &format!("told to stand down for epoch {by}")));
    } else if now.since(active.kick_said) < AGAIN && active.kicked_by == Some(by) {
        return;
    }
    active.kicked_by = Some(by);
    active.kick_said = now;
    effects.push(HubEffect::Order(order_to(Order::Kick, epoch, Some(by))));
}

fn target_of(epoch: Epoch, claim: &Claim) -> Target {
    Target {
        epoch,
        boot: claim.boot,
        store: claim.store,
        version: claim.version.clone(),
        runtime: claim.runtime.clone(),
        calls: claim.calls.clone(),
    }
}

fn connected_detail(target: &Target) -> String {
    format!("agent {} on runtime {} serves", target.version, target.runtime)
}

fn claim_answer(
    nonce: u64,
    outcome: ClaimOutcome,
    epoch: Option<Epoch>,
    holder: Option<Epoch>,
) -> ClaimAnswer {
    let renew_every_ms = u64::try_from(limits::RENEW_EVERY.as_millis()).ok();
    ClaimAnswer { outcome, nonce, epoch, holder, renew_every_ms, hub_unix_ms: 0, error: None }
}

fn order_to(order: Order, epoch: Epoch, by: Option<Epoch>) -> SessionOrder {
    SessionOrder { order, epoch, by, hub_unix_ms: 0 }
}

fn tell(epoch: Epoch, kind: EventKind, detail: &str) -> HubEffect {
    HubEffect::Tell { epoch, kind, detail: detail.to_owned() }
}
