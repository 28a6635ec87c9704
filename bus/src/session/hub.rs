//! The hub's side of an instance's session.
//!
//! *No* is said from memory: an epoch that was replaced once never comes back. *Yes* is said only by what the authority
//! tells after the question came ([`Question`]), so that it does not matter which replica is asked, nor how old its view is.

mod active;
mod claims;
mod say;
mod words;

use std::collections::VecDeque;

use towline_protocol::session::{
    Claim, ClaimMode, ClaimOutcome, Leaving, Order, Ready, Renewal, RenewalOutcome,
};
use towline_protocol::{BootId, Epoch, limits};

use crate::authority::{Activation, AuthorityError, Grant, Replicas};
use crate::clock::Moment;
use crate::event::EventKind;

use self::active::{Active, Stage, confirms};
use self::say::{
    answer_go, answer_ready, answer_renewal, claim_answer, connected, order_to, target_of, tell,
};

pub use self::words::{HubEffect, HubEvent, Question, Target};

/// One instance's session, as the hub decides it.
#[derive(Debug, Clone)]
pub struct HubSession {
    replicas: Replicas,
    active: Option<Active>,
    claimed: Option<Claimed>,
    activating: Option<Claimed>,
    /// The nonce of the claim for which the authority was asked to reserve an epoch, and when. One at a time, whatever claims come.
    reserving: Option<(u64, Moment)>,
    takeovers: VecDeque<Moment>,
    duplicate_told: bool,
}

/// A claim that is not active yet. In [`HubSession::claimed`] it is the newest; in [`HubSession::activating`] the authority
/// was asked to activate it, and has not answered.
#[derive(Debug, Clone)]
struct Claimed {
    claim: Claim,
    number: u32,
    /// When anything of it was heard last.
    at: Moment,
    epoch: Option<Epoch>,
    /// The number of the latest ready, once there was one.
    ready: Option<u32>,
    /// As [`Grant::since`], once the authority was asked to activate it.
    since: Option<Epoch>,
}

impl HubSession {
    /// Nobody served yet.
    #[must_use]
    pub const fn new(replicas: Replicas) -> Self {
        Self {
            replicas,
            active: None,
            claimed: None,
            activating: None,
            reserving: None,
            takeovers: VecDeque::new(),
            duplicate_told: false,
        }
    }

    /// What a restarted hub knows: the grant may still be served, so its lease is taken to have been renewed just now,
    /// unless its agent said goodbye.
    #[must_use]
    pub fn restored(replicas: Replicas, now: Moment, grant: &Grant) -> Self {
        Self { active: Some(Active::learned(grant, now)), ..Self::new(replicas) }
    }

