//! What stands between the machines: the authority as the model has it, questions, beginnings.

use towline_bus::authority::{Activation, ClaimId, Grant, next_epoch};
use towline_bus::session::{AgentEvent, AgentSession, Ask, HubEvent, Identity};
use towline_protocol::session::{ClaimMode, Leaving, Ready, Renewal};
use towline_protocol::{BootId, Epoch, StoreId};
use uuid::Uuid;

use super::state::{Mail, Record, State};

/// What takes its time even where messages are prompt.
pub(super) const fn is_slow(mail: &Mail) -> bool {
    matches!(
        mail,
        Mail::Held(..) | Mail::FromAuthority(_, HubEvent::Activated { .. } | HubEvent::EpochRead { .. })
    )
}

pub(super) const fn bit(hub: usize) -> u8 {
    1 << hub
}

pub(super) const fn is_held(mail: &Mail) -> bool {
    matches!(mail, Mail::Held(..))
}

pub(super) fn reserve(record: &mut Record, claim: ClaimId, above: Option<Epoch>) -> Epoch {
    if let Some(epoch) = record.reserved.filter(|_| record.reserved_for == Some(claim)) {
        return epoch;
    }
    let epoch = next_epoch(record.reserved, above, 1_000).expect("far from the end of all epochs");
    (record.reserved, record.reserved_for) = (Some(epoch), Some(claim));
    epoch
}

pub(super) fn activated(state: &mut State, hub: usize, expected: Option<Epoch>, grant: Grant) -> Mail {
    let epoch = grant.epoch;
    let result = Ok(activate(state, expected, grant));
    Mail::FromAuthority(hub, HubEvent::Activated { epoch, result })
}

pub(super) fn activate(state: &mut State, expected: Option<Epoch>, grant: Grant) -> Activation {
    let active = state.record.get().active.clone();
    let epoch = active.as_ref().map(|active| active.epoch);
    if epoch != expected || epoch >= Some(grant.epoch) {
        return Activation::Lost { active };
    }
    state.record.change(|record| record.active = Some(grant));
    Activation::Won
}

pub(super) fn to_agent(state: &State, boot: BootId, event: AgentEvent) -> Mail {
    let agent = state.agents.iter().position(|agent| agent.get().boot == boot);
    Mail::ToAgent(agent.expect("only agents ask"), event)
}

pub(super) fn session(number: u128, mode: ClaimMode, life: u64, last_epoch: Option<Epoch>) -> AgentSession {
    let identity = Identity {
        boot: BootId::new(Uuid::from_u128(number)),
        store: StoreId::new(Uuid::from_u128(number)),
        last_epoch,
        version: String::new(),
        runtime: String::new(),
        calls: vec!["ping".into()],
    };
    let seed = u64::try_from(number).expect("a few agents") * 10 + life;
    AgentSession::new(identity, mode, seed)
}

pub(super) fn question(boot: BootId, number: u32, ask: &Ask) -> HubEvent {
    let applied = bytes::Bytes::new();
    match ask {
        Ask::Claim(claim) => HubEvent::Claim { number, claim: claim.clone() },
        Ask::Ready(epoch) => HubEvent::Ready { number, ready: Ready { boot, epoch: *epoch, applied } },
        Ask::Renewal(epoch) => {
            let renewal = Renewal { boot, epoch: *epoch, applied, health: Default::default() };
            HubEvent::Renewal { number, renewal }
        }
        Ask::StandDown(epoch) => HubEvent::StoodDown { leaving: Leaving { boot, epoch: *epoch } },
        Ask::Goodbye(epoch) => HubEvent::Goodbye { leaving: Leaving { boot, epoch: *epoch } },
    }
}
