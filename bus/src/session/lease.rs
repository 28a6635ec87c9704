//! Until when an agent may begin calls, and until when each of them is wanted.

use towline_protocol::Epoch;

use crate::clock::Moment;

/// What an agent holds: the right to begin calls of one epoch up to a moment, and what it knows of the hub's clock. Pure:
/// the responder asks it for each call, and so does the simulation.
#[derive(Debug, Default, Clone, Copy)]
pub struct Lease {
    /// The epoch whose subjects are heard, and whose go has not come yet.
    awaited: Option<Epoch>,
    epoch: Option<Epoch>,
    until: Moment,
    hub: Option<HubTime>,
}

/// What is known of the hub's clock (Cristian's algorithm, 1989): it showed this no earlier than at that moment.
#[derive(Debug, Clone, Copy)]
struct HubTime {
    unix_ms: u64,
    asked_at: Moment,
}

impl HubTime {
    /// The latest that it can show now: whoever acts before a moment of hub time is safe with it. The wall clock has no
    /// part in it.
    fn at_most(self, now: Moment) -> u64 {
        self.unix_ms.saturating_add(u64::try_from(now.since(self.asked_at).as_millis()).unwrap_or(u64::MAX))
    }

    /// The sharper of what was known and what a new answer tells, which an outage may have held up for seconds. An answer
    /// that is later than what was known allows says that the clock was set, or that another hub answers.
    fn sharpened(self, new: Self, now: Moment) -> Self {
        let known = self.at_most(now);
        if new.unix_ms <= known && known < new.at_most(now) { self } else { new }
    }
}

/// Why a call may not begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// The session has no lease, or its lease has ended.
    LeaseOver,
    /// It came after the moment up to which it was wanted.
    TooLate,
}

impl Lease {
    /// The epoch's subjects are heard from now on; its go is to come.
    pub const fn expect(&mut self, epoch: Epoch) {
        self.awaited = Some(epoch);
    }

    /// Calls of this epoch may begin up to `until`, or up to what was said before if that is later. Returns whether the
    /// epoch begins with it: what was held of another is gone then.
    pub fn extend(&mut self, epoch: Epoch, until: Moment) -> bool {
        let begins = self.epoch != Some(epoch);
        if begins {
            *self = Self { awaited: None, epoch: Some(epoch), until, hub: self.hub };
        }
        self.until = self.until.max(until);
        begins
    }

    /// Nothing may begin any more, and no go is awaited.
    pub const fn end(&mut self) {
        (self.awaited, self.epoch) = (None, None);
    }

    /// Whether the go of this epoch is still to come.
    #[must_use]
    pub fn is_awaited(&self, epoch: Epoch) -> bool {
        self.awaited == Some(epoch)
    }

    /// Notes what an answer says of the hub's clock (Unix milliseconds), which it got `now` to a question of `asked_at`.
    pub fn set_hub_time(&mut self, unix_ms: u64, asked_at: Moment, now: Moment) {
        let new = HubTime { unix_ms, asked_at };
        self.hub = Some(self.hub.map_or(new, |known| known.sharpened(new, now)));
    }

    /// The epoch whose calls may begin now.
    #[must_use]
    pub fn held(&self, now: Moment) -> Option<Epoch> {
        self.epoch.filter(|_| now <= self.until)
    }

    /// Whether a call of this epoch that is wanted up to `not_after` (Unix milliseconds of hub time) may begin now.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, epoch: Epoch, not_after: Option<u64>, now: Moment) -> Result<(), NotNow> {
        if self.held(now) != Some(epoch) {
            return Err(NotNow::LeaseOver);
        }
        let late = not_after.zip(self.hub).is_some_and(|(not_after, hub)| hub.at_most(now) > not_after);
        if late { Err(NotNow::TooLate) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::since_boot(Duration::from_millis(ms))
    }

    /// A lease of epoch 1 that does not end, with answers of (hub's clock, asked at, heard at).
    fn lease(answers: &[(u64, u64, u64)]) -> Lease {
        let mut lease = Lease::default();
        lease.extend(Epoch::new(1).expect("one is an epoch"), at(1_000_000));
        for (hub, asked, heard) in answers {
            lease.set_hub_time(*hub, at(*asked), at(*heard));
        }
        lease
    }

    /// The latest that the hub's clock is taken to show.
    fn latest(lease: &Lease, now: u64) -> u64 {
        lease.hub.expect("an answer has told it").at_most(at(now))
    }

    #[test]
    fn a_call_is_too_late_when_the_hubs_clock_may_have_passed_its_moment() {
        let lease = lease(&[(50_000, 1_000, 1_010)]);
        let epoch = Epoch::new(1).unwrap();
        assert_eq!(lease.check(epoch, Some(52_000), at(3_000)), Ok(()));
        assert_eq!(lease.check(epoch, Some(52_000), at(3_001)), Err(NotNow::TooLate));
        assert_eq!(lease.check(epoch, None, at(900_000)), Ok(()), "who says no moment waits for ever");
        assert_eq!(lease.check(epoch, None, at(1_000_001)), Err(NotNow::LeaseOver));
    }

    #[test]
    fn an_answer_that_an_outage_held_up_makes_the_hubs_clock_no_later() {
        // Asked at 3,000, answered eight seconds later: alone, it would put the hub eight seconds ahead.
        assert_eq!(latest(&lease(&[(50_000, 1_000, 1_010), (60_000, 3_000, 11_010)]), 11_010), 60_010);
        assert_eq!(latest(&lease(&[(60_000, 3_000, 11_010)]), 11_010), 68_010);
        // A quicker one sharpens it.
        assert_eq!(latest(&lease(&[(50_000, 1_000, 1_010), (52_005, 3_010, 3_012)]), 3_012), 52_007);
    }

    #[test]
    fn a_hubs_clock_that_was_set_is_followed_both_ways() {
        assert_eq!(latest(&lease(&[(50_000, 1_000, 1_010), (90_000, 3_000, 3_100)]), 3_100), 90_100);
        assert_eq!(latest(&lease(&[(50_000, 1_000, 1_010), (10_000, 3_000, 3_100)]), 3_100), 10_100);
    }
}
