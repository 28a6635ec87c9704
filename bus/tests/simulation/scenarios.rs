//! The cases one by one, without chance.

use std::time::Duration;

use towline_bus::authority::{Activation, AuthorityError, Replicas};
use towline_bus::clock::Moment;
use towline_bus::session::{
    AgentEffect, AgentEvent, Ask, EndReason, HubEffect, HubEvent, HubSession, Question,
};
use towline_protocol::session::{Claim, ClaimMode, Order, RenewalOutcome, SessionOrder};
use towline_protocol::{Epoch, limits};

use super::agent::Agent;
use super::faults::{Fault, Node, Plan, Way};
use super::world::World;

const FOREVER: Duration = Duration::from_secs(100_000);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn run(world: &mut World, time: Duration) {
    world.run(time).expect("every invariant holds");
}

/// One agent that serves.
fn served() -> World {
    let mut world = World::new(&Plan::quiet(1), false);
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(5));
    assert_eq!(world.serving(0), [0]);
    world
}

/// Whatever a hub itself slept through is nobody's silence: its clock may be looked at before its mail.
#[test]
fn a_hub_that_stood_still_or_was_cut_off_calls_nobody_lost() {
    for fault in [Fault::Freeze(Node::Hub(0)), Fault::Unlink(Node::Hub(0))] {
        for seed in 1..=16 {
            let mut world = World::new(&Plan { seed, ..Plan::quiet(1) }, false);
            world.start(0, ClaimMode::Fresh);
            run(&mut world, seconds(5));
            for _ in 0..4 {
                world.inject(fault, seconds(7));
                run(&mut world, seconds(12));
            }
            assert_eq!((world.serving(0), activations(&world)), (vec![0], 1), "{fault:?}, seed {seed}");
        }
    }
}

fn activations(world: &World) -> usize {
    world.records[0].history.len()
}

#[test]
fn one_agent_serves_and_keeps_its_epoch() {
    let mut world = served();
    run(&mut world, seconds(60));
    assert_eq!((world.serving(0), world.ledger.kicks()), (vec![0], 0));
    assert_eq!(activations(&world), 1, "a session that goes on writes nothing");
}

#[test]
fn x_k1_the_newest_wins_within_a_second_and_is_named() {
    let mut world = served();
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(1));
    assert_eq!(world.serving(0), [1]);
    let newest = world.records[0].history.last().copied();
    assert_eq!(world.ends.get(&0), Some(&EndReason::Kicked { by: newest }));
}

#[test]
fn x_k3_who_was_kicked_comes_back_and_does_not_kick_back() {
    let mut world = served();
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(60));
    assert_eq!((world.serving(0), world.ledger.kicks(), activations(&world)), (vec![1], 1, 2));
}

#[test]
fn x_k4_a_frozen_holder_is_waited_for_and_begins_nothing_when_it_thaws() {
    let mut world = served();
    world.inject(Fault::Freeze(Node::Agent(0)), seconds(20));
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(2));
    assert_eq!(world.hubs[0].target(0), None, "nobody may be called while the older lease may hold");
    run(&mut world, limits::LEASE_HUB);
    assert_eq!(world.serving(0), [1]);
    run(&mut world, seconds(20));
    assert_eq!(world.serving(0), [1], "it is told, and stands down");
    assert!(matches!(world.ends.get(&0), Some(EndReason::Kicked { .. })));
}

#[test]
fn x_k5_kicks_are_counted_once_each() {
    let mut world = served();
    // The kick does not reach the holder, so it is said again and again.
    world.inject(Fault::Cut(0, Way::ToAgent), seconds(20));
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(30));
    assert_eq!((world.ledger.kicks_counted, world.serving(0)), (1, vec![1]));
}

#[test]
fn a_lost_link_is_resumed_under_the_same_epoch() {
    let mut world = served();
    world.inject(Fault::Unlink(Node::Agent(0)), seconds(30));
    run(&mut world, seconds(29));
    assert!(world.serving(0).is_empty(), "without answers its lease has ended");
    run(&mut world, seconds(2));
    assert_eq!((world.serving(0), activations(&world), world.ledger.kicks()), (vec![0], 1, 0));
}

