//! What holds in every state of the model, and what does not hold for its mutants.

use towline_protocol::limits;
use towline_protocol::session::ClaimMode;

use super::explore::{Explored, explore};
use super::protocol::{Action, Mutant, Protocol};
use super::state::Budget;

/// No model may grow beyond this unnoticed: it would take more than a minute.
const STATES_MAX: usize = 2_000_000;

const NOTHING: Budget = Budget { freezes: 0, doublings: 0, hub_restarts: 0, doubts: 0 };

/// One serves, one comes to take over; every loss, delay and order of messages.
fn takeover() -> Protocol {
    Protocol {
        mutant: Mutant::None,
        hubs: 1,
        returns: true,
        reads_at_once: true,
        prompt: false,
        begins_served: true,
        newcomers: vec![ClaimMode::Fresh],
        step: limits::RENEW_EVERY,
        horizon: 4,
        mail_max: 2,
        budget: NOTHING,
        settles: false,
    }
}

fn see(name: &str, model: &Protocol) -> Explored<Action> {
    let explored = explore(model, STATES_MAX);
    let Explored { states, depth, broken } = &explored;
    println!("{name}: {states} states, {depth} steps deep, broken: {broken:?}");
    explored
}

fn holds(name: &str, model: &Protocol) {
    let explored = see(name, model);
    assert_eq!(explored.broken, None);
}

fn fails(name: &str, model: &Protocol) {
    let explored = see(name, model);
    assert!(explored.broken.is_some(), "{name} is not found out");
}

#[test]
fn x_k2_at_most_one_serves_through_a_takeover() {
    holds("takeover", &Protocol { horizon: 5, ..takeover() });
}

#[test]
fn x_k4_at_most_one_serves_when_one_is_frozen() {
    let budget = Budget { freezes: 1, ..NOTHING };
    holds("freeze", &Protocol { budget, horizon: 3, ..takeover() });
}

#[test]
fn at_most_one_serves_when_the_hub_is_restarted() {
    let budget = Budget { hub_restarts: 1, ..NOTHING };
    holds("hub restart", &Protocol { budget, horizon: 3, ..takeover() });
}

#[test]
fn at_most_one_serves_when_messages_come_twice() {
    let budget = Budget { doublings: 1, ..NOTHING };
    holds("doubling", &Protocol { budget, horizon: 3, ..takeover() });
}

#[test]
fn at_most_one_serves_when_the_authority_does_not_know() {
    let budget = Budget { doubts: 2, ..NOTHING };
    holds("doubt", &Protocol { budget, horizon: 4, ..takeover() });
}

#[test]
fn at_most_one_serves_of_two_that_come_at_once() {
    let newcomers = vec![ClaimMode::Fresh, ClaimMode::Fresh];
    holds("two newcomers", &Protocol { begins_served: false, newcomers, horizon: 2, ..takeover() });
}

#[test]
fn at_most_one_serves_beside_a_standby() {
    holds("standby", &Protocol { newcomers: vec![ClaimMode::Standby], ..takeover() });
}

/// From every state that three steps of losses and delays lead to, exactly one serves in the end.
#[test]
fn x_k2_exactly_one_serves_in_the_end() {
    holds("settles", &Protocol { settles: true, horizon: 3, ..takeover() });
}

/// The mutants: rules that look right, and are each found out.
#[test]
fn mutant_hub_waits_less() {
    fails("hub waits less", &Protocol { mutant: Mutant::HubWaitsLess, ..takeover() });
}

#[test]
fn mutant_lease_from_the_latest_question() {
    fails("latest question", &Protocol { mutant: Mutant::LeaseFromLatestQuestion, ..takeover() });
}

#[test]
fn mutant_clock_stops_in_freeze() {
    let budget = Budget { freezes: 1, ..NOTHING };
    fails("clock stops", &Protocol { mutant: Mutant::ClockStopsInFreeze, budget, ..takeover() });
}

#[test]
fn mutant_hub_does_not_wait() {
    fails("does not wait", &Protocol { mutant: Mutant::HubDoesNotWait, ..takeover() });
}

#[test]
fn mutant_restarted_hub_assumes() {
    let budget = Budget { hub_restarts: 1, ..NOTHING };
    fails("restarted hub assumes", &Protocol { mutant: Mutant::RestartedHubAssumes, budget, ..takeover() });
}

/// Two replicas over one authority, each of which hears, or misses, each message on its own: so either may have a view that
/// is as old as can be (decision 0011).
fn two_replicas() -> Protocol {
    let step = limits::LEASE_HUB / 2;
    Protocol { hubs: 2, prompt: true, mail_max: 4, returns: false, step, horizon: 2, ..takeover() }
}

#[test]
fn x_k2_at_most_one_serves_with_two_replicas() {
    holds("two replicas", &two_replicas());
}

#[test]
fn at_most_one_serves_with_two_replicas_that_read_slowly() {
    holds("two replicas, slow reads", &Protocol { reads_at_once: false, mail_max: 2, ..two_replicas() });
}

#[test]
fn at_most_one_serves_with_two_replicas_and_a_freeze() {
    let budget = Budget { freezes: 1, ..NOTHING };
    holds("two replicas, freeze", &Protocol { budget, ..two_replicas() });
}

#[test]
fn at_most_one_serves_with_two_replicas_of_which_one_is_restarted() {
    let budget = Budget { hub_restarts: 1, ..NOTHING };
    holds("two replicas, restart", &Protocol { budget, ..two_replicas() });
}

#[test]
fn at_most_one_serves_with_two_replicas_when_the_authority_does_not_know() {
    let budget = Budget { doubts: 1, ..NOTHING };
    holds("two replicas, doubt", &Protocol { budget, ..two_replicas() });
}

/// The second newcomer replaces the first, which may not have begun, and waits for all that are older.
#[test]
fn at_most_one_serves_of_two_that_take_over_from_a_third() {
    let newcomers = vec![ClaimMode::Fresh, ClaimMode::Fresh];
    holds("chain", &Protocol { newcomers: newcomers.clone(), hubs: 1, ..two_replicas() });
    holds("two replicas, chain", &Protocol { newcomers, horizon: 1, ..two_replicas() });
}

#[test]
fn x_k2_exactly_one_serves_in_the_end_with_two_replicas() {
    holds("two replicas settle", &Protocol { settles: true, returns: true, horizon: 1, ..two_replicas() });
}

#[test]
fn mutant_hubs_take_themselves_for_one() {
    fails(
        "each takes itself for one",
        &Protocol { mutant: Mutant::HubsTakeThemselvesForOne, ..two_replicas() },
    );
}

#[test]
fn mutant_hub_answers_unread() {
    fails("answers unread", &Protocol { mutant: Mutant::HubAnswersUnread, ..two_replicas() });
}

#[test]
fn mutant_sets_after_the_wait() {
    fails("sets after the wait", &Protocol { mutant: Mutant::SetsAfterTheWait, ..two_replicas() });
}
