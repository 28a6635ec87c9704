//! What can happen to a state, and what the drivers do then.

use std::time::Duration;

use towline_bus::authority::{Activation, Grant, next_epoch};
use towline_bus::clock::Moment;
use towline_bus::session::{
    AgentEffect, AgentEvent, AgentSession, Ask, EndReason, HubEffect, HubEvent, HubSession, Identity,
};
use towline_protocol::session::{ClaimMode, Leaving, Order, Ready, Renewal, RenewalAnswer, RenewalOutcome};
use towline_protocol::{BootId, Epoch, StoreId, limits};
use uuid::Uuid;

use super::explore::Model;
use super::state::{Agent, Budget, Mail, Part, Record, State};

/// The clock's step: as coarse as the two ends of a lease, 5 s and 6 s, can be told apart. At each an agent asks again.
pub(crate) const STEP: Duration = limits::RENEW_EVERY;

/// Rules that look right, and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Ours.
    None,
    /// The agent's lease is longer than what the hub waits.
    HubWaitsLess,
    /// A lease counts from the latest question, whichever was answered (decision 0003).
    LeaseFromLatestQuestion,
    /// The agent's clock stands still while it is frozen.
    ClockStopsInFreeze,
    /// The hub kicks, and does not wait for the stand-down.
    HubDoesNotWait,
    /// The hub renews while it is not known whether a newer session is active: the fault that the simulation found.
    HubRenewsInDoubt,
}

/// How large the model is.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    pub(crate) mutant: Mutant,
    pub(crate) hubs: usize,
    /// The first agent serves already when the others come.
    pub(crate) begins_served: bool,
    pub(crate) newcomers: Vec<ClaimMode>,
    /// Steps of the clock.
    pub(crate) horizon: u8,
    /// Messages under way at once.
    pub(crate) mail_max: usize,
    pub(crate) budget: Budget,
    /// Whether, from every last state, exactly one serves once nothing goes wrong any more.
    pub(crate) settles: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Deliver(usize),
    /// Delivers it, and it comes again.
    Double(usize),
    /// The authority's answer becomes: nobody knows.
    Doubt(usize),
    Freeze(usize),
    Thaw(usize),
    RestartHub(usize),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn first(&self) -> State {
        let mut state = State {
            clock: 0,
            now: Moment::since_boot(Duration::from_secs(100)),
            hubs: vec![Part::new(HubSession::default()); self.hubs],
            agents: Vec::new(),
            record: Part::new(Record::default()),
            mail: Vec::new(),
            budget: self.budget,
            wrong: None,
        };
        if self.begins_served {
            self.start(&mut state, ClaimMode::Fresh);
            self.deliver_all(&mut state);
            assert_eq!(state.serving(), 1, "nothing went wrong yet");
        }
        for mode in &self.newcomers {
            self.start(&mut state, mode.clone());
        }
        state
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        if state.clock < self.horizon {
            actions.push(Action::Tick);
        }
        for (index, (_, mail)) in state.mail.iter().enumerate() {
            if !self.arrives(state, mail.get()) {
                continue;
            }
            actions.push(Action::Deliver(index));
            let from_authority = matches!(mail.get(), Mail::FromAuthority(..));
            if !from_authority && state.budget.doublings > 0 {
                actions.push(Action::Double(index));
            }
            let activates = matches!(mail.get(), Mail::FromAuthority(_, HubEvent::Activated { .. }));
            if activates && state.budget.doubts > 0 {
                actions.push(Action::Doubt(index));
            }
        }
        for (index, agent) in state.agents.iter().enumerate() {
            if agent.get().frozen_at.is_some() {
                actions.push(Action::Thaw(index));
            } else if state.budget.freezes > 0 {
                actions.push(Action::Freeze(index));
            }
        }
        if state.budget.hub_restarts > 0 {
            actions.extend((0..self.hubs).map(Action::RestartHub));
        }
        actions
    }

    fn next(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Tick => self.tick(&mut next),
            Action::Deliver(index) => self.deliver(&mut next, index, false),
            Action::Double(index) => {
                next.budget.doublings -= 1;
                self.deliver(&mut next, index, true);
            }
            Action::Doubt(index) => {
                next.budget.doubts -= 1;
                if let (_, mail) = next.mail.remove(index)
                    && let Mail::FromAuthority(hub, HubEvent::Activated { epoch, .. }) = mail.get()
                {
                    let event = HubEvent::Activated { epoch: *epoch, result: Ok(Activation::Unknown) };
                    self.tell_hub(&mut next, *hub, event);
                }
            }
            Action::Freeze(agent) => {
                next.budget.freezes -= 1;
                let now = next.now;
                next.agents[agent].change(|agent| agent.frozen_at = Some(now));
            }
            Action::Thaw(agent) => self.thaw(&mut next, agent),
            Action::RestartHub(hub) => {
                next.budget.hub_restarts -= 1;
                let grant = next.record.get().active.clone();
                let session =
                    grant.map_or_else(HubSession::default, |grant| HubSession::restored(next.now, &grant));
                next.hubs[hub] = Part::new(session);
                let is_for_it = |mail: &Mail| matches!(mail, Mail::FromAuthority(to, _) if *to == hub);
                next.mail.retain(|(_, mail)| !is_for_it(mail.get()));
            }
        }
        next
    }

    fn fingerprint(&self, state: &State) -> u128 {
        state.fingerprint()
    }

    fn broken(&self, state: &State) -> Option<String> {
        if let Some(wrong) = state.wrong {
            return Some(wrong.to_owned());
        }
        let serving = state.serving();
        if serving > 1 {
            return Some(format!("{serving} serve at once"));
        }
        if self.settles && state.clock == self.horizon && self.serving_in_the_end(state) != 1 {
            return Some("not exactly one serves in the end".to_owned());
        }
        None
    }
}

