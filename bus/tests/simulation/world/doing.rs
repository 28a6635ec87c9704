//! Doing what the machines say, as the drivers do.

use std::time::Duration;

use towline_bus::authority::{Activation, ClaimId};
use towline_bus::event::EventKind;
use towline_bus::session::{AgentEffect, AgentEvent, EndReason, HubEffect, HubEvent, Lease, NotNow};
use towline_protocol::limits;
use towline_protocol::session::ClaimMode;

use super::{Happening, Mail, World};
use crate::agent::Call;
use crate::authority::Request;
use crate::faults::{AUTHORITY_QUICK_MAX, AUTHORITY_SLOW_MAX, Node};
use crate::hub::Hub;

/// What the clock of the hubs' machines shows when the virtual one begins.
const HUB_EPOCH_UNIX_MS: u64 = 1_800_000_000_000;

/// The shortest that a call is wanted. Mail takes longer in bad weather.
const WANTED_MS_MIN: u64 = 200;

/// The longest that a call takes.
const CALL_MS_MAX: u64 = 800;

impl World {
    /// A new process in an agent's place.
    pub(super) fn boot(&mut self, agent: usize, mode: ClaimMode) {
        self.processes += 1;
        self.agents[agent].boot(self.processes);
        self.claim(agent, mode);
    }

    fn claim(&mut self, agent: usize, mode: ClaimMode) {
        self.note(|| format!("agent {agent} claims, {mode}"));
        let seed = self.random.next();
        self.agents[agent].claim(mode, seed);
        let linked = self.agents[agent].linked;
        self.tell_agent(agent, if linked { AgentEvent::LinkUp } else { AgentEvent::LinkDown });
    }

