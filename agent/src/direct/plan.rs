//! What to do next to bring an app's units to what is wanted. Pure: wanted and observed in, steps out.
//!
//! The driver carries the steps out, looks again, and asks again until nothing is left to do. So a plan looks only as
//! far ahead as the strategy allows at once.

use crate::manifest::StrategyType;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) generation: String,
    pub(super) units: usize,
    pub(super) kind: StrategyType,
    pub(super) max_unavailable: usize,
    pub(super) max_surge: usize,
    /// Two units cannot exist at once (a fixed host port): the old one must go before the new one comes.
    pub(super) exclusive: bool,
    /// It is looked at whether a unit works: an old one goes when another is known to.
    pub(super) checked: bool,
}

/// How a unit stands, as far as planning goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It serves.
    Up,
    /// It runs, and nobody knows yet whether it works.
    Proving,
    /// Its supervisor is about to start it (again): let it.
    Trying,
    /// It is done, by its own declaration: let it be.
    Done,
    /// It ended and should not have: start it again.
    Ended,
    /// The runtime did not tell: no plan is made from it.
    Unknown,
}

/// A unit that is there. Ordered oldest first by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) unit: String,
    pub(super) generation: String,
    pub(super) phase: Phase,
}

/// One thing to do. Steps of one plan may be done at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Start a new unit.
    Start,
    /// Start this unit again.
    Revive(String),
    /// Stop and remove this unit.
    Remove(String),
}

/// The steps to do now; none when `observed` is as `wanted`, or not known.
pub(super) fn plan(wanted: &Wanted, observed: &[Observed]) -> Vec<Step> {
    if observed.iter().any(|unit| unit.phase == Phase::Unknown) {
        return Vec::new();
    }
    let (current, old): (Vec<&Observed>, Vec<&Observed>) =
        observed.iter().partition(|unit| unit.generation == wanted.generation);
    let (kept, surplus) = keep(current, wanted.units);
    let mut steps: Vec<Step> = surplus.into_iter().map(remove).collect();
    let missing = wanted.units - kept.len();
    let revived =
        kept.iter().filter(|unit| unit.phase == Phase::Ended).map(|unit| Step::Revive(unit.unit.clone()));
    if old.is_empty() {
        steps.extend(revived);
        steps.extend(std::iter::repeat_n(Step::Start, missing));
    } else if wanted.exclusive || wanted.kind == StrategyType::Recreate {
        // All old ones first; what is missing follows when they have gone.
        steps.extend(old.into_iter().map(remove));
    } else {
        steps.extend(revived);
        steps.extend(roll(wanted, &kept, &old, missing));
    }
    steps
}

/// One wave of a rolling replacement.
fn roll(wanted: &Wanted, kept: &[&Observed], old: &[&Observed], missing: usize) -> Vec<Step> {
    // Old units that do not serve can go at once: nobody misses them.
    let (mut serving, idle): (Vec<&Observed>, Vec<&Observed>) =
        old.iter().partition(|unit| matches!(unit.phase, Phase::Up | Phase::Proving));
    // Of those that may serve, those that are known to go last.
    serving.sort_by_key(|unit| unit.phase == Phase::Up);
    let mut steps: Vec<Step> = idle.into_iter().map(remove).collect();
    let room = (wanted.units + wanted.max_surge).saturating_sub(kept.len() + serving.len());
    let starts = missing.min(room);
    steps.extend(std::iter::repeat_n(Step::Start, starts));
    let works = |unit: &&&Observed| matches!(unit.phase, Phase::Up | Phase::Done);
    // Where nobody looks, a new unit that fails by its own doing counts: waiting for it might be waiting for ever.
    let proven = if wanted.checked { kept.iter().filter(works).count() } else { kept.len() };
    let available = serving.len() + proven;
    let needed = wanted.units.saturating_sub(wanted.max_unavailable);
    // Once all new ones are there, the old ones have been replaced; where nobody looks, whatever became of the new.
    let replaced = missing == 0 && proven == kept.len();
    let spare = if replaced { serving.len() } else { available.saturating_sub(needed).min(serving.len()) };
    steps.extend(serving.into_iter().take(spare).map(remove));
    steps
}

/// The first `most` units to keep, and the rest: those that serve least, and then the youngest, go first.
fn keep(mut current: Vec<&Observed>, most: usize) -> (Vec<&Observed>, Vec<&Observed>) {
    // A stable sort: the older of equals stays in front.
    current.sort_by_key(|unit| match unit.phase {
        Phase::Up => 0,
        Phase::Proving => 1,
        Phase::Trying => 2,
        Phase::Done => 3,
        Phase::Ended | Phase::Unknown => 4,
    });
    let surplus = current.split_off(most.min(current.len()));
    (current, surplus)
}

