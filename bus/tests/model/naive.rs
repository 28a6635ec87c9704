//! The mutant that the ancestors ran: whoever comes subscribes, and then kicks the other.

use super::explore::{Model, explore};

const AGENTS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Absent,
    Subscribed,
    /// It has kicked the other, and goes on serving.
    Serving,
    Kicked,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    agents: [Phase; AGENTS],
    /// A kick is under way to this agent.
    kicks: [bool; AGENTS],
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Subscribe(usize),
    Kick(usize),
    Deliver(usize),
    Lose(usize),
}

struct Naive {
    /// What must not be in the end: so many that serve.
    serving_in_the_end: usize,
    loses: bool,
}

impl Model for Naive {
    type State = State;
    type Action = Action;

    fn first(&self) -> State {
        State::default()
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for agent in 0..AGENTS {
            match state.agents[agent] {
                Phase::Absent => actions.push(Action::Subscribe(agent)),
                Phase::Subscribed => actions.push(Action::Kick(agent)),
                Phase::Serving | Phase::Kicked => {}
            }
            if state.kicks[agent] {
                actions.push(Action::Deliver(agent));
                actions.extend(self.loses.then_some(Action::Lose(agent)));
            }
        }
        actions
    }

    fn next(&self, state: &State, action: Action) -> State {
        let mut next = *state;
        match action {
            Action::Subscribe(agent) => next.agents[agent] = Phase::Subscribed,
            Action::Kick(agent) => {
                next.agents[agent] = Phase::Serving;
                next.kicks[1 - agent] = true;
            }
            Action::Deliver(agent) => {
                next.kicks[agent] = false;
                // Who does not subscribe yet does not hear it.
                if next.agents[agent] != Phase::Absent {
                    next.agents[agent] = Phase::Kicked;
                }
            }
            Action::Lose(agent) => next.kicks[agent] = false,
        }
        next
    }

    fn fingerprint(&self, state: &State) -> u128 {
        let digit = |sum: u128, digit: u8| sum * 8 + u128::from(digit);
        let phases = state.agents.iter().fold(0, |sum, phase| digit(sum, *phase as u8));
        state.kicks.iter().fold(phases, |sum, kick| digit(sum, u8::from(*kick)))
    }

    fn broken(&self, state: &State) -> Option<String> {
        if !self.actions(state).is_empty() {
            return None;
        }
        let serving = state.agents.iter().filter(|phase| **phase == Phase::Serving).count();
        (serving == self.serving_in_the_end).then(|| format!("{serving} serve in the end: {state:?}"))
    }
}

#[test]
fn x_k2_subscribing_and_then_kicking_leaves_nobody() {
    // Two that come at once kick each other.
    let explored = explore(&Naive { serving_in_the_end: 0, loses: false }, 1_000);
    assert!(explored.broken.is_some(), "{explored:?}");
}

#[test]
fn x_k2_subscribing_and_then_kicking_leaves_both() {
    // The kick is lost.
    let explored = explore(&Naive { serving_in_the_end: AGENTS, loses: true }, 1_000);
    assert!(explored.broken.is_some(), "{explored:?}");
}
