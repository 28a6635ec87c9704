//! The two machines against each other, on a virtual clock and a queue of messages that a seeded scheduler delays, drops,
//! doubles and reorders. After every event the invariants of the module are checked.
//!
//! This is the small sibling of the simulation and the exhaustive model; it needs no runtime and takes milliseconds.

use std::time::Duration;

use towline_protocol::session::{
    ClaimAnswer, ClaimMode, Leaving, Order, Ready, Renewal, RenewalAnswer, SessionOrder,
};
use towline_protocol::{BootId, Epoch, StoreId, limits};
use uuid::Uuid;

use super::{
    AgentEffect, AgentEvent, AgentSession, Ask, EndReason, HubEffect, HubEvent, HubSession, Identity,
};
use crate::authority::{Activation, Grant};
use crate::clock::Moment;

const STEP: Duration = Duration::from_millis(50);

/// What travels.
#[derive(Debug, Clone)]
enum Mail {
    ToHub(HubEvent),
    Claim(BootId, u32, ClaimAnswer),
    Ready(BootId, u32, SessionOrder),
    Order(SessionOrder),
    Renewal(BootId, u32, RenewalAnswer),
}

struct Agent {
    boot: BootId,
    session: AgentSession,
    lease: Option<(Epoch, Moment)>,
    hears: Option<Epoch>,
    ended: Option<EndReason>,
    linked: bool,
    frozen: bool,
    /// What came while it was frozen.
    waiting: Vec<AgentEvent>,
}

/// A hub, its authority, agents, and what is under way between them.
struct World {
    now: Moment,
    random: u64,
    hub: HubSession,
    reserved: u64,
    active: Option<Grant>,
    agents: Vec<Agent>,
    mail: Vec<(Moment, Mail)>,
    loss: u64,
    kicks: u64,
    kicked: Vec<Epoch>,
    activated: Vec<Epoch>,
}

