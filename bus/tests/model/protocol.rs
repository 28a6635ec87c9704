//! What can happen to a state, and what the drivers do then.

use std::time::Duration;

use towline_bus::authority::{Activation, ClaimId, Grant, Replicas};
use towline_bus::clock::Moment;
use towline_bus::session::{AgentEffect, AgentEvent, Ask, EndReason, HubEffect, HubEvent, HubSession};
use towline_protocol::session::{ClaimMode, Leaving, Order};
use towline_protocol::{BootId, Epoch, limits};
use uuid::Uuid;

use super::between::{activated, bit, is_held, is_slow, question, reserve, session, to_agent};
use super::explore::Model;
use super::state::{Agent, Budget, Mail, Part, Record, State};

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
    /// Each hub takes itself for the only one: it counts leases by what it said itself.
    HubsTakeThemselvesForOne,
    /// A hub says yes by what it remembers, and does not read.
    HubAnswersUnread,
    /// The compare-and-set comes after the wait for the older lease, and go right after it: what decision 0008 found.
    SetsAfterTheWait,
    /// A restarted hub takes what the authority calls active to have begun.
    RestartedHubAssumes,
}

/// How large the model is.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    pub(crate) mutant: Mutant,
    pub(crate) hubs: usize,
    /// Whether the authority tells at once what is active, as one in memory does, or at any time later.
    pub(crate) reads_at_once: bool,
    /// Whether each message arrives at once or never, at each hub on its own; else at any time. The authority's answers, and
    /// what a frozen process has not read, come late all the same.
    pub(crate) prompt: bool,
    /// The first agent serves already when the others come.
    pub(crate) begins_served: bool,
    pub(crate) newcomers: Vec<ClaimMode>,
    /// Whether who was kicked comes back as a standby.
    pub(crate) returns: bool,
    /// The clock's step: so coarse that the two ends of a lease, 5 s and 6 s, can be told apart still. At each an agent asks
    /// again.
    pub(crate) step: Duration,
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
    /// A question reaches one of several hubs.
    DeliverTo(usize, usize),
    Lose(usize),
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
            hubs: vec![Part::new(HubSession::new(self.replicas())); self.hubs],
            agents: Vec::new(),
            record: Part::new(Record::default()),
            mail: Vec::new(),
            budget: self.budget,
            wrong: None,
        };
        if self.begins_served {
            // All hubs heard the same until now.
            let alone = Self { hubs: 1, ..self.clone() };
            alone.start(&mut state, ClaimMode::Fresh);
            alone.deliver_all(&mut state);
            assert_eq!(state.serving(), 1, "nothing went wrong yet");
            let heard = state.hubs[0].clone();
            state.hubs.fill(heard);
        }
        for mode in &self.newcomers {
            self.start(&mut state, mode.clone());
        }
        state
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = self.prompt_actions(state);
        if !actions.is_empty() {
            return actions;
        }
        if state.clock < self.horizon {
            actions.push(Action::Tick);
        }
        for (index, (_, mail)) in state.mail.iter().enumerate() {
            if !self.arrives(state, mail.get()) {
                continue;
            }
            match mail.get() {
                Mail::ToHubs(hubs, _) if self.hubs > 1 => {
                    let hubs = (0..self.hubs).filter(|hub| hubs & bit(*hub) != 0);
                    actions.extend(hubs.map(|hub| Action::DeliverTo(index, hub)));
                }
                _ => actions.push(Action::Deliver(index)),
            }
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
            Action::DeliverTo(index, hub) => self.deliver_to(&mut next, index, hub),
            Action::Lose(index) => {
                next.mail.remove(index);
            }
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
                self.restart(&mut next, hub);
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
        if self.settles && state.clock == self.horizon && !self.comes_to_rest(state) {
            return Some("not exactly one serves in the end".to_owned());
        }
        None
    }
}

impl Protocol {
    /// What becomes of the message that is next, if messages are prompt.
    fn prompt_actions(&self, state: &State) -> Vec<Action> {
        let is_next = |mail: &Mail| self.arrives(state, mail) && !is_slow(mail);
        let next = state.mail.iter().position(|(_, mail)| is_next(mail.get()));
        let Some(index) = next.filter(|_| self.prompt) else { return Vec::new() };
        let mut actions = vec![Action::Deliver(index)];
        let (_, mail) = &state.mail[index];
        if let Mail::ToHubs(..) = mail.get() {
            actions.extend((0..self.hubs).filter(|_| self.hubs > 1).map(|hub| Action::DeliverTo(index, hub)));
        }
        if !matches!(mail.get(), Mail::FromAuthority(..)) {
            actions.push(Action::Lose(index));
        }
        actions
    }

    /// Whether exactly one serves, and every hub knows it, once every message arrives and time passes.
    fn comes_to_rest(&self, state: &State) -> bool {
        const SETTLED_AFTER: usize = 30;
        const RESTS_FOR: usize = 4;
        let calm = Self { mail_max: 100, returns: true, ..self.clone() };
        let mut state = state.clone();
        for agent in 0..state.agents.len() {
            calm.thaw(&mut state, agent);
        }
        let mut rested = 0;
        for _ in 0..SETTLED_AFTER {
            calm.deliver_all(&mut state);
            rested = if state.is_at_rest() { rested + 1 } else { 0 };
            if rested == RESTS_FOR {
                return true;
            }
            calm.tick(&mut state);
        }
        false
    }

    const fn replicas(&self) -> Replicas {
        match self.mutant {
            Mutant::HubsTakeThemselvesForOne | Mutant::SetsAfterTheWait => Replicas::One,
            _ if self.hubs == 1 => Replicas::One,
            _ => Replicas::Several,
        }
    }

