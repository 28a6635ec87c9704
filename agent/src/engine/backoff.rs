//! When what failed is tried again. Pure.

use std::time::Duration;

/// The first wait, and the longest: a port that is taken is free soon or not for long, and one look every five minutes
/// costs nothing.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// How long to wait after this many failures in a row; none after none.
pub(crate) fn wait(attempts: u64) -> Duration {
    let Some(doublings) = attempts.checked_sub(1) else { return Duration::ZERO };
    let factor = 2_u32.saturating_pow(u32::try_from(doublings).unwrap_or(u32::MAX));
    BOUNDS.0.saturating_mul(factor).min(BOUNDS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z_e10_waits_double_up_to_the_longest() {
        let waits: Vec<u64> =
            [0, 1, 2, 3, 8, 9, 1_000, u64::MAX].map(|attempts| wait(attempts).as_secs()).into();
        assert_eq!(waits, [0, 2, 4, 8, 256, 300, 300, 300]);
    }
}
