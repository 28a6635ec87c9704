//! The session that the authority calls active, and those before it that may still act.

use std::time::Duration;

use towline_protocol::call::CallSet;
use towline_protocol::{BootId, Epoch, StoreId, limits};

use super::words::Target;
use crate::authority::{Grant, Replicas};
use crate::clock::Moment;

/// Older sessions whose stand-down is told apart. With more of them the end of their leases is waited for.
const OLDER_MAX: usize = 8;

/// The session that was activated last.
#[derive(Debug, Clone)]
pub(super) struct Active {
    pub(super) target: Target,
    pub(super) stage: Stage,
    /// Until then it may act on what *this* hub said to it, unless it says that it stood down.
    pub(super) lease_ends: Moment,
    /// It acknowledged standing down, or said goodbye.
    pub(super) gone: bool,
    /// The number of its latest ready that waits for an answer, and when it came.
    pub(super) ready: Option<(u32, Moment)>,
    /// As [`Grant::since`].
    pub(super) since: Option<Epoch>,
}

/// How far it is.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// It may not begin, as far as this hub knows, before those before it are over.
    Waits(Before),
    /// It was told to go, by this hub or another.
    Begun,
}

/// Those that may still act under an older epoch.
#[derive(Debug, Clone)]
pub(super) struct Before {
    /// Who they are; `None` when this hub did not see them.
    who: Option<Vec<(Epoch, BootId)>>,
    /// By then the lease of each of them has ended.
    until: Moment,
    /// When they were told last to stand down.
    kicked_at: Option<Moment>,
}

impl Active {
    /// What was activated just now, in place of `older`.
    pub(super) fn after(older: Option<Self>, target: Target, replicas: Replicas, now: Moment) -> Self {
        let before = Before::after(older, target.boot, replicas, now);
        let lease_ends = now + limits::LEASE_HUB;
        let since = None;
        Self { target, stage: Stage::Waits(before), lease_ends, gone: false, ready: None, since }
    }

    /// What is known from the authority alone. It may have been activated a moment ago, so nobody knows who acts under an
    /// older epoch; and it may have been renewed a moment ago. Unless its agent said goodbye: only one that began does.
    pub(super) fn learned(grant: &Grant, now: Moment) -> Self {
        let target = Target {
            epoch: grant.epoch,
            boot: grant.boot,
            store: grant.store,
            version: String::new(),
            runtime: String::new(),
            calls: CallSet::default(),
        };
        let lease_ends = now + limits::LEASE_HUB;
        let before = Before { who: None, until: lease_ends, kicked_at: None };
        let stage = if grant.ended { Stage::Begun } else { Stage::Waits(before) };
        Self { target, stage, lease_ends, gone: grant.ended, ready: None, since: grant.since }
    }

    pub(super) fn is(&self, epoch: Epoch, boot: BootId) -> bool {
        (self.target.epoch, self.target.boot) == (epoch, boot)
    }

    /// [`Grant::since`] of the grant that replaces this one. Also one that never came to begin counts as another store: what
    /// another hub said to it is not known.
    pub(super) fn since_for(&self, store: StoreId, epoch: Epoch) -> Option<Epoch> {
        if self.target.store == store { self.since } else { Some(epoch) }
    }

    /// Whether this hub need not count on it any more.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.gone || now >= self.lease_ends
    }

    /// Whether it may have begun: then to replace it is to take over.
    pub(super) const fn may_have_begun(&self) -> bool {
        matches!(&self.stage, Stage::Begun | Stage::Waits(Before { who: None, .. }))
    }

    /// It has begun, so all before it is over.
    pub(super) fn begin(&mut self) {
        self.stage = Stage::Begun;
    }

    /// Whether it may begin.
    pub(super) fn is_free(&self, now: Moment) -> bool {
        match &self.stage {
            Stage::Waits(before) => before.is_over(now),
            Stage::Begun => true,
        }
    }
}

impl Before {
    /// From the compare-and-set on, whoever reads the authority says no to all that is older. What was said before it ends
    /// within a lease: counted from now where other replicas may have said it, and known where only this hub can have.
    fn after(older: Option<Active>, boot: BootId, replicas: Replicas, now: Moment) -> Self {
        let nobody = Self { who: Some(Vec::new()), until: now, kicked_at: None };
        let Some(older) = older else { return nobody };
        // A process is ready for a newer epoch only once its older session has ended.
        let gone = older.gone || older.target.boot == boot;
        let (mut who, ends) = match older.stage {
            Stage::Begun if gone => return nobody,
            Stage::Begun => (Some(Vec::new()), older.lease_ends),
            Stage::Waits(before) if before.is_over(now) => (Some(Vec::new()), before.until),
            // This hub never told it to go, so what it knows of is over with those before it.
            Stage::Waits(before) => (before.who, before.until),
        };
        if let Some(known) = &mut who {
            known.extend((!gone).then_some((older.target.epoch, older.target.boot)));
            known.retain(|(_, other)| *other != boot);
        }
        let until = match replicas {
            Replicas::One => ends,
            Replicas::Several => now + limits::LEASE_HUB,
        };
        Self { who: who.filter(|who| who.len() <= OLDER_MAX), until, kicked_at: None }
    }