    pub(crate) fn tell_agent(&mut self, agent: usize, event: AgentEvent) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            if event != AgentEvent::Tick {
                self.note(|| format!("agent {agent} <- {event:?}"));
            }
            let now = self.now;
            let Some(session) = self.agents[agent].session.as_mut() else { return };
            for effect in session.handle(now, event) {
                self.note(|| format!("agent {agent}    {effect:?}"));
                match effect {
                    AgentEffect::Ask { number, ask } => {
                        let (instance, event) =
                            (self.agents[agent].instance, self.agents[agent].question(number, ask));
                        for hub in 0..self.hubs.len() {
                            let event = event.clone();
                            self.post(Node::Agent(agent), Mail::Question { hub, instance, event });
                        }
                    }
                    AgentEffect::Subscribe(epoch) => next = Some(self.agents[agent].hear(epoch)),
                    AgentEffect::ServeUntil { epoch, until } => {
                        let until = until + self.stretched;
                        self.agents[agent].lease.extend(epoch, until);
                        let (instance, boot) = (self.agents[agent].instance, self.agents[agent].boot);
                        let noted = self.ledger.note_served(instance, epoch, boot, until);
                        self.demand(noted);
                    }
                    AgentEffect::Begin { epoch, since } => {
                        let place = &mut self.agents[agent];
                        let (instance, store) = (place.instance, place.store);
                        let before = place.begun.replace(epoch);
                        let noted = self.ledger.note_begin(instance, store, before, epoch, since);
                        self.demand(noted);
                    }
                    AgentEffect::StopServing => self.stop_serving(agent),
                    AgentEffect::HubTime { hub_unix_ms, asked_at } => {
                        self.agents[agent].lease.set_hub_time(hub_unix_ms, asked_at, now);
                    }
                    AgentEffect::End(reason) => {
                        self.end_session(agent, reason);
                        return;
                    }
                }
            }
        }
    }

    fn stop_serving(&mut self, agent: usize) {
        self.agents[agent].lease.end();
        self.ledger.note_stopped(self.agents[agent].boot);
    }

    /// What the clock of the hubs' machines shows: they keep the time, and so agree.
    fn hub_unix_ms(&self) -> u64 {
        HUB_EPOCH_UNIX_MS + u64::try_from(self.now.as_duration().as_millis()).expect("some minutes")
    }

    /// As `agent::link` does: whoever was kicked comes back as a standby, in the same process.
    fn end_session(&mut self, agent: usize, reason: EndReason) {
        self.stop_serving(agent);
        let place = &mut self.agents[agent];
        (place.session, place.lease, place.hears) = (None, Lease::default(), None);
        self.ends.insert(agent, reason.clone());
        if matches!(reason, EndReason::Kicked { .. }) {
            self.claim(agent, ClaimMode::Standby);
        }
    }

    pub(super) fn tell_hub(&mut self, hub: usize, instance: usize, event: HubEvent) {
        if !self.hubs[hub].up {
            return;
        }
        if self.hubs[hub].frozen {
            self.hubs[hub].waiting.push_back((instance, event));
            return;
        }
        if event != HubEvent::Tick {
            self.note(|| format!("hub {hub}/{instance} <- {event:?}"));
        }
        self.note_takeover(instance, &event);
        let (now, hub_unix_ms) = (self.now, self.hub_unix_ms());
        for effect in self.hubs[hub].feed(now, instance, event) {
            self.note(|| format!("hub {hub}/{instance}    {effect:?}"));
            let from = Node::Hub(hub);
            match effect {
                HubEffect::AnswerClaim { boot, number, mut answer } => {
                    answer.hub_unix_ms = hub_unix_ms;
                    let event = AgentEvent::ClaimAnswered { number, answer };
                    self.post(from, Mail::Answer { boot, event });
                }
                HubEffect::AnswerReady { boot, number, mut answer } => {
                    answer.hub_unix_ms = hub_unix_ms;
                    let event = AgentEvent::ReadyAnswered { number, answer };
                    self.post(from, Mail::Answer { boot, event });
                }
                HubEffect::AnswerRenewal { boot, number, mut answer } => {
                    answer.hub_unix_ms = hub_unix_ms;
                    let event = AgentEvent::RenewalAnswered { number, answer };
                    self.post(from, Mail::Answer { boot, event });
                }
                HubEffect::Order(mut order) => {
                    order.hub_unix_ms = hub_unix_ms;
                    self.post(from, Mail::Order { instance, order });
                }
                HubEffect::Reserve { boot, nonce, above } => {
                    let claim = ClaimId { boot, nonce };
                    self.request(hub, instance, Request::Reserve { claim, above });
                }
                HubEffect::ReadEpoch { question } => {
                    self.request(hub, instance, Request::ReadEpoch { question });
                }
                HubEffect::Activate { expected, grant } => {
                    self.request(hub, instance, Request::Activate { expected, grant });
                }
                HubEffect::NoteEnd { epoch } => self.request(hub, instance, Request::NoteEnd { epoch }),
                HubEffect::CountKick => self.ledger.kicks_counted += 1,
                HubEffect::Tell { epoch, kind: EventKind::Kicked, .. } => {
                    let noted = self.ledger.note_kick(instance, epoch, &self.records[instance]);
                    self.demand(noted);
                }
                HubEffect::Tell { .. } => {}
            }
        }
    }

    /// A hub is about to hear that it has replaced a session. If that one holds its lease still, it must be counted as
    /// kicked. Only one hub alone is held to it: of several, one may not have heard the older session for long.
    fn note_takeover(&mut self, instance: usize, event: &HubEvent) {
        let HubEvent::Activated { epoch, result: Ok(Activation::Won) } = event else { return };
        let Some(older) = self.records[instance].replaced_by(*epoch) else { return };
        let holds = |agent: &usize| self.agents[*agent].may_begin(self.now) == Some(older);
        if self.hubs.len() == 1 && self.serving(instance).iter().any(holds) {
            self.ledger.note_takeover(instance, older);
        }
    }

    fn request(&mut self, hub: usize, instance: usize, request: Request) {
        let process = self.hubs[hub].process;
        let delay = self.authority_delay();
        self.after(delay, Happening::Authority { hub, process, instance, request });
    }

    fn authority_delay(&mut self) -> Duration {
        let slow = self.troubles.slow.iter().any(|(_, until)| self.now < *until);
        let most = if slow { AUTHORITY_SLOW_MAX } else { AUTHORITY_QUICK_MAX };
        self.random.ms(0, u64::try_from(most.as_millis()).expect("a second or two"))
    }

    pub(super) fn ask_authority(&mut self, hub: usize, process: u64, instance: usize, request: Request) {
        let doubtful = self.now < self.troubles.doubtful_until;
        let doubt = doubtful.then_some(&mut self.random);
        let answer = self.records[instance].handle(request, doubt);
        let noted = self.ledger.note_history(instance, &self.records[instance]);
        self.demand(noted);
        if let Some(event) = answer {
            let delay = self.authority_delay();
            self.after(delay, Happening::Answered { hub, process, instance, event });
        }
    }

    pub(super) fn tick_hub(&mut self, hub: usize) {
        let (now, place) = (self.now, &mut self.hubs[hub]);
        if !place.up || place.frozen {
            return;
        }
        if let Some(wrong) = place.look(now) {
            self.demand(Err(wrong));
        }
        if !self.hubs[hub].linked {
            return;
        }
        for instance in 0..self.records.len() {
            self.tell_hub(hub, instance, HubEvent::Tick);
        }
    }

    /// A hub calls whomever it may call.
    pub(super) fn call(&mut self, hub: usize) {
        if !self.hubs[hub].hears() || self.hubs[hub].frozen {
            return;
        }
        for instance in 0..self.records.len() {
            if let Some(epoch) = self.hubs[hub].target(instance) {
                self.attempts += 1;
                let longest = u64::try_from(limits::CALL_SILENCE_MAX.as_millis()).expect("some seconds");
                let wanted = self.random.ms(WANTED_MS_MIN, longest).as_millis();
                let not_after = self.hub_unix_ms() + u64::try_from(wanted).expect("some seconds");
                let call = Call { epoch, attempt: self.attempts, not_after };
                self.post(Node::Hub(hub), Mail::Call { instance, call });
            }
        }
    }

    /// As the responder does, but that a call which overtook its go is refused here, and there waits a second for it.
    pub(super) fn take_call(&mut self, agent: usize, call: Call) {
        let Call { epoch, attempt, not_after } = call;
        let place = &mut self.agents[agent];
        if let Err(why) = place.lease.check(epoch, Some(not_after), self.now) {
            self.ledger.late += usize::from(why == NotNow::TooLate);
            self.note(|| format!("agent {agent} refuses call {attempt} of {epoch}: {why:?}"));
            return;
        }
        place.running.insert(attempt);
        let (instance, boot) = (place.instance, place.boot);
        self.note(|| format!("agent {agent} begins call {attempt} of {epoch}"));
        let begun = self.ledger.note_begun(self.now, instance, boot, &call);
        self.demand(begun);
        let late = self.hub_unix_ms().saturating_sub(not_after);
        let wanted =
            if late == 0 { Ok(()) } else { Err(format!("call {attempt} begins {late} ms too late")) };
        self.demand(wanted);
        let takes = self.random.ms(0, CALL_MS_MAX);
        self.after(takes, Happening::CallEnds { agent, boot, attempt });
    }

    pub(super) fn freeze(&mut self, node: Node) {
        match node {
            Node::Agent(agent) => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.frozen = true;
                }
            }
            Node::Hub(hub) => self.hubs[hub].freeze(self.now),
        }
    }

    /// A process goes on: its timers and its buffers at once, in any order, but each buffer in its own.
    pub(super) fn thaw(&mut self, node: Node) {
        match node {
            Node::Agent(agent) if agent < self.agents.len() && self.agents[agent].frozen => {
                self.agents[agent].frozen = false;
                loop {
                    let place = &mut self.agents[agent];
                    let (events, calls) = (place.events.len(), place.calls.len());
                    match self.random.below(3) {
                        0 => self.tell_agent(agent, AgentEvent::Tick),
                        1 if calls > 0 => {
                            let call = place.calls.pop_front().expect("one waits");
                            self.take_call(agent, call);
                        }
                        2 if events > 0 => {
                            let event = place.events.pop_front().expect("one waits");
                            self.tell_agent(agent, event);
                        }
                        _ if events + calls == 0 => return,
                        _ => {}
                    }
                }
            }
            Node::Hub(hub) if self.hubs[hub].frozen => {
                self.hubs[hub].thaw(self.now);
                if self.random.chance(50) {
                    self.tick_hub(hub);
                }
                while let Some((instance, event)) = self.hubs[hub].waiting.pop_front() {
                    self.tell_hub(hub, instance, event);
                }
            }
            _ => {}
        }
    }

    pub(super) fn link(&mut self, node: Node, linked: bool) {
        match node {
            Node::Agent(agent) if agent < self.agents.len() => {
                self.agents[agent].linked = linked;
                let event = if linked { AgentEvent::LinkUp } else { AgentEvent::LinkDown };
                if self.agents[agent].frozen {
                    self.agents[agent].events.push_back(event);
                } else {
                    self.tell_agent(agent, event);
                }
            }
            Node::Agent(_) => {}
            Node::Hub(hub) => {
                let is_told = self.random.chance(50);
                self.hubs[hub].link(self.now, linked, is_told);
            }
        }
    }

    pub(crate) fn start_hub(&mut self, hub: usize) {
        self.processes += 1;
        let grants: Vec<_> = self.records.iter().map(|record| record.active.clone()).collect();
        self.hubs[hub] = Hub::start(self.processes, self.now, self.replicas(), &grants);
        self.note(|| format!("hub {hub} starts from {grants:?}"));
    }
}
