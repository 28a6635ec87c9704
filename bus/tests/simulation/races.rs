//! Seeds.

use std::time::Duration;

use super::faults::Plan;
use super::shrink::{report, run, shrink};

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Any number of subscribers at once, under every fault: never two serve, no call is executed twice or outside a lease,
/// and exactly one serves in the end.
#[test]
fn x_k2_exactly_one_serves_once_the_faults_stop() {
    if let Some(seed) = number_from("TOWLINE_SEED") {
        let run = run(&Plan::of_seed(seed), true);
        println!("{}{:?}", run.log, run.outcome);
        return assert_eq!(run.outcome, Ok(()));
    }
    let seeds = number_from("TOWLINE_SEEDS").unwrap_or(1_000);
    let (mut kicks, mut takeovers, mut late) = (0, 0, 0);
    for seed in 0..seeds {
        let plan = Plan::of_seed(seed);
        let run = run(&plan, false);
        (kicks, takeovers, late) = (kicks + run.kicks, takeovers + run.takeovers, late + run.late);
        assert!(run.outcome.is_ok(), "{}", report(&plan));
    }
    println!("{seeds} seeds, {kicks} kicks, of which {takeovers} had to be counted, {late} late calls");
    assert!(kicks > 0 && takeovers > 0, "a simulation in which nobody is kicked shows nothing");
    assert!(late > 0, "a simulation in which no call is late shows nothing");
}

#[test]
fn the_same_seed_gives_the_same_log_byte_for_byte() {
    for seed in 0..20 {
        let (one, other) = (run(&Plan::of_seed(seed), true), run(&Plan::of_seed(seed), true));
        assert!(one.log.len() > 10_000, "a log that says little is easily the same");
        assert!(one.log == other.log, "seed {seed}");
    }
}

/// Agents that act for three seconds longer than they may are found out, and the plan that shows it becomes small.
#[test]
fn a_seed_that_fails_replays_and_shrinks() {
    let mutant = |seed| Plan { lease_stretched: Duration::from_secs(3), ..Plan::of_seed(seed) };
    let plan = (0..200).map(mutant).find(|plan| run(plan, false).outcome.is_err());
    let plan = plan.expect("a lease that is too long shows");
    let least = shrink(&plan);
    let (first, again) = (run(&least, true), run(&least, true));
    assert!(first.outcome.is_err());
    assert_eq!((&first.outcome, &first.log), (&again.outcome, &again.log));
    assert!(least.steps.len() <= 3 && least.steps.len() <= plan.steps.len(), "{least:#?}");
    println!("{}", report(&plan));
}