impl World {
    fn new(seed: u64, loss: u64) -> Self {
        Self {
            now: Moment::since_boot(Duration::from_secs(100)),
            random: seed,
            hub: HubSession::default(),
            reserved: 1_000,
            active: None,
            agents: Vec::new(),
            mail: Vec::new(),
            loss,
            kicks: 0,
            kicked: Vec::new(),
            activated: Vec::new(),
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn start_agent(&mut self, mode: ClaimMode) -> usize {
        let number = u128::try_from(self.agents.len()).unwrap() + 1;
        let (boot, store) = (BootId::new(Uuid::from_u128(number)), StoreId::new(Uuid::from_u128(number)));
        let identity = Identity {
            boot,
            store,
            last_epoch: None,
            version: "1".into(),
            runtime: "mock".into(),
            calls: vec!["ping".into()],
        };
        let seed = self.random(u64::MAX);
        let session = AgentSession::new(identity, mode, seed);
        let agent = Agent {
            boot,
            session,
            lease: None,
            hears: None,
            ended: None,
            linked: true,
            frozen: false,
            waiting: Vec::new(),
        };
        self.agents.push(agent);
        let index = self.agents.len() - 1;
        self.tell_agent(index, AgentEvent::LinkUp);
        index
    }

    /// Agents that may begin calls now.
    fn serving(&self) -> Vec<usize> {
        let holds = |agent: &Agent| agent.lease.is_some_and(|(_, until)| self.now <= until);
        (0..self.agents.len()).filter(|index| holds(&self.agents[*index])).collect()
    }

    fn post(&mut self, mail: Mail) {
        if self.random(100) < self.loss {
            return;
        }
        let copies = if self.random(100) < self.loss { 2 } else { 1 };
        for _ in 0..copies {
            let delay = Duration::from_millis(self.random(if self.loss > 0 { 400 } else { 10 }));
            self.mail.push((self.now + delay, mail.clone()));
        }
    }

    fn tell_hub(&mut self, event: HubEvent) {
        for effect in self.hub.handle(self.now, event) {
            match effect {
                HubEffect::AnswerClaim { boot, number, answer } => {
                    self.post(Mail::Claim(boot, number, answer))
                }
                HubEffect::AnswerReady { boot, number, answer } => {
                    self.post(Mail::Ready(boot, number, answer))
                }
                HubEffect::AnswerRenewal { boot, number, answer } => {
                    self.post(Mail::Renewal(boot, number, answer))
                }
                HubEffect::Order(order) => self.post(Mail::Order(order)),
                HubEffect::Reserve { nonce, above } => {
                    self.reserved = self.reserved.max(above.map_or(0, Epoch::get)) + 1;
                    let result = Ok(Epoch::new(self.reserved).unwrap());
                    self.tell_hub(HubEvent::Reserved { nonce, result });
                }
                HubEffect::Activate { expected, grant } => self.activate(expected, grant),
                HubEffect::NoteEnd { epoch } => {
                    if let Some(active) = self.active.as_mut().filter(|active| active.epoch == epoch) {
                        active.ended = true;
                    }
                }
                HubEffect::CountKick => self.kicks += 1,
                HubEffect::Tell { epoch, kind, .. } => {
                    if kind.as_str() == "kicked" {
                        self.kicked.push(epoch);
                    }
                }
            }
        }
    }

    fn activate(&mut self, expected: Option<Epoch>, grant: Grant) {
        let epoch = grant.epoch;
        let holds = self.active.as_ref().map(|active| active.epoch) == expected;
        let result = if holds {
            assert!(self.activated.last().is_none_or(|last| *last < epoch), "epochs never go back");
            self.activated.push(epoch);
            self.active = Some(grant);
            Activation::Won
        } else {
            Activation::Lost { active: self.active.clone() }
        };
        self.tell_hub(HubEvent::Activated { epoch, result: Ok(result) });
    }

    fn tell_agent(&mut self, index: usize, event: AgentEvent) {
        let boot = self.agents[index].boot;
        for effect in self.agents[index].session.handle(self.now, event) {
            match effect {
                AgentEffect::Ask { number, ask } => {
                    let applied = bytes::Bytes::new();
                    let event = match ask {
                        Ask::Claim(claim) => HubEvent::Claim { number, claim },
                        Ask::Ready(epoch) => {
                            HubEvent::Ready { number, ready: Ready { boot, epoch, applied } }
                        }
                        Ask::Renewal(epoch) => {
                            let renewal = Renewal { boot, epoch, applied, health: Default::default() };
                            HubEvent::Renewal { number, renewal }
                        }
                        Ask::StandDown(epoch) => HubEvent::StoodDown { leaving: Leaving { boot, epoch } },
                        Ask::Goodbye(epoch) => HubEvent::Goodbye { leaving: Leaving { boot, epoch } },
                    };
                    if self.agents[index].linked {
                        self.post(Mail::ToHub(event));
                    }
                }
                AgentEffect::Subscribe(epoch) => {
                    self.agents[index].hears = Some(epoch);
                    self.tell_agent(index, AgentEvent::Subscribed { epoch });
                }
                AgentEffect::ServeUntil { epoch, until } => {
                    let agent = &mut self.agents[index];
                    let until =
                        agent.lease.filter(|(held, _)| *held == epoch).map_or(until, |(_, at)| at.max(until));
                    agent.lease = Some((epoch, until));
                }
                AgentEffect::HubTime { .. } => {}
                AgentEffect::StopServing => self.agents[index].lease = None,
                AgentEffect::End(reason) => {
                    let agent = &mut self.agents[index];
                    (agent.lease, agent.hears, agent.ended) = (None, None, Some(reason));
                }
            }
        }
        self.check();
    }

    /// At most one agent may begin calls, and it serves the epoch that is active.
    fn check(&self) {
        let serving = self.serving();
        assert!(serving.len() <= 1, "{} agents serve at once at {:?}", serving.len(), self.now);
    }

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::ToHub(event) => self.tell_hub(event),
            Mail::Claim(boot, number, answer) => {
                self.tell_boot(boot, AgentEvent::ClaimAnswered { number, answer })
            }
            Mail::Ready(boot, number, answer) => {
                self.tell_boot(boot, AgentEvent::ReadyAnswered { number, answer })
            }
            Mail::Renewal(boot, number, answer) => {
                self.tell_boot(boot, AgentEvent::RenewalAnswered { number, answer })
            }
            Mail::Order(order) => {
                let hears = |agent: &Agent| agent.hears == Some(order.epoch) && agent.linked;
                if let Some(index) = self.agents.iter().position(hears) {
                    self.tell_boot(self.agents[index].boot, AgentEvent::Ordered(order));
                }
            }
        }
    }