    /// Where calls go now; `None` while nobody may be called, or has not said yet what it can.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        let serves = |active: &&Active| {
            matches!(active.stage, Stage::Begun) && !active.gone && !active.target.calls.is_empty()
        };
        self.active.as_ref().filter(serves).map(|active| &active.target)
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
            HubEvent::Reserved { nonce, result } => self.on_reserved(now, nonce, result, &mut effects),
            HubEvent::Ready { number, ready } => self.on_ready(now, number, &ready, &mut effects),
            HubEvent::Activated { epoch, result } => self.on_activated(now, epoch, result, &mut effects),
            HubEvent::Renewal { number, renewal } => self.on_renewal(number, &renewal, &mut effects),
            HubEvent::StoodDown { leaving } => {
                self.note_gone(&leaving);
                self.move_on(now, &mut effects);
            }
            HubEvent::Goodbye { leaving } => self.on_goodbye(now, &leaving, &mut effects),
            HubEvent::EpochRead { question, result: Ok(grant) } => {
                self.on_read(now, question, grant.as_ref(), &mut effects);
            }
            // Nobody knows, so there is no answer. It will be asked again.
            HubEvent::EpochRead { result: Err(_), .. } => {}
            HubEvent::Tick => {
                self.claimed.take_if(|claimed| now.since(claimed.at) > limits::RESERVATION_MAX);
                self.move_on(now, &mut effects);
                self.activate(now, &mut effects);
            }
        }
        effects
    }

    fn on_ready(&mut self, now: Moment, number: u32, ready: &Ready, effects: &mut Vec<HubEffect>) {
        let (boot, epoch) = (ready.boot, ready.epoch);
        let asked = (number, boot, epoch);
        if let Some(active) = self.active.as_mut().filter(|active| active.target.epoch >= epoch) {
            if !active.is(epoch, boot) || active.gone {
                let by = Some(active.target.epoch).filter(|by| *by > epoch);
                effects.push(answer_ready(asked, Order::Kick, by));
                return;
            }
            active.lease_ends = now + limits::LEASE_HUB;
            active.ready = Some((number, now));
            self.move_on(now, effects);
            if self.active.as_ref().is_some_and(|active| active.ready.is_some()) {
                effects.push(answer_ready(asked, Order::Wait, None));
            }
            return;
        }
        let mut is_ours = false;
        for claimed in self.claimed.iter_mut().chain(&mut self.activating) {
            if claimed.epoch == Some(epoch) {
                (claimed.ready, claimed.at, is_ours) = (Some(number), now, true);
            }
            // One that is older is kicked once the newer one is active; should that never be, it is forgotten in time.
            is_ours |= claimed.epoch.is_none_or(|by| by > epoch);
        }
        let was_activating = self.activating.is_some();
        self.activate(now, effects);
        if is_ours {
            let waits = was_activating || self.activating.is_none();
            effects.extend(waits.then(|| answer_ready(asked, Order::Wait, None)));
        } else if self.replicas == Replicas::One {
            // A reservation that nobody remembers.
            effects.push(answer_ready(asked, Order::Kick, None));
        } else {
            // Another replica may have made it, and activated it.
            effects.push(HubEffect::ReadEpoch { question: Question::Ready { number, boot, epoch } });
        }
    }

    /// Moves the active session on, if it waits: kicks those before it, and lets it begin once they are over.
    fn move_on(&mut self, now: Moment, effects: &mut Vec<HubEffect>) {
        let Some(active) = self.active.as_mut().filter(|active| !active.gone) else { return };
        let (epoch, boot) = (active.target.epoch, active.target.boot);
        if !active.is_free(now) {
            if let Stage::Waits(before) = &mut active.stage {
                let kicks = before.kicks(now).into_iter();
                effects
                    .extend(kicks.map(|older| HubEffect::Order(order_to(Order::Kick, older, Some(epoch)))));
            }
            return;
        }
        // Who fell silent while it waited would be shown as connected, and be called, though nobody is there.
        let ready = active.ready.take().filter(|(_, at)| now.since(*at) <= limits::RENEW_EVERY);
        if let Some((number, _)) = ready {
            effects.push(HubEffect::ReadEpoch { question: Question::Ready { number, boot, epoch } });
        }
    }

    /// Asks the authority to activate the newest claim, once it is ready. The older session is told to stand down only
    /// then: from the compare-and-set on, no replica says yes to it any more.
    fn activate(&mut self, now: Moment, effects: &mut Vec<HubEffect>) {
        let is_due = |claimed: &mut Claimed| {
            claimed.ready.is_some() && claimed.epoch.is_some() && now.since(claimed.at) <= limits::RENEW_EVERY
        };
        if self.activating.is_some() {
            return;
        }
        self.activating = self.claimed.take_if(is_due);
        if let Some(Claimed { epoch: Some(epoch), claim, since, .. }) = &mut self.activating {
            // Of the very grant that the compare-and-set expects.
            *since = self.active.as_ref().and_then(|active| active.since_for(claim.store, *epoch));
            let grant =
                Grant { epoch: *epoch, boot: claim.boot, store: claim.store, since: *since, ended: false };
            let expected = self.active.as_ref().map(|active| active.target.epoch);
            effects.push(HubEffect::Activate { expected, grant });
        }
    }

    fn on_activated(
        &mut self,
        now: Moment,
        epoch: Epoch,
        result: Result<Activation, AuthorityError>,
        effects: &mut Vec<HubEffect>,
    ) {
        let Some(mut claimed) = self.activating.take_if(|claimed| claimed.epoch == Some(epoch)) else {
            return;
        };
        match result {
            Ok(Activation::Won) => self.on_won(now, epoch, &claimed, true, effects),
            // An earlier attempt whose outcome was not known had taken effect after all; or another replica was faster.
            Ok(Activation::Lost { active: Some(grant) }) if grant.epoch == epoch => {
                claimed.since = grant.since;
                self.on_won(now, epoch, &claimed, self.replicas == Replicas::One, effects);
            }
            Ok(Activation::Lost { active }) => {
                self.active = active.as_ref().map(|grant| Active::learned(grant, now));
                let by = active.map(|grant| grant.epoch);
                // A standby asked because this hub believed that nobody serves; it may have been wrong.
                if by > Some(epoch) || (by.is_some() && claimed.claim.mode == ClaimMode::Standby) {
                    let asked = claimed.ready.map(|number| (number, claimed.claim.boot, epoch));
                    effects.extend(asked.map(|asked| answer_ready(asked, Order::Kick, by)));
                } else {
                    self.claimed.get_or_insert(claimed);
                }
            }
            // Not known, or not written: ask again at the next tick, unless a newer claim has come meanwhile.
            Ok(Activation::Unknown) | Err(_) => {
                self.claimed.get_or_insert(claimed);
                return;
            }
        }
        self.activate(now, effects);
    }

    /// The session is active. `is_ours` unless another replica made it so: then that one tells, and knows whom it replaced.
    fn on_won(
        &mut self,
        now: Moment,
        epoch: Epoch,
        claimed: &Claimed,
        is_ours: bool,
        effects: &mut Vec<HubEffect>,
    ) {
        let target = target_of(epoch, &claimed.claim);
        match self.active.take() {
            // A newer one was seen meanwhile.
            Some(newer) if newer.target.epoch > epoch => self.active = Some(newer),
            Some(same) if same.target.epoch == epoch => self.active = Some(Active { target, ..same }),
            older => {
                let rival = older.as_ref().filter(|older| {
                    older.may_have_begun() && older.target.boot != target.boot && !older.is_over(now)
                });
                if let Some(rival) = rival.map(|rival| rival.target.epoch) {
                    self.takeovers.push_back(now);
                    if is_ours {
                        let stand_down = format!("told to stand down for epoch {epoch}");
                        effects.push(HubEffect::CountKick);
                        effects.push(tell(rival, EventKind::Kicked, &stand_down));
                        effects.push(tell(
                            epoch,
                            EventKind::Takeover,
                            &format!("took over from epoch {rival}"),
                        ));
                    }
                }
                self.active = Some(if is_ours {
                    Active { since: claimed.since, ..Active::after(older, target, self.replicas, now) }
                } else {
                    // Not ours, so whom it replaced may be somebody whom this hub never saw.
                    let (boot, store, since) = (target.boot, target.store, claimed.since);
                    let grant = Grant { epoch, boot, store, since, ended: false };
                    Active { target, ..Active::learned(&grant, now) }
                });
            }
        }
        if let Some(active) = self.active.as_mut().filter(|active| active.target.epoch == epoch) {
            active.ready = claimed.ready.map(|number| (number, claimed.at));
        }
        self.move_on(now, effects);
    }

    fn on_renewal(&mut self, number: u32, renewal: &Renewal, effects: &mut Vec<HubEffect>) {
        let (epoch, boot) = (renewal.epoch, renewal.boot);
        let asked = (number, boot, epoch);
        let may_be_active = match &mut self.active {
            Some(active) if active.target.epoch > epoch => {
                effects.push(answer_renewal(asked, RenewalOutcome::Kicked, Some(active.target.epoch)));
                return;
            }
            Some(active) if active.is(epoch, boot) => {
                // Only one that was told to go renews.
                active.begin();
                !active.gone
            }
            Some(active) if active.target.epoch == epoch => false,
            _ => self.replicas == Replicas::Several,
        };
        effects.push(if may_be_active {
            HubEffect::ReadEpoch { question: Question::Renewal { number, boot, epoch } }
        } else {
            answer_renewal(asked, RenewalOutcome::Unknown, None)
        });
    }

    /// The authority told what is active, later than the question came.
    fn on_read(
        &mut self,
        now: Moment,
        question: Question,
        grant: Option<&Grant>,
        effects: &mut Vec<HubEffect>,
    ) {
        let activating = self.activating.as_ref().and_then(|claimed| claimed.epoch);
        if activating.is_some() && grant.map(|grant| grant.epoch) == activating {
            // What came of our own compare-and-set is about to be told, and says more. It will be asked again.
            return;
        }
        self.learn(now, &question, grant);
        match question {
            Question::Renewal { number, boot, epoch } => {
                let (outcome, by) = self.renewed(now, (boot, epoch), grant);
                effects.push(answer_renewal((number, boot, epoch), outcome, by));
            }
            Question::Ready { number, boot, epoch } => {
                self.begin((number, boot, epoch), now, grant, effects);
            }
            Question::Resume { number, claim } => {
                let held = self.active.as_mut().filter(|active| {
                    !active.gone
                        && claim.held == Some(active.target.epoch)
                        && confirms(grant, active.target.epoch, claim.boot)
                });
                let Some(active) = held else { return self.reserve(now, number, claim, effects) };
                // Only one that was told to go resumes.
                active.begin();
                active.lease_ends = now + limits::LEASE_HUB;
                active.target = target_of(active.target.epoch, &claim);
                let answer =
                    claim_answer(claim.nonce, ClaimOutcome::Resumed, Some(active.target.epoch), None);
                effects.push(HubEffect::AnswerClaim { boot: claim.boot, number, answer });
            }
        }
    }

    /// What another replica did is taken over. An older grant was read before ours was written.
    fn learn(&mut self, now: Moment, question: &Question, grant: Option<&Grant>) {
        let asked = match question {
            Question::Renewal { epoch, .. } | Question::Ready { epoch, .. } => Some(*epoch),
            Question::Resume { claim, .. } => claim.held,
        };
        match (&mut self.active, grant) {
            (Some(active), Some(grant)) if active.target.epoch >= grant.epoch => {
                active.gone |= grant.ended && active.target.epoch == grant.epoch;
            }
            (_, Some(grant)) => self.active = Some(Active::learned(grant, now)),
            // Whoever asks about an epoch does so after it was active, so it was forgotten since.
            (active, None) => {
                active.take_if(|active| Some(active.target.epoch) == asked);
            }
        }
    }

    fn renewed(
        &mut self,
        now: Moment,
        (boot, epoch): (BootId, Epoch),
        grant: Option<&Grant>,
    ) -> (RenewalOutcome, Option<Epoch>) {
        match &mut self.active {
            Some(active) if active.target.epoch > epoch => {
                (RenewalOutcome::Kicked, Some(active.target.epoch))
            }
            Some(active) if active.is(epoch, boot) && !active.gone && confirms(grant, epoch, boot) => {
                active.begin();
                if active.target.calls.is_empty() {
                    // Known from the authority alone: let it claim, to resume, and say what it can.
                    return (RenewalOutcome::Unknown, None);
                }
                active.lease_ends = now + limits::LEASE_HUB;
                (RenewalOutcome::Renewed, None)
            }
            _ => (RenewalOutcome::Unknown, None),
        }
    }

    /// Tells a session to go that is active, and before which all is over.
    fn begin(
        &mut self,
        asked: (u32, BootId, Epoch),
        now: Moment,
        grant: Option<&Grant>,
        effects: &mut Vec<HubEffect>,
    ) {
        let (_, boot, epoch) = asked;
        match &mut self.active {
            Some(active) if active.target.epoch > epoch => {
                effects.push(answer_ready(asked, Order::Kick, Some(active.target.epoch)));
            }
            Some(active) if active.is(epoch, boot) && !active.gone && confirms(grant, epoch, boot) => {
                active.lease_ends = now + limits::LEASE_HUB;
                if !active.is_free(now) {
                    effects.push(answer_ready(asked, Order::Wait, None));
                    return;
                }
                if matches!(active.stage, Stage::Waits(_)) {
                    effects.push(connected(&active.target));
                }
                active.begin();
                effects.push(answer_go(asked, grant.and_then(|grant| grant.since)));
            }
            Some(active) if active.target.epoch == epoch && active.gone => {
                effects.push(answer_ready(asked, Order::Kick, None));
            }
            None if self.replicas == Replicas::One => effects.push(answer_ready(asked, Order::Kick, None)),
            // Reserved by another replica, which will activate it; if it cannot, the agent claims again.
            _ => {}
        }
    }

    /// Whether it was the active session that left.
    fn note_gone(&mut self, leaving: &Leaving) -> bool {
        let Some(active) = &mut self.active else { return false };
        if active.is(leaving.epoch, leaving.boot) && !active.gone {
            active.gone = true;
            return true;
        }
        if let Stage::Waits(before) = &mut active.stage {
            before.note_gone(leaving.epoch, leaving.boot);
        }
        false
    }

    fn on_goodbye(&mut self, now: Moment, leaving: &Leaving, effects: &mut Vec<HubEffect>) {
        if self.note_gone(leaving) {
            // Of one that never began nothing is noted: who was before it may still act.
            if self.active.as_ref().is_some_and(|active| matches!(active.stage, Stage::Begun)) {
                effects.push(HubEffect::NoteEnd { epoch: leaving.epoch });
            }
            effects.push(tell(leaving.epoch, EventKind::Left, "the agent said goodbye"));
        }
        self.claimed.take_if(|claimed| claimed.claim.boot == leaving.boot);
        if let Some(claimed) = self.activating.as_mut().filter(|claimed| claimed.claim.boot == leaving.boot) {
            claimed.ready = None;
        }
        self.move_on(now, effects);
    }
}
