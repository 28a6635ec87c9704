//! Doing what the machines say, as the drivers do.

use std::time::Duration;

use towline_bus::authority::ClaimId;
use towline_bus::event::EventKind;
use towline_bus::session::{AgentEffect, AgentEvent, EndReason, HubEffect, HubEvent};
use towline_protocol::Epoch;
use towline_protocol::session::ClaimMode;

use super::{Happening, Mail, World};
use crate::authority::Request;
use crate::faults::{AUTHORITY_SLOW_MAX, Node};
use crate::hub::{self, Hub};

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
                        self.agents[agent].serve_until(epoch, until + self.stretched);
                        let (instance, boot) = (self.agents[agent].instance, self.agents[agent].boot);
                        let noted = self.ledger.note_served(instance, epoch, boot);
                        self.demand(noted);
                    }
                    AgentEffect::Begin { epoch, since } => {
                        let place = &mut self.agents[agent];
                        let (instance, store) = (place.instance, place.store);
                        let before = place.begun.replace(epoch);
                        let noted = self.ledger.note_begin(instance, store, before, epoch, since);
                        self.demand(noted);
                    }
                    AgentEffect::StopServing => self.agents[agent].lease = None,
                    AgentEffect::HubTime { .. } => {}
                    AgentEffect::End(reason) => {
                        self.end_session(agent, reason);
                        return;
                    }
                }
            }
        }
    }

    /// As `agent::link` does: whoever was kicked comes back as a standby, in the same process.
    fn end_session(&mut self, agent: usize, reason: EndReason) {
        let place = &mut self.agents[agent];
        (place.session, place.lease, place.hears) = (None, None, None);
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
        let now = self.now;
        for effect in self.hubs[hub].feed(now, instance, event) {
            self.note(|| format!("hub {hub}/{instance}    {effect:?}"));
            let from = Node::Hub(hub);
            match effect {
                HubEffect::AnswerClaim { boot, number, answer } => {
                    let event = AgentEvent::ClaimAnswered { number, answer };
                    self.post(from, Mail::Answer { boot, event });
                }
                HubEffect::AnswerReady { boot, number, answer } => {
                    let event = AgentEvent::ReadyAnswered { number, answer };
                    self.post(from, Mail::Answer { boot, event });
                }
                HubEffect::AnswerRenewal { boot, number, answer } => {
                    let event = AgentEvent::RenewalAnswered { number, answer };
                    self.post(from, Mail::Answer { boot, event });
                }
                HubEffect::Order(order) => self.post(from, Mail::Order { instance, order }),
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
                    let noted = self.ledger.note_kick(self.hubs[hub].process, instance, epoch);
                    self.demand(noted);
                }
                HubEffect::Tell { .. } => {}
            }
        }
    }

    fn request(&mut self, hub: usize, instance: usize, request: Request) {
        let process = self.hubs[hub].process;
        let delay = self.authority_delay();
        self.after(delay, Happening::Authority { hub, process, instance, request });
    }

    fn authority_delay(&mut self) -> Duration {
        let slow = self.now < self.troubles.slow_until;
        let most = if slow { AUTHORITY_SLOW_MAX.as_millis() } else { 2 };
        self.random.ms(0, u64::try_from(most).expect("a second or two"))
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
        if !place.hears() || place.frozen {
            return;
        }
        if let Some(wrong) = place.look(now) {
            self.demand(Err(wrong));
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
                self.post(Node::Hub(hub), Mail::Call { instance, epoch, attempt: self.attempts });
            }
        }
    }

    /// The rule of `bus::exchange`: a call begins under a lease of its epoch, or not at all.
    pub(super) fn take_call(&mut self, agent: usize, epoch: Epoch, attempt: u64) {
        let place = &mut self.agents[agent];
        if place.may_begin(self.now) != Some(epoch) {
            self.note(|| format!("agent {agent} refuses call {attempt} of {epoch}"));
            return;
        }
        place.running.insert(attempt);
        let (instance, boot) = (place.instance, place.boot);
        self.note(|| format!("agent {agent} begins call {attempt} of {epoch}"));
        let begun = self.ledger.note_begun(self.now, instance, epoch, attempt);
        self.demand(begun);
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
            Node::Hub(hub) => self.hubs[hub].frozen = true,
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
                            let (epoch, attempt) = place.calls.pop_front().expect("one waits");
                            self.take_call(agent, epoch, attempt);
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
                self.hubs[hub].frozen = false;
                self.hubs[hub].looks_by = self.now + hub::TICK;
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
                let now = self.now;
                let hub = &mut self.hubs[hub];
                hub.linked = linked;
                if linked {
                    hub.deaf_until = now + towline_protocol::limits::RENEW_EVERY;
                }
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