    fn tell_boot(&mut self, boot: BootId, event: AgentEvent) {
        let index = self.agents.iter().position(|agent| agent.boot == boot).unwrap();
        let agent = &mut self.agents[index];
        if agent.frozen {
            // It waits in the socket of a process that does not run.
            agent.waiting.push(event);
        } else if agent.linked && agent.ended.is_none() {
            self.tell_agent(index, event);
        }
    }

    /// A frozen process goes on: its timers and its buffers at once, in either order.
    fn thaw(&mut self, index: usize) {
        self.agents[index].frozen = false;
        let timers_first = self.random(2) == 0;
        if timers_first {
            self.tick(index);
        }
        for event in std::mem::take(&mut self.agents[index].waiting) {
            if self.agents[index].ended.is_none() {
                self.tell_agent(index, event);
            }
        }
        self.tick(index);
    }

    fn tick(&mut self, index: usize) {
        if !self.agents[index].frozen && self.agents[index].ended.is_none() {
            self.tell_agent(index, AgentEvent::Tick);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + STEP;
            let now = self.now;
            let mut due: Vec<_> = self.mail.extract_if(.., |(at, _)| *at <= now).collect();
            due.sort_by_key(|(at, _)| *at);
            for (_, mail) in due {
                self.deliver(mail);
            }
            for index in 0..self.agents.len() {
                self.tick(index);
            }
            self.tell_hub(HubEvent::Tick);
            self.check();
        }
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn one_agent_serves_and_keeps_its_epoch() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(60));
    assert_eq!((world.serving(), world.kicks), (vec![0], 0));
    assert_eq!(world.activated.len(), 1, "a session that goes on writes nothing");
}

#[test]
fn the_newest_wins_within_moments() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(5));
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(1));
    assert_eq!(world.serving(), [1]);
    assert_eq!(world.agents[0].ended, Some(EndReason::Kicked { by: world.activated.last().copied() }));
    assert_eq!(world.kicks, 1);
}

#[test]
fn a_frozen_holder_is_waited_for_and_begins_nothing_when_it_thaws() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(5));
    world.agents[0].frozen = true;
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(2));
    assert_eq!(world.hub.target(), None, "nobody may be called while the older lease may hold");
    world.run(limits::LEASE_HUB);
    assert_eq!(world.serving(), [1]);
    world.thaw(0);
    world.run(seconds(5));
    assert_eq!(world.serving(), [1], "it is told, and stands down");
    assert!(matches!(world.agents[0].ended, Some(EndReason::Kicked { .. })));
}

#[test]
fn a_lost_link_is_resumed_under_the_same_epoch() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(5));
    world.agents[0].linked = false;
    world.tell_agent(0, AgentEvent::LinkDown);
    world.run(seconds(30));
    assert!(world.serving().is_empty(), "without answers its lease has ended");
    world.agents[0].linked = true;
    world.tell_agent(0, AgentEvent::LinkUp);
    world.run(seconds(1));
    assert_eq!((world.serving(), world.activated.len(), world.kicks), (vec![0], 1, 0));
}