impl Protocol {
    /// How many serve once every message arrives, and time passes.
    pub(crate) fn serving_in_the_end(&self, state: &State) -> usize {
        const SETTLED_AFTER: usize = 30;
        let calm = Self { mail_max: 100, ..self.clone() };
        let mut state = state.clone();
        for agent in 0..state.agents.len() {
            calm.thaw(&mut state, agent);
        }
        for _ in 0..SETTLED_AFTER {
            calm.deliver_all(&mut state);
            calm.tick(&mut state);
        }
        calm.deliver_all(&mut state);
        state.serving()
    }

    fn deliver_all(&self, state: &mut State) {
        while !state.mail.is_empty() {
            self.deliver(state, 0, false);
        }
    }

    fn start(&self, state: &mut State, mode: ClaimMode) {
        let index = state.agents.len();
        let number = index as u128 + 1;
        let agent = Agent {
            boot: BootId::new(Uuid::from_u128(number)),
            session: session(number, mode, 0, None),
            came_back: false,
            lease: None,
            hears: None,
            frozen_at: None,
            asked_at: state.now,
        };
        state.agents.push(Part::new(agent));
        self.tell_agent(state, index, AgentEvent::LinkUp);
    }

    fn tick(&self, state: &mut State) {
        state.clock += 1;
        state.now = state.now + STEP;
        for agent in 0..state.agents.len() {
            if state.agents[agent].get().frozen_at.is_none() {
                self.tell_agent(state, agent, AgentEvent::Tick);
            }
        }
        for hub in 0..self.hubs {
            self.tell_hub(state, hub, HubEvent::Tick);
        }
    }

    fn thaw(&self, state: &mut State, agent: usize) {
        let now = state.now;
        state.agents[agent].change(|agent| {
            let frozen = agent.frozen_at.take().map(|since| now.since(since));
            if let (Mutant::ClockStopsInFreeze, Some(frozen), Some((_, until))) =
                (self.mutant, frozen, &mut agent.lease)
            {
                *until = *until + frozen;
            }
        });
    }

    /// Which agent an order would come to.
    fn hearer(state: &State, epoch: Epoch) -> Option<usize> {
        state.agents.iter().position(|agent| agent.get().hears == Some(epoch))
    }

    /// A frozen process reads nothing: what is for it waits.
    fn arrives(&self, state: &State, mail: &Mail) -> bool {
        let to = match mail {
            Mail::ToHub(..) | Mail::FromAuthority(..) => return true,
            Mail::ToAgent(agent, _) => Some(*agent),
            Mail::Order(order) => Self::hearer(state, order.epoch),
        };
        to.is_some_and(|agent| state.agents[agent].get().frozen_at.is_none())
    }

    fn deliver(&self, state: &mut State, index: usize, again: bool) {
        let (_, mail) = if again { state.mail[index].clone() } else { state.mail.remove(index) };
        match mail.get().clone() {
            Mail::ToHub(hub, event) | Mail::FromAuthority(hub, event) => self.tell_hub(state, hub, event),
            Mail::ToAgent(agent, event) => self.tell_agent(state, agent, event),
            Mail::Order(order) => {
                if let Some(agent) = Self::hearer(state, order.epoch) {
                    self.tell_agent(state, agent, AgentEvent::Ordered(order));
                }
            }
        }
    }

    fn tell_agent(&self, state: &mut State, index: usize, event: AgentEvent) {
        let (now, mut next) = (state.now, Some(event));
        while let Some(event) = next.take() {
            let (boot, effects) =
                state.agents[index].change(|agent| (agent.boot, agent.session.handle(now, event)));
            for effect in effects {
                match effect {
                    AgentEffect::Ask { number, ask } => {
                        state.agents[index].change(|agent| agent.asked_at = now);
                        for hub in 0..self.hubs {
                            let event = question(boot, number, &ask);
                            state.send(Mail::ToHub(hub, event), self.mail_max);
                        }
                    }
                    AgentEffect::Subscribe(epoch) => {
                        state.agents[index].change(|agent| agent.hears = Some(epoch));
                        next = Some(AgentEvent::Subscribed { epoch });
                    }
                    AgentEffect::ServeUntil { epoch, until } => {
                        state.agents[index].change(|agent| self.serve(agent, epoch, until));
                    }
                    AgentEffect::StopServing => state.agents[index].change(|agent| agent.lease = None),
                    AgentEffect::HubTime { .. } => {}
                    AgentEffect::End(reason) => {
                        if !matches!(reason, EndReason::Kicked { .. }) {
                            state.wrong = Some("a session ended for no reason of the model's");
                        }
                        self.come_back(state, index);
                        return;
                    }
                }
            }
        }
    }

