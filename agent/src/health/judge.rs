//! What follows from looks at a unit. Pure: looks and times since the start in, a verdict out.
//!
//! ```text
//! starting ── a look succeeds ──────────────────────────────► healthy ◄── a look succeeds ──┐
//!    └── `retries` failures, an interval apart, after ──► unhealthy ◄── `retries` in a row ─┘
//!        the start period
//! ```

use std::time::Duration;

use super::{Health, Rule};
use crate::shim::Status;

/// From the start of a unit to the first look, and between the first two; it doubles with each look until one succeeds.
const FIRST: Duration = Duration::from_millis(100);

/// Between two looks at a unit of which nothing is known yet, at most.
const SOON: Duration = Duration::from_secs(1);

/// How a unit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody knows yet; what the last look said, if there was one.
    Starting(Option<String>),
    /// It works.
    Healthy,
    /// It does not, and what the last look said.
    Unhealthy(String),
}

impl Verdict {
    /// How a unit of which this is said stands, and why, for people.
    pub(crate) fn told(&self) -> (Status, Option<String>, Health) {
        match self {
            Self::Starting(None) => {
                (Status::Starting, Some("its health is not known yet".to_owned()), Health::Starting)
            }
            Self::Starting(Some(why)) => {
                (Status::Starting, Some(format!("not healthy yet: {why}")), Health::Starting)
            }
            Self::Healthy => (Status::Started, None, Health::Healthy),
            Self::Unhealthy(why) => (Status::Error, Some(format!("unhealthy: {why}")), Health::Unhealthy),
        }
    }
}

/// Judges one run of one unit. Times are since its start.
#[derive(Debug)]
pub(crate) struct Judge {
    rule: Rule,
    verdict: Verdict,
    looks: u32,
    /// A look has succeeded.
    proven: bool,
    /// Failures that count.
    failures: u32,
    due: Duration,
}

impl Judge {
    pub(crate) fn new(rule: Rule) -> Self {
        let due = FIRST.min(rule.interval);
        Self { rule, verdict: Verdict::Starting(None), looks: 0, proven: false, failures: 0, due }
    }

    /// For a unit that was started long ago, by whoever knew more: the first look is due at once.
    pub(crate) fn found(rule: Rule) -> Self {
        Self { due: Duration::ZERO, ..Self::new(rule) }
    }

    /// When the next look is due.
    pub(crate) fn due(&self) -> Duration {
        self.due
    }

    /// How long a look may take.
    pub(crate) fn patience(&self) -> Duration {
        self.rule.timeout
    }

    pub(crate) fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Takes in what a look said that ended at `at`; says whether the verdict is another one now.
    pub(crate) fn note(&mut self, looked: Result<(), String>, at: Duration) -> bool {
        self.looks = self.looks.saturating_add(1);
        let verdict = match looked {
            Ok(()) => {
                (self.proven, self.failures) = (true, 0);
                Verdict::Healthy
            }
            Err(why) => self.failed(why, at),
        };
        self.due = at + self.pause(&verdict);
        let changed = verdict != self.verdict;
        self.verdict = verdict;
        changed
    }

    fn failed(&mut self, why: String, at: Duration) -> Verdict {
        // Until it has worked once it is looked at more often than declared; what counts is what would have been seen.
        let counts_from = self.rule.start_period + self.rule.interval.saturating_mul(self.failures + 1);
        if self.proven || at >= counts_from {
            self.failures = self.failures.saturating_add(1);
        }
        match &self.verdict {
            _ if self.failures >= self.rule.retries => Verdict::Unhealthy(why),
            Verdict::Unhealthy(_) => Verdict::Unhealthy(why),
            Verdict::Healthy => Verdict::Healthy,
            Verdict::Starting(_) => Verdict::Starting(Some(why)),
        }
    }

    fn pause(&self, verdict: &Verdict) -> Duration {
        match verdict {
            Verdict::Starting(_) => {
                FIRST.saturating_mul(1 << self.looks.min(10)).min(SOON).min(self.rule.interval)
            }
            Verdict::Healthy | Verdict::Unhealthy(_) => self.rule.interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(retries: u32, start_period: u64) -> Rule {
        Rule {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            retries,
            start_period: Duration::from_secs(start_period),
        }
    }

    /// Looks whenever one is due, and shows when the verdict changes: `s`, `h` or `u`, and the second.
    fn watch(judge: &mut Judge, works: impl Fn(u64) -> bool, until: u64) -> Vec<(char, u64)> {
        let mut seen = Vec::new();
        while judge.due() <= Duration::from_secs(until) {
            let at = judge.due();
            let looked = if works(at.as_secs()) { Ok(()) } else { Err("bad".to_owned()) };
            if judge.note(looked, at) {
                let letter = match judge.verdict() {
                    Verdict::Starting(_) => 's',
                    Verdict::Healthy => 'h',
                    Verdict::Unhealthy(_) => 'u',
                };
                seen.push((letter, at.as_secs()));
            }
        }
        seen
    }

    #[test]
    fn what_works_is_seen_to_work_soon() {
        assert_eq!(watch(&mut Judge::new(rule(3, 0)), |_| true, 60), [('h', 0)]);
        assert_eq!(watch(&mut Judge::new(rule(3, 0)), |at| at >= 4, 60), [('s', 0), ('h', 4)]);
        assert_eq!(Judge::found(rule(3, 0)).due(), Duration::ZERO);
    }

    #[test]
    fn what_never_works_is_given_up_after_the_start_period_and_the_retries() {
        for (retries, start_period, last) in [(3, 0, 30), (1, 0, 10), (3, 100, 130)] {
            let seen = watch(&mut Judge::new(rule(retries, start_period)), |_| false, 300);
            let [('s', 0), ('u', at)] = seen.as_slice() else { panic!("{seen:?}") };
            // The look that ends it is the next one after that.
            assert!((last..=last + 1).contains(at), "{at}, expected {last}");
        }
    }

    #[test]
    fn what_works_in_the_start_period_is_judged_from_then_on() {
        let seen = watch(&mut Judge::new(rule(2, 100)), |at| (5..20).contains(&at), 60);
        assert_eq!(seen.iter().map(|(letter, _)| *letter).collect::<String>(), "shu", "{seen:?}");
        assert!(seen.last().is_some_and(|(_, at)| *at < 45), "{seen:?}");
    }

    #[test]
    fn fewer_failures_than_retries_change_nothing_and_one_success_mends() {
        let mut judge = Judge::new(rule(2, 0));
        let mut at = 0;
        let mut look = |works: bool| {
            at += 10;
            let looked = if works { Ok(()) } else { Err("bad".to_owned()) };
            (judge.note(looked, Duration::from_secs(at)), judge.verdict().told().2)
        };
        assert_eq!(look(true), (true, Health::Healthy));
        assert_eq!(look(false), (false, Health::Healthy));
        assert_eq!(look(true), (false, Health::Healthy));
        assert_eq!(look(false), (false, Health::Healthy));
        assert_eq!(look(false), (true, Health::Unhealthy));
        assert_eq!(look(false), (false, Health::Unhealthy));
        assert_eq!(look(true), (true, Health::Healthy));
        assert_eq!(look(false), (false, Health::Healthy), "it counts from the beginning again");
    }

    #[test]
    fn the_pace_is_bounded() {
        let mut judge = Judge::new(Rule { start_period: Duration::from_secs(3600), ..rule(3, 0) });
        // An hour has more seconds.
        for _ in 0..3_000 {
            let at = judge.due();
            judge.note(Err("bad".to_owned()), at);
            assert!(judge.due() <= at + SOON && judge.due() > at);
        }
    }
}