#[test]
fn a_hub_that_forgot_is_told() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(5));
    let grant = world.active.clone().unwrap();
    world.hub = HubSession::restored(world.now, &grant);
    world.run(seconds(5));
    assert_eq!((world.serving(), world.activated.len()), (vec![0], 1));
    assert_eq!(world.hub.target().unwrap().version, "1");
    // And one that never knew it grants a new epoch.
    world.hub = HubSession::default();
    world.active = None;
    world.run(seconds(10));
    assert_eq!((world.serving(), world.activated.len()), (vec![0], 2));
}

#[test]
fn a_goodbye_outlives_the_hub() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(5));
    world.tell_agent(0, AgentEvent::Leave(EndReason::Left));
    world.run(seconds(1));
    world.hub = HubSession::restored(world.now, &world.active.clone().unwrap());
    world.start_agent(ClaimMode::Fresh);
    world.run(Duration::from_millis(500));
    assert_eq!((world.serving(), world.kicks), (vec![1], 0), "nobody waits for a lease that was given back");
}

#[test]
fn a_standby_takes_over_only_from_nobody() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.start_agent(ClaimMode::Standby);
    world.run(seconds(30));
    assert_eq!((world.serving(), world.kicks), (vec![0], 0));
    world.tell_agent(0, AgentEvent::Leave(EndReason::Left));
    world.run(seconds(6));
    assert_eq!((world.serving(), world.kicks), (vec![1], 0));
}

#[test]
fn agents_that_fight_are_made_to_stand_by() {
    let mut world = World::new(1, 0);
    for _ in 0..10 {
        world.start_agent(ClaimMode::Fresh);
        world.run(seconds(3));
    }
    assert_eq!(usize::try_from(world.kicks).unwrap(), limits::TAKEOVERS_MAX);
    assert_eq!(world.serving(), [limits::TAKEOVERS_MAX]);
}

#[test]
fn an_order_of_another_epoch_means_nothing() {
    let mut world = World::new(1, 0);
    world.start_agent(ClaimMode::Fresh);
    world.run(seconds(5));
    for epoch in [1, 999_999] {
        let epoch = Epoch::new(epoch).unwrap();
        let order = SessionOrder { order: Order::Kick, epoch, by: None, hub_unix_ms: 0 };
        world.tell_agent(0, AgentEvent::Ordered(order));
    }
    assert_eq!(world.serving(), [0]);
}

/// Any number of simultaneous subscribers under loss, doubling, delay and reordering: never two at once, and exactly one
/// in the end.
#[test]
fn x_k2_exactly_one_serves_once_the_faults_stop() {
    for seed in 0..1_000 {
        let mut world = World::new(seed, 20);
        let agents = 2 + world.random(4);
        for _ in 0..agents {
            world.start_agent(ClaimMode::Fresh);
            let pause = Duration::from_millis(world.random(300));
            world.run(pause);
        }
        for _ in 0..10 {
            let index = usize::try_from(world.random(agents)).unwrap();
            match world.random(2) {
                0 => world.agents[index].frozen = true,
                _ => world.thaw(index),
            }
            world.run(seconds(1));
            let back: Vec<_> =
                (0..world.agents.len()).filter(|index| world.agents[*index].ended.is_some()).collect();
            // Whoever was kicked comes back as a standby, in a process of its own.
            if !back.is_empty() && world.agents.len() < 12 && world.random(3) == 0 {
                world.start_agent(ClaimMode::Standby);
            }
        }
        world.loss = 0;
        (0..world.agents.len()).for_each(|index| world.thaw(index));
        world.run(seconds(40));
        if world.agents.iter().all(|agent| agent.ended.is_some()) {
            world.start_agent(ClaimMode::Standby);
            world.run(seconds(20));
        }
        assert_eq!(world.serving().len(), 1, "seed {seed}");
        let mut kicked = world.kicked.clone();
        kicked.sort_unstable();
        kicked.dedup();
        assert_eq!(kicked.len(), world.kicked.len(), "a session was kicked twice, seed {seed}");
        assert_eq!(u64::try_from(kicked.len()).unwrap(), world.kicks, "seed {seed}");
    }
}
