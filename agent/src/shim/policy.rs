//! Whether and when a unit that ended is started again. Pure.

use std::time::Duration;

use super::{
    spec::RestartRule,
    state::{Ended, Status},
};
use crate::manifest::Condition;

/// Restarts in a row from which on a unit is called crash-looping.
const CRASH_LOOP: u32 = 3;

/// What is remembered between the runs of a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Restarts since the last run that lasted.
    in_a_row: u32,
}

/// What follows an ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Start again after a while; shown as an error until then.
    Restart { after: Duration, reason: String },
    /// It stays ended.
    Finish { status: Status, reason: String },
}

/// Decides what follows a run that `ended` after `lasted`.
///
/// A run as long as the longest delay counts as sound: delays and attempts begin anew after it.
pub(super) fn decide(rule: &RestartRule, history: &mut History, ended: &Ended, lasted: Duration) -> Decision {
    let sound = *ended == Ended::Exited(0);
    let again = match rule.condition {
        Condition::Always => true,
        Condition::OnFailure => !sound,
        Condition::Never => false,
    };
    if !again {
        let status = if sound { Status::Stopped } else { Status::Error };
        return Decision::Finish { status, reason: ended.to_string() };
    }
    if lasted >= rule.max_delay.max(Duration::from_secs(1)) {
        *history = History::default();
    }
    if rule.attempts != 0 && history.in_a_row >= rule.attempts {
        let reason = format!("gave up after {} restarts: {ended}", history.in_a_row);
        return Decision::Finish { status: Status::Error, reason };
    }
    let doublings = history.in_a_row.min(31);
    history.in_a_row = history.in_a_row.saturating_add(1);
    let after = rule.delay.saturating_mul(1 << doublings).min(rule.max_delay);
    let next = humantime::format_duration(after);
    let reason = if history.in_a_row >= CRASH_LOOP {
        format!("crash-looping: {ended}; restart {} in {next}", history.in_a_row)
    } else {
        format!("{ended}; restart in {next}")
    };
    Decision::Restart { after, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(condition: Condition, attempts: u32) -> RestartRule {
        RestartRule { condition, delay: Duration::from_secs(1), max_delay: Duration::from_secs(5), attempts }
    }

    fn brief(decision: &Decision) -> String {
        match decision {
            Decision::Restart { after, reason } if reason.starts_with("crash-looping") => {
                format!("loop {}", after.as_secs())
            }
            Decision::Restart { after, .. } => format!("again {}", after.as_secs()),
            Decision::Finish { status, .. } => status.to_string(),
        }
    }

    #[test]
    fn conditions_decide() {
        let table = [
            (Condition::Always, Ended::Exited(0), "again 1"),
            (Condition::Always, Ended::Signaled(9), "again 1"),
            (Condition::OnFailure, Ended::Exited(0), "stopped"),
            (Condition::OnFailure, Ended::Exited(1), "again 1"),
            (Condition::OnFailure, Ended::Signaled(15), "again 1"),
            (Condition::Never, Ended::Exited(0), "stopped"),
            (Condition::Never, Ended::Exited(2), "error"),
            (Condition::Never, Ended::Signaled(9), "error"),
        ];
        for (condition, ended, expected) in table {
            let decision = decide(&rule(condition, 0), &mut History::default(), &ended, Duration::ZERO);
            assert_eq!(brief(&decision), expected, "{condition:?} {ended:?}");
        }
    }

    #[test]
    fn delays_double_up_to_the_longest_and_the_loop_is_named() {
        let mut history = History::default();
        let mut run = |lasted| {
            brief(&decide(
                &rule(Condition::Always, 0),
                &mut history,
                &Ended::Exited(1),
                Duration::from_secs(lasted),
            ))
        };
        let seen: Vec<String> = [0, 0, 0, 0, 0, 5, 0].into_iter().map(&mut run).collect();
        assert_eq!(seen, ["again 1", "again 2", "loop 4", "loop 5", "loop 5", "again 1", "again 2"]);
    }

    #[test]
    fn attempts_end_it() {
        let mut history = History::default();
        let mut run = |lasted| {
            brief(&decide(
                &rule(Condition::Always, 2),
                &mut history,
                &Ended::Exited(1),
                Duration::from_secs(lasted),
            ))
        };
        let seen: Vec<String> = [0, 0, 9, 0, 0].into_iter().map(&mut run).collect();
        assert_eq!(seen, ["again 1", "again 2", "again 1", "again 2", "error"]);
    }

    #[test]
    fn no_number_of_restarts_overflows() {
        let mut history = History { in_a_row: u32::MAX };
        let decision = decide(&rule(Condition::Always, 0), &mut history, &Ended::Lost, Duration::ZERO);
        assert_eq!(brief(&decision), "loop 5");
    }
}
