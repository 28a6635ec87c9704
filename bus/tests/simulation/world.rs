//! Hubs, their authority, agents, and what is under way between them: one queue of happenings on a virtual clock.

mod doing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use towline_bus::authority::Replicas;
use towline_bus::clock::Moment;
use towline_bus::session::{AgentEvent, EndReason, HubEvent};
use towline_protocol::session::{ClaimMode, SessionOrder};
use towline_protocol::{BootId, Epoch, limits};

use super::agent::{Agent, Call};
use super::authority::{Record, Request};
use super::faults::{AUTHORITY_QUICK_MAX, AUTHORITY_SLOW_MAX, Fault, Node, Plan, Step, Way};
use super::hub::{self, Hub};
use super::invariants::Ledger;
use super::random::Random;

/// How often an agent's driver looks at the clock.
const AGENT_TICK: Duration = Duration::from_millis(100);

/// How often a hub calls each instance that it may call.
const CALL_EVERY: Duration = Duration::from_millis(300);

/// What travels, and where it arrives.
#[derive(Debug, Clone)]
pub(crate) enum Mail {
    Question { hub: usize, instance: usize, event: HubEvent },
    Answer { boot: BootId, event: AgentEvent },
    Order { instance: usize, order: SessionOrder },
    Call { instance: usize, call: Call },
}

/// What happens next.
#[derive(Debug, Clone)]
enum Happening {
    Start { agent: usize, mode: ClaimMode },
    Begin(Step),
    End(Fault),
    Arrive { from: Node, mail: Mail },
    AgentTick(usize),
    HubTick(usize),
    Call { hub: usize },
    CallEnds { agent: usize, boot: BootId, attempt: u64 },
    Authority { hub: usize, process: u64, instance: usize, request: Request },
    Answered { hub: usize, process: u64, instance: usize, event: HubEvent },
}

/// What faults are on, each until its moment; a later one of the same kind extends an earlier.
#[derive(Debug, Clone, Default)]
struct Troubles {
    weather: (u64, u64, u64),
    weather_until: Moment,
    /// Each time that the authority was slow, from and until.
    slow: Vec<(Moment, Moment)>,
    doubtful_until: Moment,
    cut: BTreeMap<usize, (Way, Moment)>,
    deaf: BTreeMap<(usize, usize), Moment>,
    frozen_until: BTreeMap<usize, Moment>,
    unlinked_until: BTreeMap<usize, Moment>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) agents: Vec<Agent>,
    pub(crate) hubs: Vec<Hub>,
    pub(crate) records: Vec<Record>,
    pub(crate) ledger: Ledger,
    random: Random,
    queue: BTreeMap<(Moment, u64), Happening>,
    queued: u64,
    processes: u64,
    attempts: u64,
    troubles: Troubles,
    stretched: Duration,
    /// Why each agent's last session ended.
    pub(crate) ends: BTreeMap<usize, EndReason>,
    log: Option<String>,
    broken: Option<String>,
}

impl World {
    pub(crate) fn new(plan: &Plan, logged: bool) -> Self {
        let now = Moment::since_boot(Duration::from_secs(100));
        let records = vec![Record::default(); plan.instances];
        let grants = vec![None; plan.instances];
        let mut world = Self {
            now,
            agents: Vec::new(),
            hubs: (0..plan.hubs)
                .map(|number| Hub::start(number as u64, now, replicas_of(plan.hubs), &grants))
                .collect(),
            records,
            ledger: Ledger::default(),
            random: Random::new(plan.seed ^ 0x5eed),
            queue: BTreeMap::new(),
            queued: 0,
            processes: plan.hubs as u64,
            attempts: 0,
            troubles: Troubles::default(),
            stretched: plan.lease_stretched,
            ends: BTreeMap::new(),
            log: logged.then(String::new),
            broken: None,
        };
        for hub in 0..plan.hubs {
            let out_of_step = world.random.ms(0, 249);
            world.after(out_of_step, Happening::HubTick(hub));
            world.after(out_of_step, Happening::Call { hub });
        }
        for start in &plan.starts {
            let agent = world.add_agent(start.instance);
            world.after(start.at, Happening::Start { agent, mode: start.mode.clone() });
        }
        for step in &plan.steps {
            world.after(step.at, Happening::Begin(*step));
        }
        world
    }

    const fn replicas(&self) -> Replicas {
        replicas_of(self.hubs.len())
    }

    fn add_agent(&mut self, instance: usize) -> usize {
        let agent = self.agents.len();
        self.agents.push(Agent::new(instance, agent));
        let out_of_step = self.random.ms(0, 99);
        self.after(out_of_step, Happening::AgentTick(agent));
        agent
    }

    /// A new agent, now.
    pub(crate) fn start(&mut self, instance: usize, mode: ClaimMode) -> usize {
        let agent = self.add_agent(instance);
        self.happen(Happening::Start { agent, mode });
        agent
    }