#[test]
fn a_hub_that_forgot_is_told() {
    let mut world = served();
    world.inject(Fault::Restart(Node::Hub(0)), Duration::from_millis(100));
    run(&mut world, seconds(5));
    assert_eq!((world.serving(0), activations(&world)), (vec![0], 1));
    assert_eq!(world.hubs[0].entries[0].session.target().unwrap().version, "1");
    // And one that never knew it grants a new epoch.
    let reserved = world.records[0].reserved;
    world.records[0] = super::authority::Record { reserved, ..Default::default() };
    world.inject(Fault::Restart(Node::Hub(0)), Duration::from_millis(100));
    run(&mut world, seconds(10));
    assert_eq!((world.serving(0), activations(&world)), (vec![0], 1));
}

#[test]
fn a_goodbye_outlives_the_hub() {
    let mut world = served();
    world.inject(Fault::Leave(0), FOREVER);
    run(&mut world, seconds(1));
    world.inject(Fault::Restart(Node::Hub(0)), Duration::from_millis(100));
    run(&mut world, Duration::from_millis(200));
    world.start(0, ClaimMode::Fresh);
    run(&mut world, Duration::from_millis(500));
    assert_eq!(
        (world.serving(0), world.ledger.kicks()),
        (vec![1], 0),
        "nobody waits for a lease that was given back"
    );
}

#[test]
fn a_standby_takes_over_only_from_nobody() {
    let mut world = served();
    world.start(0, ClaimMode::Standby);
    run(&mut world, seconds(30));
    assert_eq!((world.serving(0), world.ledger.kicks()), (vec![0], 0));
    world.inject(Fault::Leave(0), FOREVER);
    run(&mut world, seconds(6));
    assert_eq!((world.serving(0), world.ledger.kicks()), (vec![1], 0));
}

#[test]
fn agents_that_fight_are_made_to_stand_by() {
    let mut world = World::new(&Plan::quiet(1), false);
    for _ in 0..10 {
        world.start(0, ClaimMode::Fresh);
        run(&mut world, seconds(3));
    }
    assert_eq!(world.ledger.kicks(), limits::TAKEOVERS_MAX);
    assert_eq!(world.serving(0), [limits::TAKEOVERS_MAX]);
}

#[test]
fn an_order_of_another_epoch_means_nothing() {
    let mut world = served();
    for epoch in [1, 999_999] {
        let epoch = Epoch::new(epoch).unwrap();
        let order = SessionOrder { order: Order::Kick, epoch, by: None, since: None, hub_unix_ms: 0 };
        world.tell_agent(0, AgentEvent::Ordered(order));
    }
    assert_eq!(world.serving(0), [0]);
}

