//! What goes wrong, and when: a plan is made from a seed, and can be cut down.

use std::time::Duration;

use towline_protocol::session::ClaimMode;

use super::random::Random;

/// All faults are over this long after the start.
pub(crate) const FAULTS_END: Duration = Duration::from_secs(30);

/// And this long after that, exactly one serves: a lease, a reservation, and a few questions of a standby.
pub(crate) const CALM: Duration = Duration::from_secs(40);

/// The longest that a question is on its way to the authority, and its answer back.
pub(crate) const AUTHORITY_QUICK_MAX: Duration = Duration::from_millis(2);

/// The same while the authority is slow.
pub(crate) const AUTHORITY_SLOW_MAX: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Agent(usize),
    Hub(usize),
}

/// Which way nothing gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    FromAgent,
    ToAgent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Messages are lost, doubled and delayed, each on its own; so they overtake each other.
    Weather { loss: u64, doubling: u64, delay_ms: u64 },
    /// SIGSTOP, and SIGCONT when it is over.
    Freeze(Node),
    /// Nothing gets through, and nobody is told.
    Cut(usize, Way),
    /// One hub hears nothing of one agent: the bus promises delivery to none.
    Deaf { hub: usize, agent: usize },
    /// The connection to the bus is lost, and its owner knows.
    Unlink(Node),
    /// The process dies and comes back as another, over the same store.
    Restart(Node),
    /// It says goodbye, and comes back.
    Leave(usize),
    /// The store behind the hubs is slow.
    SlowAuthority,
    /// The store fails, or does not say whether it wrote.
    DoubtfulAuthority,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) lasting: Duration,
    pub(crate) fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) at: Duration,
    pub(crate) instance: usize,
    pub(crate) mode: ClaimMode,
}

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) instances: usize,
    pub(crate) hubs: usize,
    pub(crate) starts: Vec<Start>,
    pub(crate) steps: Vec<Step>,
    /// Agents act for so much longer than they may: a mutant, for seeing that it is noticed.
    pub(crate) lease_stretched: Duration,
}

impl Plan {
    /// Nothing goes wrong, nobody has started.
    pub(crate) const fn quiet(instances: usize) -> Self {
        Self {
            seed: 1,
            instances,
            hubs: 1,
            starts: Vec::new(),
            steps: Vec::new(),
            lease_stretched: Duration::ZERO,
        }
    }

    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let instances = 1 + random.index(2);
        let agents = instances + 1 + random.index(4);
        let mut start = |number: usize| Start {
            at: random.ms(0, 1_500),
            // Every instance has one; the others come where they come.
            instance: if number < instances { number } else { random.index(instances) },
            mode: if random.chance(20) { ClaimMode::Standby } else { ClaimMode::Fresh },
        };
        let starts = (0..agents).map(&mut start).collect();
        // Every third has a second replica.
        let hubs = if seed.is_multiple_of(3) { 2 } else { 1 };
        let mut steps: Vec<_> = (0..3 + random.below(10)).map(|_| step(&mut random, agents, hubs)).collect();
        steps.sort_by_key(|step| step.at);
        Self { seed, hubs, starts, steps, ..Self::quiet(instances) }
    }
}

fn step(random: &mut Random, agents: usize, hubs: usize) -> Step {
    let at = random.ms(0, 25_000);
    let lasting = random.ms(100, 12_000).min(FAULTS_END - at);
    let (agent, hub) = (random.index(agents), random.index(hubs));
    let fault = match random.below(12 + 2 * hubs as u64) {
        14.. => Fault::Deaf { hub, agent },
        0..=3 => {
            Fault::Weather { loss: random.below(40), doubling: random.below(30), delay_ms: random.below(800) }
        }
        4 | 5 => Fault::Freeze(Node::Agent(agent)),
        6 => Fault::Freeze(Node::Hub(hub)),
        7 => Fault::Cut(agent, [Way::Both, Way::FromAgent, Way::ToAgent][random.index(3)]),
        8 => Fault::Unlink(Node::Agent(agent)),
        9 => Fault::Unlink(Node::Hub(hub)),
        10 => Fault::Restart(Node::Agent(agent)),
        11 => Fault::Restart(Node::Hub(hub)),
        12 => Fault::Leave(agent),
        _ if random.chance(50) => Fault::SlowAuthority,
        _ => Fault::DoubtfulAuthority,
    };
    Step { at, lasting, fault }
}