    fn is_over(&self, now: Moment) -> bool {
        now >= self.until || self.who.as_ref().is_some_and(Vec::is_empty)
    }

    /// One of them stood down.
    pub(super) fn note_gone(&mut self, epoch: Epoch, boot: BootId) {
        if let Some(who) = &mut self.who {
            who.retain(|known| *known != (epoch, boot));
        }
    }

    /// The epochs that are to be told now to stand down.
    pub(super) fn kicks(&mut self, now: Moment) -> Vec<Epoch> {
        const AGAIN: Duration = limits::ASK_AGAIN_AFTER;
        if self.kicked_at.is_some_and(|kicked_at| now.since(kicked_at) < AGAIN) {
            return Vec::new();
        }
        self.kicked_at = Some(now);
        self.who.iter().flatten().map(|(epoch, _)| *epoch).collect()
    }
}

/// Whether this session is active, and did not end.
pub(super) fn confirms(grant: Option<&Grant>, epoch: Epoch, boot: BootId) -> bool {
    grant.is_some_and(|grant| (grant.epoch, grant.boot) == (epoch, boot) && !grant.ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(seconds: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(seconds))
    }

    fn grant(number: u64) -> Grant {
        let id = Uuid::from_u128(u128::from(number));
        let epoch = Epoch::new(number).unwrap();
        Grant { epoch, boot: BootId::new(id), store: StoreId::new(id), since: None, ended: false }
    }

    fn target(number: u64) -> Target {
        Active::learned(&grant(number), at(0)).target
    }

    fn begun(number: u64) -> Active {
        Active { stage: Stage::Begun, ..Active::learned(&grant(number), at(0)) }
    }

    fn stand_down(active: &mut Active, number: u64) {
        let Stage::Waits(before) = &mut active.stage else { panic!("{active:?}") };
        before.note_gone(grant(number).epoch, grant(number).boot);
    }

    #[test]
    fn one_hub_alone_counts_the_lease_that_it_gave() {
        let alone = |now| Active::after(Some(begun(1)), target(2), Replicas::One, now);
        assert!(!alone(at(5)).is_free(at(5)));
        assert!(alone(at(5)).is_free(at(6)));
        assert!(alone(at(100)).is_free(at(100)), "whoever died long ago is not waited for");
    }

    #[test]
    fn one_of_several_hubs_waits_from_the_compare_and_set_on() {
        let active = Active::after(Some(begun(1)), target(2), Replicas::Several, at(100));
        assert!(!active.is_free(at(105)));
        assert!(active.is_free(at(106)));
    }

    #[test]
    fn who_never_began_passes_on_whom_it_waited_for() {
        for replicas in [Replicas::One, Replicas::Several] {
            let second = Active::after(Some(begun(1)), target(2), replicas, at(1));
            let mut third = Active::after(Some(second), target(3), replicas, at(2));
            stand_down(&mut third, 2);
            assert!(!third.is_free(at(3)), "the first may still act");
            stand_down(&mut third, 1);
            assert!(third.is_free(at(3)));
        }
    }

    #[test]
    fn what_is_known_from_the_authority_alone_waits_for_strangers() {
        let mut third =
            Active::after(Some(Active::learned(&grant(2), at(0))), target(3), Replicas::One, at(1));
        stand_down(&mut third, 2);
        assert!(!third.is_free(at(5)));
        assert!(third.is_free(at(6)));
        let ended = Grant { ended: true, ..grant(2) };
        let third = Active::after(Some(Active::learned(&ended, at(0))), target(3), Replicas::Several, at(1));
        assert!(third.is_free(at(1)), "a goodbye is believed at once");
    }

    #[test]
    fn a_store_serves_alone_since_another_was_active() {
        let (one, two) = (grant(1).store, grant(2).store);
        let at_epoch = |number| Epoch::new(number).unwrap();
        let first = Active::learned(&grant(1), at(0));
        assert_eq!(first.since_for(one, at_epoch(5)), None, "nobody else is known");
        assert_eq!(first.since_for(two, at_epoch(5)), Some(at_epoch(5)));
        let alone = Active { since: Some(at_epoch(4)), ..first };
        assert_eq!(alone.since_for(one, at_epoch(9)), Some(at_epoch(4)), "also over several epochs");
        assert_eq!(alone.since_for(two, at_epoch(9)), Some(at_epoch(9)));
    }

    #[test]
    fn a_process_does_not_wait_for_itself() {
        let again = Target { boot: grant(1).boot, ..target(2) };
        assert!(Active::after(Some(begun(1)), again.clone(), Replicas::Several, at(1)).is_free(at(1)));
        let between = Active::after(Some(begun(1)), target(5), Replicas::Several, at(1));
        let mut again = Active::after(Some(between), again, Replicas::Several, at(1));
        stand_down(&mut again, 5);
        assert!(again.is_free(at(1)));
    }
}
