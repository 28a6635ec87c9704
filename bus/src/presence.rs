//! Whether an instance is there: connected, unreachable, never seen. A pure state machine; it never shows as connected
//! what was not heard within its bound.

use std::time::Duration;

use towline_protocol::limits;

use crate::clock::Moment;

/// What is known of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It never served since this hub's store knows it.
    NeverSeen,
    /// It was heard within the bound.
    Connected {
        /// Since when without a gap.
        since: Moment,
        /// When it was heard last.
        heard: Moment,
    },
    /// It was not heard within the bound, or said goodbye.
    Unreachable {
        /// When it was heard last, or the hub began to listen.
        since: Moment,
    },
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was unreachable, and is heard again.
    Returned,
    /// It was connected, and was not heard within the bound.
    Lost {
        /// For how long it was not heard.
        silent: Duration,
    },
}

impl Presence {
    /// It was heard: a heartbeat, or any other valid frame of its session.
    pub fn hear(&mut self, now: Moment) -> Option<Change> {
        match *self {
            Self::Connected { since, heard } => {
                *self = Self::Connected { since, heard: heard.max(now) };
                None
            }
            Self::NeverSeen => {
                *self = Self::Connected { since: now, heard: now };
                None
            }
            Self::Unreachable { .. } => {
                *self = Self::Connected { since: now, heard: now };
                Some(Change::Returned)
            }
        }
    }

    /// It said goodbye: unreachable at once.
    pub fn leave(&mut self, now: Moment) {
        *self = Self::Unreachable { since: now };
    }

    /// Looks at the clock. `deaf_until` is when this hub last regained its own hearing, plus one interval: silence before
    /// that is the hub's own, not the instance's. It comes from [`Hearing::look`]; while the hub is deaf, do not call this.
    pub fn check(&mut self, now: Moment, deaf_until: Moment) -> Option<Change> {
        let Self::Connected { heard, .. } = *self else { return None };
        if now.since(heard.max(deaf_until)) <= limits::PRESENCE_LOST_AFTER {
            return None;
        }
        *self = Self::Unreachable { since: heard };
        Some(Change::Lost { silent: now.since(heard) })
    }

    /// Whether calls may go there.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// Looks further apart than this mean that the process stood still: it may have been paused, and what came meanwhile waits
/// unread. Four looks of a driver that looks every quarter of a second.
const STOOD_STILL_AFTER: Duration = Duration::from_secs(1);

/// Whether a hub itself can hear: what it did not hear while it could not is no instance's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hearing {
    /// Until then, silence may be this hub's own.
    deaf_until: Moment,
    looked: Moment,
    was_linked: bool,
}

impl Hearing {
    /// Of a hub that begins to listen.
    #[must_use]
    pub const fn new(now: Moment) -> Self {
        Self { deaf_until: now, looked: now, was_linked: true }
    }

    /// The link is there again.
    pub fn regain(&mut self, now: Moment) {
        self.deaf_until = now + limits::RENEW_EVERY;
    }

    /// Before presence is looked at, several times a second: the moment for [`Presence::check`]; none while the hub is deaf.
    ///
    /// It relies on nobody to say that the link was lost, or that time has passed: a look may come before that news, and before
    /// the heartbeats that wait in a queue.
    pub fn look(&mut self, now: Moment, is_linked: bool) -> Option<Moment> {
        let stood_still = now.since(self.looked) > STOOD_STILL_AFTER;
        if stood_still || !self.was_linked {
            self.regain(now);
        }
        (self.looked, self.was_linked) = (now, is_linked);
        is_linked.then_some(self.deaf_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn silence_is_noticed_within_its_bound() {
        let mut presence = Presence::NeverSeen;
        assert_eq!(presence.hear(at(10)), None);
        assert_eq!(presence.check(at(15), at(0)), None);
        assert_eq!(presence.check(at(16), at(0)), Some(Change::Lost { silent: Duration::from_secs(6) }));
        assert_eq!(presence, Presence::Unreachable { since: at(10) });
        assert_eq!(presence.check(at(99), at(0)), None, "it is lost once");
        assert_eq!(presence.hear(at(100)), Some(Change::Returned));
    }

    #[test]
    fn the_hubs_own_silence_is_not_the_instances() {
        let mut presence = Presence::Connected { since: at(0), heard: at(0) };
        assert_eq!(presence.check(at(60), at(58)), None);
        assert!(presence.check(at(64), at(58)).is_some());
    }

    #[test]
    fn a_look_before_the_news_of_an_outage_finds_nobody_lost() {
        let mut hearing = Hearing::new(at(0));
        assert_eq!(hearing.look(at(1), true), Some(at(0)));
        assert_eq!(hearing.look(at(2), false), None);
        assert_eq!(hearing.look(at(3), false), None);
        assert_eq!(hearing.look(at(4), true), Some(at(6)), "nobody has said that the link is back");
        assert_eq!(hearing.look(at(5), true), Some(at(6)));
    }

    #[test]
    fn a_look_after_a_pause_finds_nobody_lost() {
        let mut hearing = Hearing::new(at(0));
        assert_eq!(hearing.look(at(1), true), Some(at(0)));
        assert_eq!(hearing.look(at(60), true), Some(at(62)), "what came meanwhile is not read yet");
        assert_eq!(hearing.look(at(61), true), Some(at(62)));
    }

    #[test]
    fn goodbye_is_believed_at_once() {
        let mut presence = Presence::Connected { since: at(0), heard: at(9) };
        presence.leave(at(10));
        assert_eq!(presence, Presence::Unreachable { since: at(10) });
    }
}