fn remove(unit: &Observed) -> Step {
    Step::Remove(unit.unit.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted(units: usize, max_unavailable: usize, max_surge: usize) -> Wanted {
        let generation = "new".to_owned();
        Wanted {
            generation,
            units,
            kind: StrategyType::Rolling,
            max_unavailable,
            max_surge,
            exclusive: false,
            checked: false,
        }
    }

    /// `n`/`o` is a new or old unit that serves; `p`/`q` one of which nobody knows whether it does; `t` a new one trying,
    /// `d` done, `e` ended, `u` unknown; `x` an old one ended.
    fn observed(picture: &str) -> Vec<Observed> {
        let unit = |(index, letter)| {
            let (generation, phase) = match letter {
                'n' => ("new", Phase::Up),
                'p' => ("new", Phase::Proving),
                'q' => ("old", Phase::Proving),
                't' => ("new", Phase::Trying),
                'd' => ("new", Phase::Done),
                'e' => ("new", Phase::Ended),
                'u' => ("new", Phase::Unknown),
                'o' => ("old", Phase::Up),
                _ => ("old", Phase::Ended),
            };
            Observed { unit: format!("{letter}{index}"), generation: generation.to_owned(), phase }
        };
        picture.chars().enumerate().map(unit).collect()
    }

    fn show(steps: &[Step]) -> String {
        let word = |step: &Step| match step {
            Step::Start => "+".to_owned(),
            Step::Revive(unit) => format!("!{unit}"),
            Step::Remove(unit) => format!("-{unit}"),
        };
        steps.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_table_of_plans() {
        let rolling = wanted(2, 0, 1);
        let recreate = Wanted { kind: StrategyType::Recreate, ..wanted(2, 0, 1) };
        let exclusive = Wanted { exclusive: true, ..wanted(1, 0, 1) };
        let checked = Wanted { checked: true, ..wanted(2, 0, 1) };
        let table: [(&Wanted, &str, &str); 34] = [
            (&rolling, "", "+ +"),
            (&rolling, "n", "+"),
            (&rolling, "nn", ""),
            (&rolling, "nt", ""),
            (&rolling, "nd", ""),
            (&rolling, "ne", "!e1"),
            (&rolling, "nnn", "-n2"),
            (&rolling, "enn", "-e0"),
            (&rolling, "oo", "+"),
            (&rolling, "oon", "-o0"),
            (&rolling, "on", "+"),
            (&rolling, "onn", "-o0"),
            (&rolling, "xx", "-x0 -x1 + +"),
            (&rolling, "ooo", "-o0"),
            (&wanted(2, 1, 0), "oo", "-o0"),
            (&wanted(2, 2, 2), "oo", "+ + -o0 -o1"),
            (&wanted(0, 0, 1), "on", "-n1 -o0"),
            (&recreate, "oon", "-o0 -o1"),
            (&recreate, "n", "+"),
            (&exclusive, "o", "-o0"),
            (&rolling, "u", ""),
            (&rolling, "ooue", ""),
            (&wanted(0, 0, 1), "unn", ""),
            (&rolling, "oop", "-o0"),
            (&checked, "", "+ +"),
            (&checked, "p", "+"),
            (&checked, "oop", ""),
            (&checked, "oot", ""),
            (&checked, "oon", "-o0"),
            (&checked, "oqp", ""),
            (&checked, "onp", ""),
            (&checked, "onn", "-o0"),
            (&checked, "odd", "-o0"),
            (&Wanted { checked: true, ..wanted(2, 1, 0) }, "op", ""),
        ];
        for (wanted, picture, expected) in table {
            assert_eq!(show(&plan(wanted, &observed(picture))), expected, "{picture} {wanted:?}");
        }
    }

    proptest! {
        #[test]
        fn every_plan_ends_where_it_should_and_keeps_the_bounds(
            units in 0_usize..6, unavailable in 0_usize..3, surge in 0_usize..3, recreate: bool, checked: bool,
            picture in "[nopqtdex]{0,8}",
        ) {
            prop_assume!(unavailable + surge > 0);
            let kind = if recreate { StrategyType::Recreate } else { StrategyType::Rolling };
            let wanted = Wanted { kind, checked, ..wanted(units, unavailable, surge) };
            // What is done serves nobody, and is none the worse for it: that is not what a check is about.
            let picture = if checked { picture.replace('d', "n") } else { picture };
            let mut now = observed(&picture);
            let up = |now: &[Observed]| now.iter().filter(|unit| unit.phase == Phase::Up).count();
            // A new unit that fails by its own doing has replaced an old one all the same, where nobody looks.
            let serves = |unit: &&Observed| match unit.phase {
                Phase::Up => true,
                _ => unit.generation == "new" && !checked,
            };
            let serving = |now: &[Observed]| now.iter().filter(serves).count();
            let most = if checked { now.len() } else { up(&now) };
            let first_serving = serving(&now);
            let begun = if checked { Phase::Proving } else { Phase::Up };
            for round in 0.. {
                let steps = plan(&wanted, &now);
                if steps.is_empty() {
                    let unproven = |unit: &&mut Observed| {
                        unit.generation == "new" && matches!(unit.phase, Phase::Proving | Phase::Trying)
                    };
                    // In the end each is known to work; until then those before it stay.
                    match now.iter_mut().find(unproven).filter(|_| checked) {
                        Some(unit) => unit.phase = Phase::Up,
                        None => break,
                    }
                    continue;
                }
                prop_assert!(round < 50, "no end: {}", show(&steps));
                // The worst order: removals first, for what serves; starts first, for how many there are.
                let starts = steps.iter().filter(|step| **step == Step::Start).count();
                prop_assert!(up(&now) + starts <= most.max(units + surge));
                now.retain(|unit| !steps.contains(&Step::Remove(unit.unit.clone())));
                if !recreate {
                    prop_assert!(serving(&now) >= first_serving.min(units.saturating_sub(unavailable)));
                }
                for unit in &mut now {
                    if steps.contains(&Step::Revive(unit.unit.clone())) {
                        unit.phase = begun;
                    }
                }
                for start in 0..starts {
                    let unit = format!("s{round}-{start}");
                    now.push(Observed { unit, generation: "new".to_owned(), phase: begun });
                }
            }
            prop_assert_eq!(now.len(), units);
            prop_assert!(now.iter().all(|unit| unit.generation == "new" && unit.phase != Phase::Ended));
        }
    }
}