    fn restart(&self, state: &mut State, hub: usize) {
        let grant = state.record.get().active.clone();
        let mut session = HubSession::new(self.replicas());
        if let Some(grant) = grant {
            session = HubSession::restored(self.replicas(), state.now, &grant);
            if self.mutant == Mutant::RestartedHubAssumes {
                let renewal = question(grant.boot, 0, &Ask::Renewal(grant.epoch));
                session.handle(state.now, renewal);
            }
        }
        state.hubs[hub] = Part::new(session);
        let is_for_it = |mail: &Mail| matches!(mail, Mail::FromAuthority(to, _) if *to == hub);
        state.mail.retain(|(_, mail)| !is_for_it(mail.get()));
    }

    fn deliver_all(&self, state: &mut State) {
        while let Some(index) = state.mail.iter().position(|(_, mail)| !is_held(mail.get())) {
            self.deliver(state, index, false);
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
        state.now = state.now + self.step;
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
            Mail::ToHubs(..) | Mail::FromAuthority(..) => return true,
            Mail::Held(_, until, ..) => return state.now >= *until,
            Mail::ToAgent(agent, _) => Some(*agent),
            Mail::Order(order) => Self::hearer(state, order.epoch),
        };
        to.is_some_and(|agent| state.agents[agent].get().frozen_at.is_none())
    }

    fn deliver(&self, state: &mut State, index: usize, again: bool) {
        let (_, mail) = if again { state.mail[index].clone() } else { state.mail.remove(index) };
        match mail.get().clone() {
            Mail::ToHubs(hubs, event) => {
                for hub in (0..self.hubs).filter(|hub| hubs & bit(*hub) != 0) {
                    self.tell_hub(state, hub, event.clone());
                }
            }
            Mail::FromAuthority(hub, event) => self.tell_hub(state, hub, event),
            Mail::Held(hub, _, expected, grant) => {
                let mail = activated(state, hub, expected, grant);
                state.send(mail, self.mail_max);
            }
            Mail::ToAgent(agent, event) => self.tell_agent(state, agent, event),
            Mail::Order(order) => {
                if let Some(agent) = Self::hearer(state, order.epoch) {
                    self.tell_agent(state, agent, AgentEvent::Ordered(order));
                }
            }
        }
    }

    /// The others may hear it later, or miss it.
    fn deliver_to(&self, state: &mut State, index: usize, hub: usize) {
        let (sent, mail) = state.mail.remove(index);
        let Mail::ToHubs(hubs, event) = mail.get().clone() else { return };
        let others = hubs & !bit(hub);
        if others != 0 && !self.prompt {
            state.mail.push((sent, Part::new(Mail::ToHubs(others, event.clone()))));
            state.mail.sort_by_key(|(sent, mail)| (*sent, mail.fingerprint));
        }
        self.tell_hub(state, hub, event);
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
                        let hubs = (0..self.hubs).fold(0, |hubs, hub| hubs | bit(hub));
                        let event = question(boot, number, &ask);
                        state.send(Mail::ToHubs(hubs, event), self.mail_max);
                    }
                    AgentEffect::Subscribe(epoch) => {
                        state.agents[index].change(|agent| agent.hears = Some(epoch));
                        next = Some(AgentEvent::Subscribed { epoch });
                    }
                    AgentEffect::ServeUntil { epoch, until } => {
                        state.agents[index].change(|agent| self.serve(agent, epoch, until));
                    }
                    AgentEffect::StopServing => state.agents[index].change(|agent| agent.lease = None),
                    AgentEffect::HubTime { .. } | AgentEffect::Begin { .. } => {}
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
            Mutant::HubWaitsLess => until + self.step,
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
        if !self.returns {
            return;
        }
        self.tell_agent(state, index, AgentEvent::LinkUp);
    }

    fn tell_hub(&self, state: &mut State, hub: usize, event: HubEvent) {
        let now = state.now;
        for effect in state.hubs[hub].change(|session| session.handle(now, event)) {
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
                    let kicked = Self::hearer(state, epoch);
                    if let (Mutant::HubDoesNotWait, true, Some(kicked)) = (self.mutant, kicks, kicked) {
                        let leaving = Leaving { boot: state.agents[kicked].get().boot, epoch };
                        self.tell_hub(state, hub, HubEvent::StoodDown { leaving });
                    }
                    continue;
                }
                HubEffect::Reserve { boot, nonce, above } => {
                    let epoch = state.record.change(|record| reserve(record, ClaimId { boot, nonce }, above));
                    Mail::FromAuthority(hub, HubEvent::Reserved { nonce, result: Ok(epoch) })
                }
                HubEffect::Activate { expected: Some(expected), grant }
                    if self.mutant == Mutant::SetsAfterTheWait =>
                {
                    Mail::Held(hub, now + limits::LEASE_HUB, Some(expected), grant)
                }
                HubEffect::Activate { expected, grant } => activated(state, hub, expected, grant),
                HubEffect::ReadEpoch { question } => {
                    let result = Ok(self.read(state, hub));
                    let event = HubEvent::EpochRead { question, result };
                    if self.reads_at_once {
                        self.tell_hub(state, hub, event);
                        continue;
                    }
                    Mail::FromAuthority(hub, event)
                }
                HubEffect::NoteEnd { .. } | HubEffect::CountKick | HubEffect::Tell { .. } => continue,
            };
            state.send(mail, self.mail_max);
        }
    }
}

impl Protocol {
    fn read(&self, state: &State, hub: usize) -> Option<Grant> {
        let believed = state.hubs[hub].get().last();
        match self.mutant {
            Mutant::HubAnswersUnread => believed.map(|target| Grant {
                epoch: target.epoch,
                boot: target.boot,
                store: target.store,
                since: None,
                ended: false,
            }),
            _ => state.record.get().active.clone(),
        }
    }
}
