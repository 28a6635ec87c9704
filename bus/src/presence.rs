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

    /// Looks at the clock. `deaf_until` is when this hub last regained its own link, plus one interval: silence before
    /// that is the hub's own, not the instance's. While the hub is deaf, do not call this.
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
    fn goodbye_is_believed_at_once() {
        let mut presence = Presence::Connected { since: at(0), heard: at(9) };
        presence.leave(at(10));
        assert_eq!(presence, Presence::Unreachable { since: at(10) });
    }
}
