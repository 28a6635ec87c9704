//! When to try again: at random, so that a fleet does not come all at once.

use std::time::Duration;

/// Waits between attempts to connect: at random from the floor up to a ceiling that doubles. The floor matters as much as
/// the ceiling: async-nats' first attempt comes at once, and a fleet's first attempts together.
const RECONNECT_FLOOR: Duration = Duration::from_millis(100);
const RECONNECT_FIRST: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// A duration at random below this one.
pub(super) fn jitter(most: Duration) -> Duration {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    most.mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX))
}

/// Full jitter (Brooker: "Exponential backoff and jitter", 2015), above a floor. The client counts attempts from its last
/// success, so the floor is also all that holds back a server that accepts a connection and ends it at once.
pub(super) fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = RECONNECT_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    RECONNECT_FLOOR + jitter(doubled.min(RECONNECT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-B8: no attempt at once, none together.
    #[test]
    fn n_b8_reconnects_are_spread_above_a_floor() {
        for attempts in 0..40 {
            let delays: Vec<_> = (0..200).map(|_| reconnect_delay(attempts)).collect();
            assert!(
                delays
                    .iter()
                    .all(|delay| (RECONNECT_FLOOR..=RECONNECT_FLOOR + RECONNECT_MAX).contains(delay))
            );
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(*most - *least > RECONNECT_FIRST / 2, "attempt {attempts} is not spread");
        }
    }
}
