//! Claims, until their epoch is reserved.

use towline_protocol::session::{Claim, ClaimAnswer, ClaimMode, ClaimOutcome};
use towline_protocol::{BootId, CallError, Code, Epoch, limits};

use super::say::{claim_answer, target_of, tell};
use super::words::{HubEffect, Question};
use super::{Claimed, HubSession};
use crate::authority::{AuthorityError, Replicas};
use crate::clock::Moment;
use crate::event::EventKind;

impl HubSession {
    pub(super) fn on_claim(&mut self, now: Moment, number: u32, claim: Claim, effects: &mut Vec<HubEffect>) {
        // A repetition returns the same epoch.
        let mut claims = self.claimed.iter_mut().chain(&mut self.activating);
        let is_same =
            |other: &&mut Claimed| (other.claim.boot, other.claim.nonce) == (claim.boot, claim.nonce);
        if let Some(claimed) = claims.find(is_same) {
            (claimed.number, claimed.at) = (number, now);
            let is_unanswered = claimed.epoch.is_none();
            let reserved = claimed.epoch.map(|epoch| HubEffect::AnswerClaim {
                boot: claim.boot,
                number,
                answer: claim_answer(claim.nonce, ClaimOutcome::Reserved, Some(epoch), None),
            });
            effects.extend(reserved);
            if is_unanswered {
                self.ask_epoch(now, effects);
            }
        } else if self.may_resume(&claim) {
            effects.push(HubEffect::ReadEpoch { question: Question::Resume { number, claim } });
        } else {
            self.reserve(now, number, claim, effects);
        }
    }

    /// Resume by the same process, as far as this hub knows while nobody else was activated.
    fn may_resume(&self, claim: &Claim) -> bool {
        let Some(held) = claim.held.filter(|_| claim.mode == ClaimMode::Resume) else { return false };
        match &self.active {
            Some(active) if active.target.epoch == held => !active.gone && active.target.boot == claim.boot,
            Some(active) if active.target.epoch > held => false,
            _ => self.replicas == Replicas::Several,
        }
    }

    /// Has an epoch reserved, unless the claim is to stand by.
    pub(super) fn reserve(&mut self, now: Moment, number: u32, claim: Claim, effects: &mut Vec<HubEffect>) {
        let holder = self.holder(now, claim.boot);
        let stands_by = match claim.mode {
            ClaimMode::Standby => holder.is_some(),
            _ => holder.is_some() && self.is_contended(now, effects),
        };
        if stands_by {
            let answer = claim_answer(claim.nonce, ClaimOutcome::Standby, None, holder);
            effects.push(HubEffect::AnswerClaim { boot: claim.boot, number, answer });
            return;
        }
        self.claimed = Some(Claimed { claim, number, at: now, epoch: None, ready: None, since: None });
        self.ask_epoch(now, effects);
    }

    /// Asks the authority for an epoch for the newest claim, unless it is busy with an earlier one: each costs a durable write,
    /// and an agent can claim faster than any disk.
    fn ask_epoch(&mut self, now: Moment, effects: &mut Vec<HubEffect>) {
        // An authority that does not answer at all is asked again.
        self.reserving.take_if(|(_, asked)| now.since(*asked) > limits::RESERVATION_MAX);
        let Some(Claimed { claim, epoch: None, .. }) = &self.claimed else { return };
        if self.reserving.is_none() {
            effects.push(HubEffect::Reserve {
                boot: claim.boot,
                nonce: claim.nonce,
                above: claim.last_epoch,
            });
            self.reserving = Some((claim.nonce, now));
        }
    }

    /// The epoch, or the one to be, that another process holds now.
    fn holder(&self, now: Moment, boot: BootId) -> Option<Epoch> {
        let claims = self.claimed.iter().chain(&self.activating);
        let mut claimed =
            claims.filter(|claimed| claimed.claim.boot != boot).filter_map(|claimed| claimed.epoch);
        let active = self.active.as_ref().filter(|active| active.target.boot != boot && !active.is_over(now));
        claimed.next().or_else(|| active.map(|active| active.target.epoch))
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

    pub(super) fn on_reserved(
        &mut self,
        now: Moment,
        nonce: u64,
        result: Result<Epoch, AuthorityError>,
        effects: &mut Vec<HubEffect>,
    ) {
        self.reserving.take_if(|(asked, _)| *asked == nonce);
        self.note_epoch(nonce, result, effects);
        self.ask_epoch(now, effects);
    }

    fn note_epoch(
        &mut self,
        nonce: u64,
        result: Result<Epoch, AuthorityError>,
        effects: &mut Vec<HubEffect>,
    ) {
        // A newer claim may have replaced this one meanwhile, and its reservation then ends unused; or it was asked for twice.
        let Some(mut claimed) =
            self.claimed.take_if(|claimed| claimed.claim.nonce == nonce && claimed.epoch.is_none())
        else {
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
        effects.push(HubEffect::AnswerClaim { boot: claimed.claim.boot, number: claimed.number, answer });
        let Some(epoch) = claimed.epoch else { return };
        match self.active.as_mut().filter(|active| active.target.epoch >= epoch) {
            None => self.claimed = Some(claimed),
            // Another replica reserved and activated it before this claim came here.
            Some(active) if active.is(epoch, claimed.claim.boot) => {
                active.target = target_of(epoch, &claimed.claim);
            }
            Some(_) => {}
        }
    }
}
