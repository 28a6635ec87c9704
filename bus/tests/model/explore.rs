//! Sees every state that can be reached, breadth first, so that what it finds broken is reached by a shortest way.

use std::collections::HashSet;
use std::fmt::Debug;

/// Something with states, of which finitely many can be reached.
pub(crate) trait Model {
    type State;
    type Action: Copy + Debug;

    fn first(&self) -> Self::State;

    /// What can happen next.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;

    fn next(&self, state: &Self::State, action: Self::Action) -> Self::State;

    /// Equal for equal states. 128 bits: among a million states two that differ are taken for one with a chance below
    /// 10^-26.
    fn fingerprint(&self, state: &Self::State) -> u128;

    /// What must not be.
    fn broken(&self, state: &Self::State) -> Option<String>;
}

#[derive(Debug)]
pub(crate) struct Explored<A> {
    pub(crate) states: usize,
    /// Steps to the farthest state.
    pub(crate) depth: usize,
    /// What was found broken, and the way to it.
    pub(crate) broken: Option<(String, Vec<A>)>,
}

/// Ends when all states were seen, or one is broken.
///
/// # Panics
/// With more than `states_max` states: the model is larger than was thought.
pub(crate) fn explore<M: Model>(model: &M, states_max: usize) -> Explored<M::Action> {
    let first = model.first();
    let mut seen = HashSet::from([model.fingerprint(&first)]);
    // How each state was reached: from which, and by what.
    let mut ways: Vec<Option<(usize, M::Action)>> = vec![None];
    let mut frontier = vec![(0, first)];
    let mut depth = 0;
    loop {
        let mut next_frontier = Vec::new();
        for (index, state) in &frontier {
            if let Some(broken) = model.broken(state) {
                let broken = Some((broken, way_to(&ways, *index)));
                return Explored { states: ways.len(), depth, broken };
            }
            for action in model.actions(state) {
                let next = model.next(state, action);
                if seen.insert(model.fingerprint(&next)) {
                    next_frontier.push((ways.len(), next));
                    ways.push(Some((*index, action)));
                }
            }
            assert!(ways.len() <= states_max, "more than {states_max} states at depth {depth}");
        }
        if next_frontier.is_empty() {
            return Explored { states: ways.len(), depth, broken: None };
        }
        frontier = next_frontier;
        depth += 1;
    }
}

fn way_to<A: Copy>(ways: &[Option<(usize, A)>], mut index: usize) -> Vec<A> {
    let mut way = Vec::new();
    while let Some((from, action)) = ways[index] {
        way.push(action);
        index = from;
    }
    way.reverse();
    way
}
