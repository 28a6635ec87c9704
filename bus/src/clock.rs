//! The only reader of clocks. State machines take a [`Moment`] as an argument; drivers get it here.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point on the clock that counts since boot, suspended time included (`CLOCK_BOOTTIME`). A process that was frozen
/// sees on it how long it was away; nobody can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment this long after boot; simulations count from zero.
    #[must_use]
    pub const fn since_boot(duration: Duration) -> Self {
        Self(duration)
    }

    /// How long after boot it is.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

/// Now, on the boot clock.
#[must_use]
pub fn now() -> Moment {
    Moment(duration_of(ClockId::Boottime))
}

/// Now, on the wall clock, in Unix milliseconds. For showing to people and for `not_after` on the hub; an agent derives
/// hub time from the hub's answers instead.
#[must_use]
pub fn unix_ms() -> u64 {
    u64::try_from(duration_of(ClockId::Realtime).as_millis()).unwrap_or(u64::MAX)
}

fn duration_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