    /// A fault, from now on.
    pub(crate) fn inject(&mut self, fault: Fault, lasting: Duration) {
        self.happen(Happening::Begin(Step { at: Duration::ZERO, lasting, fault }));
    }

    /// The agents that may begin calls now.
    pub(crate) fn serving(&self, instance: usize) -> Vec<usize> {
        let agents = self.agents.iter().enumerate();
        agents
            .filter(|(_, agent)| agent.instance == instance && agent.may_begin(self.now).is_some())
            .map(|(index, _)| index)
            .collect()
    }

    pub(crate) fn log(&self) -> &str {
        self.log.as_deref().unwrap_or_default()
    }

    /// Goes on for so long, or until an invariant breaks.
    pub(crate) fn run(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        while self.broken.is_none()
            && let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        match self.broken.take() {
            Some(broken) => {
                self.note(|| format!("BROKEN {broken}"));
                Err(broken)
            }
            None => {
                self.now = end;
                Ok(())
            }
        }
    }

    fn after(&mut self, time: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + time, self.queued), happening);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        let at = self.now.as_duration();
        if let Some(log) = &mut self.log {
            writeln!(log, "{:>10.3} {}", at.as_secs_f64(), line()).expect("a string takes everything");
        }
    }

    fn demand(&mut self, outcome: Result<(), String>) {
        if let Err(broken) = outcome {
            self.broken.get_or_insert(broken);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start { agent, mode } => self.boot(agent, mode),
            Happening::Begin(step) => self.begin(step),
            Happening::End(fault) => self.end(fault),
            Happening::Arrive { from, mail } => self.arrive(from, mail),
            Happening::AgentTick(agent) => {
                if !self.agents[agent].frozen {
                    self.tell_agent(agent, AgentEvent::Tick);
                }
                self.after(AGENT_TICK, Happening::AgentTick(agent));
            }
            Happening::HubTick(hub) => {
                self.tick_hub(hub);
                self.after(hub::TICK, Happening::HubTick(hub));
            }
            Happening::Call { hub } => {
                self.call(hub);
                self.after(CALL_EVERY, Happening::Call { hub });
            }
            Happening::CallEnds { agent, boot, attempt } => {
                if self.agents[agent].boot == boot {
                    self.agents[agent].running.remove(&attempt);
                }
            }
            Happening::Authority { hub, process, instance, request } => {
                self.ask_authority(hub, process, instance, request);
            }
            Happening::Answered { hub, process, instance, event } => {
                if self.hubs[hub].process == process {
                    self.tell_hub(hub, instance, event);
                }
            }
        }
        let checked = super::invariants::check(self);
        self.demand(checked);
    }

    fn begin(&mut self, step: Step) {
        self.note(|| format!("fault {:?} for {:?}", step.fault, step.lasting));
        let until = self.now + step.lasting;
        let troubles = &mut self.troubles;
        match step.fault {
            Fault::Weather { loss, doubling, delay_ms } => {
                troubles.weather = (loss, doubling, delay_ms);
                troubles.weather_until = troubles.weather_until.max(until);
            }
            Fault::SlowAuthority => troubles.slow.push((self.now, until)),
            Fault::DoubtfulAuthority => troubles.doubtful_until = troubles.doubtful_until.max(until),
            Fault::Cut(agent, way) => {
                troubles.cut.insert(agent, (way, until));
            }
            Fault::Deaf { hub, agent } => {
                troubles.deaf.insert((hub, agent), until);
            }
            Fault::Freeze(node) => {
                extend(&mut troubles.frozen_until, node, until);
                self.freeze(node);
            }
            Fault::Unlink(node) => {
                extend(&mut troubles.unlinked_until, node, until);
                self.link(node, false);
            }
            Fault::Restart(Node::Agent(agent)) => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.die();
                }
            }
            Fault::Restart(Node::Hub(hub)) => self.hubs[hub].up = false,
            Fault::Leave(agent) => {
                if agent < self.agents.len() && !self.agents[agent].frozen {
                    self.tell_agent(agent, AgentEvent::Leave(EndReason::Left));
                }
            }
        }
        self.after(step.lasting, Happening::End(step.fault));
    }

    fn end(&mut self, fault: Fault) {
        let now = self.now;
        let over = |until: &BTreeMap<usize, Moment>, node| until.get(&key(node)).is_none_or(|at| *at <= now);
        match fault {
            Fault::Freeze(node) if over(&self.troubles.frozen_until, node) => self.thaw(node),
            Fault::Unlink(node) if over(&self.troubles.unlinked_until, node) => self.link(node, true),
            Fault::Restart(Node::Hub(hub)) if !self.hubs[hub].up => self.start_hub(hub),
            Fault::Restart(Node::Agent(agent)) | Fault::Leave(agent)
                if self.agents.get(agent).is_some_and(|agent| agent.session.is_none()) =>
            {
                self.boot(agent, ClaimMode::Fresh);
            }
            _ => {}
        }
    }

    /// A message sets out: lost, delayed, doubled as the weather is.
    fn post(&mut self, from: Node, mail: Mail) {
        let (loss, doubling, delay_ms) =
            if self.now < self.troubles.weather_until { self.troubles.weather } else { (0, 0, 4) };
        if !self.is_linked(from) || self.random.chance(loss) {
            self.note(|| format!("lost from {from:?}: {mail:?}"));
            return;
        }
        // What refuses a doubled call is not the session but whoever keeps request ids.
        let is_call = matches!(mail, Mail::Call { .. });
        let copies = if !is_call && self.random.chance(doubling) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.random.ms(1, delay_ms.max(4));
            self.after(delay, Happening::Arrive { from, mail: mail.clone() });
        }
    }

    fn is_cut(&self, node: Node, way: Way) -> bool {
        let Node::Agent(agent) = node else { return false };
        let cut = self.troubles.cut.get(&agent).filter(|(_, until)| self.now < *until);
        cut.is_some_and(|(cut, _)| *cut == Way::Both || *cut == way)
    }

    fn is_deaf(&self, hub: usize, to: Node) -> bool {
        let Node::Agent(agent) = to else { return false };
        self.troubles.deaf.get(&(hub, agent)).is_some_and(|until| self.now < *until)
    }

    fn is_linked(&self, node: Node) -> bool {
        match node {
            Node::Agent(agent) => self.agents[agent].linked,
            Node::Hub(hub) => self.hubs[hub].hears(),
        }
    }

    fn arrive(&mut self, from: Node, mail: Mail) {
        if self.is_cut(from, Way::FromAgent) {
            return;
        }
        match mail {
            Mail::Question { hub, instance, event } => {
                if self.hubs[hub].hears() && !self.is_deaf(hub, from) {
                    self.tell_hub(hub, instance, event);
                }
            }
            Mail::Answer { boot, event } => {
                let to = (0..self.agents.len()).find(|index| self.agents[*index].boot == boot);
                let Some(agent) = to.filter(|agent| self.reaches(*agent)) else { return };
                if self.agents[agent].frozen {
                    self.agents[agent].events.push_back(event);
                } else {
                    self.tell_agent(agent, event);
                }
            }
            Mail::Order { instance, order } => {
                for agent in self.hearers(instance, order.epoch) {
                    let event = AgentEvent::Ordered(order.clone());
                    if self.agents[agent].frozen {
                        self.agents[agent].events.push_back(event);
                    } else {
                        self.tell_agent(agent, event);
                    }
                }
            }
            Mail::Call { instance, call } => {
                for agent in self.hearers(instance, call.epoch) {
                    if self.agents[agent].frozen {
                        self.agents[agent].calls.push_back(call);
                    } else {
                        self.take_call(agent, call);
                    }
                }
            }
        }
    }

    fn reaches(&self, agent: usize) -> bool {
        self.agents[agent].linked && !self.is_cut(Node::Agent(agent), Way::ToAgent)
    }

    fn hearers(&self, instance: usize, epoch: Epoch) -> Vec<usize> {
        let hears = |agent: &Agent| agent.instance == instance && agent.hears == Some(epoch);
        (0..self.agents.len()).filter(|index| hears(&self.agents[*index]) && self.reaches(*index)).collect()
    }

    /// The bound within which presence that counts from `heard` is true: silence, a tick, and between a ready and a go what
    /// a hub waits with it and what the authority takes: two answers, each asked for and told.
    pub(crate) fn presence_bound(&self, heard: Moment) -> Duration {
        // What was asked at the end of a slow time comes a while after it.
        let was_slow = |(from, until): &(Moment, Moment)| {
            *from <= heard && heard <= *until + AUTHORITY_SLOW_MAX + AUTHORITY_QUICK_MAX
        };
        let authority = if self.troubles.slow.iter().any(was_slow) {
            2 * AUTHORITY_SLOW_MAX
        } else {
            4 * AUTHORITY_QUICK_MAX
        };
        limits::PRESENCE_LOST_AFTER + hub::TICK + limits::RENEW_EVERY + authority
    }
}

fn extend(until: &mut BTreeMap<usize, Moment>, node: Node, to: Moment) {
    let until = until.entry(key(node)).or_default();
    *until = (*until).max(to);
}

const fn replicas_of(hubs: usize) -> Replicas {
    if hubs == 1 { Replicas::One } else { Replicas::Several }
}

/// Agents and hubs in one row.
const fn key(node: Node) -> usize {
    match node {
        Node::Agent(agent) => 2 * agent,
        Node::Hub(hub) => 2 * hub + 1,
    }
}
