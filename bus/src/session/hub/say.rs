//! What the hub says, put together.

use towline_protocol::call::CallSet;
use towline_protocol::session::{
    Claim, ClaimAnswer, ClaimOutcome, Order, RenewalAnswer, RenewalOutcome, SessionOrder,
};
use towline_protocol::{BootId, Epoch, limits};

use super::words::{HubEffect, Target};
use crate::event::EventKind;

pub(super) fn target_of(epoch: Epoch, claim: &Claim) -> Target {
    Target {
        epoch,
        boot: claim.boot,
        store: claim.store,
        version: claim.version.clone(),
        runtime: claim.runtime.clone(),
        calls: CallSet::from_names(&claim.calls),
    }
}

pub(super) fn connected(target: &Target) -> HubEffect {
    let detail = format!("agent {} on runtime {} serves", target.version, target.runtime);
    tell(target.epoch, EventKind::Connected, &detail)
}

pub(super) fn claim_answer(
    nonce: u64,
    outcome: ClaimOutcome,
    epoch: Option<Epoch>,
    holder: Option<Epoch>,
) -> ClaimAnswer {
    let renew_every_ms = u64::try_from(limits::RENEW_EVERY.as_millis()).ok();
    ClaimAnswer { outcome, nonce, epoch, holder, renew_every_ms, hub_unix_ms: 0, error: None }
}

pub(super) fn order_to(order: Order, epoch: Epoch, by: Option<Epoch>) -> SessionOrder {
    SessionOrder { order, epoch, by, since: None, hub_unix_ms: 0 }
}

/// The answer to one question.
pub(super) fn answer_ready(
    (number, boot, epoch): (u32, BootId, Epoch),
    order: Order,
    by: Option<Epoch>,
) -> HubEffect {
    HubEffect::AnswerReady { boot, number, answer: order_to(order, epoch, by) }
}

/// The answer to a ready that lets it begin.
pub(super) fn answer_go((number, boot, epoch): (u32, BootId, Epoch), since: Option<Epoch>) -> HubEffect {
    HubEffect::AnswerReady {
        boot,
        number,
        answer: SessionOrder { since, ..order_to(Order::Go, epoch, None) },
    }
}

/// The answer to one heartbeat.
pub(super) fn answer_renewal(
    (number, boot, epoch): (u32, BootId, Epoch),
    outcome: RenewalOutcome,
    by: Option<Epoch>,
) -> HubEffect {
    HubEffect::AnswerRenewal { boot, number, answer: RenewalAnswer { outcome, epoch, by, hub_unix_ms: 0 } }
}

pub(super) fn tell(epoch: Epoch, kind: EventKind, detail: &str) -> HubEffect {
    HubEffect::Tell { epoch, kind, detail: detail.to_owned() }
}
