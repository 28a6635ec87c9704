//! The store of grants, as every authority promises it, with a clock that the simulation turns.

use towline_bus::authority::{Activation, AuthorityError, ClaimId, Grant, next_epoch};
use towline_bus::session::{HubEvent, Question};
use towline_protocol::Epoch;

use super::random::Random;

/// What a hub asked.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Reserve { claim: ClaimId, above: Option<Epoch> },
    Activate { expected: Option<Epoch>, grant: Grant },
    ReadEpoch { question: Question },
    NoteEnd { epoch: Epoch },
}

/// One instance's record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) reserved: Option<Epoch>,
    pub(crate) reserved_for: Option<ClaimId>,
    pub(crate) active: Option<Grant>,
    /// Every epoch that was ever active, in order.
    pub(crate) history: Vec<Epoch>,
}

/// Where epochs of a new store begin.
const FIRST_EPOCH: u64 = 1_000;

impl Record {
    /// Does it, and says what the hub hears. In doubt it may have been done or not.
    pub(crate) fn handle(&mut self, request: Request, doubt: Option<&mut Random>) -> Option<HubEvent> {
        let doubt = doubt.map(|random| random.below(4));
        match request {
            Request::Reserve { claim, above } => {
                let result = if doubt == Some(0) { Err(failure()) } else { self.reserve(claim, above) };
                Some(HubEvent::Reserved { nonce: claim.nonce, result })
            }
            Request::ReadEpoch { question } => {
                let result = if doubt == Some(0) { Err(failure()) } else { Ok(self.active.clone()) };
                Some(HubEvent::EpochRead { question, result })
            }
            Request::Activate { expected, grant } => {
                let epoch = grant.epoch;
                let result = match doubt {
                    Some(0) => Err(failure()),
                    Some(1) => Ok(Activation::Unknown),
                    Some(2) => {
                        self.activate(expected, grant);
                        Ok(Activation::Unknown)
                    }
                    _ => Ok(self.activate(expected, grant)),
                };
                Some(HubEvent::Activated { epoch, result })
            }
            Request::NoteEnd { epoch } => {
                if let Some(active) = self.active.as_mut().filter(|active| active.epoch == epoch) {
                    active.ended = doubt != Some(0);
                }
                None
            }
        }
    }

    /// The epoch that was active before this one was.
    pub(crate) fn replaced_by(&self, epoch: Epoch) -> Option<Epoch> {
        let at = self.history.iter().position(|active| *active == epoch)?;
        at.checked_sub(1).map(|before| self.history[before])
    }

    fn reserve(&mut self, claim: ClaimId, above: Option<Epoch>) -> Result<Epoch, AuthorityError> {
        if let Some(epoch) = self.reserved.filter(|_| self.reserved_for == Some(claim)) {
            return Ok(epoch);
        }
        let epoch = next_epoch(self.reserved, above, FIRST_EPOCH)?;
        (self.reserved, self.reserved_for) = (Some(epoch), Some(claim));
        Ok(epoch)
    }

    fn activate(&mut self, expected: Option<Epoch>, grant: Grant) -> Activation {
        let active = self.active.as_ref().map(|grant| grant.epoch);
        if active != expected || active >= Some(grant.epoch) {
            return Activation::Lost { active: self.active.clone() };
        }
        self.history.push(grant.epoch);
        self.active = Some(grant);
        Activation::Won
    }
}

fn failure() -> AuthorityError {
    AuthorityError { reason: "the disk is full".into() }
}