/// A hub that was frozen past the end of a lease activates the newer session before it reads the older one's questions
/// from its buffers. Renewing those by what it remembers, while the authority's answer was under way, let two serve (seed
/// 244).
#[test]
fn x_k2_nothing_is_renewed_unread() {
    let mut hub = HubSession::new(Replicas::One);
    let start = Moment::since_boot(seconds(100));
    let thawed = start + limits::LEASE_HUB + seconds(1);
    let (mut older, mut newer) = (Agent::new(0, 0), Agent::new(0, 1));
    let mut grants = Vec::new();
    for (agent, number, ready_at) in [(&mut older, 1, start), (&mut newer, 2, thawed)] {
        agent.boot(number);
        agent.claim(ClaimMode::Fresh, number);
        let asked = agent.session.as_mut().unwrap().handle(start, AgentEvent::LinkUp);
        let Some(AgentEffect::Ask { ask: Ask::Claim(claim), .. }) = asked.first() else {
            panic!("{asked:?}")
        };
        let (nonce, epoch) = (claim.nonce, Epoch::new(number).unwrap());
        hub.handle(start, HubEvent::Claim { number: 1, claim: claim.clone() });
        hub.handle(start, HubEvent::Reserved { nonce, result: Ok(epoch) });
        let effects = hub.handle(ready_at, agent.question(2, Ask::Ready(epoch)));
        let [HubEffect::Activate { grant, .. }] = &effects[..] else { panic!("{effects:?}") };
        grants.push(grant.clone());
        if number == 1 {
            let activated = HubEvent::Activated { epoch, result: Ok(Activation::Won) };
            let effects = hub.handle(start, activated);
            let question = reads(&effects);
            hub.handle(start, HubEvent::EpochRead { question, result: Ok(Some(grant.clone())) });
        }
    }
    let (held, epoch) = (grants[0].epoch, grants[1].epoch);
    let question = reads(&hub.handle(thawed, older.question(3, Ask::Renewal(held))));
    hub.handle(thawed, HubEvent::Activated { epoch, result: Ok(Activation::Won) });
    assert_eq!(hub.target(), None);
    // What was read before the compare-and-set says yes; what is known since says no.
    let told = hub.handle(thawed, HubEvent::EpochRead { question, result: Ok(Some(grants[0].clone())) });
    let [HubEffect::AnswerRenewal { answer, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&answer.outcome, answer.by), (&RenewalOutcome::Kicked, Some(epoch)));
    let nobody_knows = Err(AuthorityError { reason: "gone".into() });
    let question = Question::Renewal { number: 4, boot: newer.boot, epoch };
    assert_eq!(hub.handle(thawed, HubEvent::EpochRead { question, result: nobody_knows }), []);
}

fn reads(effects: &[HubEffect]) -> Question {
    let [HubEffect::ReadEpoch { question }] = effects else { panic!("{effects:?}") };
    question.clone()
}

/// A claimer that fell silent while it waited for the older lease is not told to go: it would be shown as connected.
#[test]
fn who_falls_silent_while_it_waits_is_not_told_to_go() {
    let mut world = served();
    world.inject(Fault::Freeze(Node::Agent(0)), seconds(30));
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(1));
    world.inject(Fault::Unlink(Node::Agent(1)), seconds(6));
    run(&mut world, seconds(6));
    assert_eq!((world.serving(0), world.hubs[0].target(0)), (vec![], None));
    run(&mut world, seconds(2));
    assert_eq!((activations(&world), world.serving(0)), (2, vec![1]));
}

/// A claim that was replaced by a newer one while the authority was asked is active all the same, and is replaced in turn.
#[test]
fn an_activation_is_not_forgotten_for_a_newer_claim() {
    let mut world = World::new(&Plan::quiet(1), false);
    world.inject(Fault::SlowAuthority, seconds(20));
    for _ in 0..4 {
        world.start(0, ClaimMode::Fresh);
        run(&mut world, Duration::from_millis(700));
    }
    run(&mut world, seconds(20));
    let target = world.hubs[0].target(0);
    assert_eq!(
        target,
        world.records[0].active.as_ref().map(|grant| grant.epoch),
        "calls go to whoever is active"
    );
    assert_eq!(world.serving(0).len(), 1);
}

