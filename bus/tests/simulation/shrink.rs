//! Runs a plan, and cuts one that fails down to what makes it fail.

use super::faults::{CALM, FAULTS_END, Plan};
use super::invariants;
use super::world::World;

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) outcome: Result<(), String>,
    pub(crate) log: String,
    pub(crate) kicks: usize,
    pub(crate) takeovers: usize,
    pub(crate) late: usize,
}

pub(crate) fn run(plan: &Plan, logged: bool) -> Run {
    let mut world = World::new(plan, logged);
    let outcome = world.run(FAULTS_END + CALM).and_then(|()| invariants::check_settled(&world));
    let (log, ledger) = (world.log().to_owned(), &world.ledger);
    Run { outcome, log, kicks: ledger.kicks(), takeovers: ledger.takeovers(), late: ledger.late }
}

/// The smallest plan found that fails still: delta debugging (Zeller, Hildebrandt, 2002) over the faults, then over the
/// agents, from the last.
pub(crate) fn shrink(plan: &Plan) -> Plan {
    let fails = |plan: &Plan| run(plan, false).outcome.is_err();
    let mut least = plan.clone();
    let mut piece = least.steps.len().div_ceil(2);
    while piece > 0 {
        let mut from = 0;
        while from < least.steps.len() {
            let mut candidate = least.clone();
            candidate.steps.drain(from..(from + piece).min(least.steps.len()));
            if fails(&candidate) {
                least = candidate;
            } else {
                from += piece;
            }
        }
        piece /= 2;
    }
    // Faults that name an agent that never was do nothing.
    while least.starts.len() > least.instances {
        let mut candidate = least.clone();
        candidate.starts.pop();
        if !fails(&candidate) {
            break;
        }
        least = candidate;
    }
    least
}

/// What a failure looks like to whoever must understand it.
pub(crate) fn report(plan: &Plan) -> String {
    const TAIL: usize = 60;
    let least = shrink(plan);
    let again = run(&least, true);
    let lines: Vec<_> = again.log.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    format!("seed {}: {:?}\nshrunk to {least:#?}\n{tail}", plan.seed, again.outcome)
}