    fn serve(&self, agent: &mut Agent, epoch: Epoch, until: Moment) {
        let until = match self.mutant {
            Mutant::HubWaitsLess => until + STEP,
            Mutant::LeaseFromLatestQuestion => agent.asked_at + limits::LEASE_AGENT,
            _ => until,
        };
        let older = agent.lease.filter(|(held, _)| *held == epoch).map_or(until, |(_, at)| at);
        agent.lease = Some((epoch, older.max(until)));
    }

    /// As a standby, of the same process.
    fn come_back(&self, state: &mut State, index: usize) {
        let last_epoch = state.record.get().reserved;
        state.agents[index].change(|agent| {
            (agent.lease, agent.hears) = (None, None);
            agent.session = session(index as u128 + 1, ClaimMode::Standby, 1, last_epoch);
            agent.came_back = true;
        });
        self.tell_agent(state, index, AgentEvent::LinkUp);
    }

    fn tell_hub(&self, state: &mut State, hub: usize, event: HubEvent) {
        let now = state.now;
        let renewal = match &event {
            HubEvent::Renewal { number, renewal } => Some((*number, renewal.boot, renewal.epoch)),
            _ => None,
        };
        let mut effects = state.hubs[hub].change(|session| session.handle(now, event));
        if let (Mutant::HubRenewsInDoubt, true, Some((number, boot, epoch))) =
            (self.mutant, effects.is_empty(), renewal)
        {
            let outcome = RenewalOutcome::Renewed;
            let answer = RenewalAnswer { outcome, epoch, by: None, hub_unix_ms: 0 };
            effects.push(HubEffect::AnswerRenewal { boot, number, answer });
        }
        for effect in effects {
            let mail = match effect {
                HubEffect::AnswerClaim { boot, number, answer } => {
                    to_agent(state, boot, AgentEvent::ClaimAnswered { number, answer })
                }
                HubEffect::AnswerReady { boot, number, answer } => {
                    to_agent(state, boot, AgentEvent::ReadyAnswered { number, answer })
                }
                HubEffect::AnswerRenewal { boot, number, answer } => {
                    to_agent(state, boot, AgentEvent::RenewalAnswered { number, answer })
                }
                HubEffect::Order(order) => {
                    let (kicks, epoch) = (order.order == Order::Kick, order.epoch);
                    state.send(Mail::Order(order), self.mail_max);
                    let last = state.hubs[hub].get().last().filter(|last| last.epoch == epoch);
                    if let (Mutant::HubDoesNotWait, true, Some(last)) = (self.mutant, kicks, last) {
                        let leaving = Leaving { boot: last.boot, epoch };
                        self.tell_hub(state, hub, HubEvent::StoodDown { leaving });
                    }
                    continue;
                }
                HubEffect::Reserve { nonce, above } => {
                    let reserved = next_epoch(state.record.get().reserved, above, 1_000);
                    let epoch = reserved.clone().expect("far from the end of all epochs");
                    state.record.change(|record| record.reserved = Some(epoch));
                    Mail::FromAuthority(hub, HubEvent::Reserved { nonce, result: reserved })
                }
                HubEffect::Activate { expected, grant } => {
                    let epoch = grant.epoch;
                    let result = Ok(activate(state, expected, grant));
                    Mail::FromAuthority(hub, HubEvent::Activated { epoch, result })
                }
                HubEffect::NoteEnd { .. } | HubEffect::CountKick | HubEffect::Tell { .. } => continue,
            };
            state.send(mail, self.mail_max);
        }
    }
}

fn activate(state: &mut State, expected: Option<Epoch>, grant: Grant) -> Activation {
    let active = state.record.get().active.clone();
    let epoch = active.as_ref().map(|active| active.epoch);
    if epoch != expected || epoch >= Some(grant.epoch) {
        return Activation::Lost { active };
    }
    state.record.change(|record| record.active = Some(grant));
    Activation::Won
}

fn to_agent(state: &State, boot: BootId, event: AgentEvent) -> Mail {
    let agent = state.agents.iter().position(|agent| agent.get().boot == boot);
    Mail::ToAgent(agent.expect("only agents ask"), event)
}

fn session(number: u128, mode: ClaimMode, life: u64, last_epoch: Option<Epoch>) -> AgentSession {
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

fn question(boot: BootId, number: u32, ask: &Ask) -> HubEvent {
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