/// An agent that claims faster than the store writes has one write under way, and its newest claim is the one that counts.
#[test]
fn claims_have_one_reservation_under_way() {
    let now = Moment::since_boot(seconds(100));
    let mut hub = HubSession::new(Replicas::One);
    let agent = Agent::new(0, 0);
    let claim = |nonce| Claim {
        boot: agent.boot,
        nonce,
        store: agent.store,
        mode: ClaimMode::Fresh,
        last_epoch: None,
        held: None,
        version: String::new(),
        runtime: String::new(),
        calls: Vec::new(),
    };
    let reserved = |effects: &[HubEffect]| -> Vec<u64> {
        let nonce = |effect: &HubEffect| match effect {
            HubEffect::Reserve { nonce, .. } => Some(*nonce),
            _ => None,
        };
        effects.iter().filter_map(nonce).collect()
    };
    let mut asked = Vec::new();
    for nonce in 1..=1_000 {
        asked.extend(reserved(&hub.handle(now, HubEvent::Claim { number: 1, claim: claim(nonce) })));
    }
    assert_eq!(asked, [1], "the others wait for it");
    let epoch = Epoch::new(7).unwrap();
    let next = hub.handle(now, HubEvent::Reserved { nonce: 1, result: Ok(epoch) });
    assert_eq!(reserved(&next), [1_000], "the newest alone");
    let late = now + limits::RESERVATION_MAX + seconds(1);
    let again = HubEvent::Claim { number: 2, claim: claim(1_000) };
    assert_eq!(reserved(&hub.handle(now, again.clone())), [0; 0], "it may still be answered");
    assert_eq!(
        reserved(&hub.handle(late, again)),
        [1_000],
        "an authority that never answered is asked again"
    );
    let answers = hub.handle(now, HubEvent::Reserved { nonce: 1_000, result: Ok(epoch.next().unwrap()) });
    assert!(matches!(&answers[..], [HubEffect::AnswerClaim { answer, .. }] if answer.nonce == 1_000));
    // A store that never answers is not waited for without end.
    assert_eq!(reserved(&hub.handle(now, HubEvent::Claim { number: 1, claim: claim(2_000) })), [2_000]);
    assert!(reserved(&hub.handle(now, HubEvent::Claim { number: 1, claim: claim(2_001) })).is_empty());
    let later = now + limits::RESERVATION_MAX + seconds(1);
    assert_eq!(reserved(&hub.handle(later, HubEvent::Claim { number: 1, claim: claim(2_002) })), [2_002]);
}

fn two_replicas() -> World {
    let mut world = World::new(&Plan { hubs: 2, ..Plan::quiet(1) }, false);
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(5));
    assert_eq!(world.serving(0), [0]);
    world
}

fn both_call(world: &World) -> Option<Epoch> {
    let targets = [world.hubs[0].target(0), world.hubs[1].target(0)];
    assert_eq!(targets[0], targets[1]);
    targets[0]
}

#[test]
fn x_k1_two_replicas_take_over_as_fast_as_one() {
    let mut world = two_replicas();
    let first = both_call(&world);
    world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(1));
    assert_eq!((world.serving(0), activations(&world), world.ledger.kicks_counted), (vec![1], 2, 1));
    run(&mut world, seconds(3));
    assert!(both_call(&world) > first);
}

/// Decision 0011: replica 1 hears nothing of the holder, and activates another; replica 0 hears nothing of that.
#[test]
fn a_replica_with_an_old_view_renews_nothing() {
    let mut world = two_replicas();
    world.inject(Fault::Deaf { hub: 1, agent: 0 }, seconds(30));
    run(&mut world, seconds(10));
    let newer = world.start(0, ClaimMode::Fresh);
    world.inject(Fault::Deaf { hub: 0, agent: newer }, seconds(30));
    run(&mut world, seconds(3));
    assert!(world.serving(0).is_empty(), "the older was told by the authority, and the newer waits");
    run(&mut world, Duration::from_millis(3_200));
    assert_eq!(world.serving(0), [newer]);
    run(&mut world, seconds(40));
    assert_eq!(world.serving(0).len(), 1);
    assert!(both_call(&world).is_some());
}

#[test]
fn one_of_two_replicas_is_enough() {
    let mut world = two_replicas();
    world.inject(Fault::Restart(Node::Hub(0)), seconds(60));
    let newer = world.start(0, ClaimMode::Fresh);
    run(&mut world, seconds(1));
    assert_eq!(world.serving(0), [newer]);
    // Dead without a goodbye: it is waited for, since nobody knows what the other replica said to it.
    world.inject(Fault::Restart(Node::Agent(newer)), seconds(60));
    run(&mut world, seconds(20));
    let last = world.start(0, ClaimMode::Standby);
    run(&mut world, seconds(12));
    assert_eq!(world.serving(0).len(), 1);
    assert!(!world.serving(0).contains(&newer) && last > newer);
}
