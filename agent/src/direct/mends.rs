//! What repair is at: which apps, and whether each of them comes on. Pure.
//!
//! A mend may take as long as an image takes to be pulled, and as a lost host takes to be given up, time and again. So there is no
//! waiting for all of them: another is begun whenever there is room, and each is judged by what its own app declares.

use std::{collections::BTreeMap, time::Duration};

use towline_bus::clock::Moment;

/// Mends that come on, at the same time. One that has not for [`SLOW`] leaves its place to another.
const AT_ONCE: usize = 16;
const SLOW: Duration = Duration::from_secs(5);

/// All mends, also those that hang: each is little but a place in memory.
const MOST: usize = 256;

/// How long a mend may show no progress before it is said to stall, beyond what its app declares to take: a silent engine is given
/// 20 s a call, and there are several to a step.
const STALLED: Duration = Duration::from_secs(120);

/// Mends under way, by id of the app.
#[derive(Debug, Default)]
pub(super) struct Mends(BTreeMap<String, Mend>);

#[derive(Debug)]
struct Mend {
    came_on: Moment,
    /// How long one step of it may take by what is declared.
    longest: Duration,
}

impl Mends {
    pub(super) fn is_at(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Begins one, if there is room; says whether there is. None is mended twice at once.
    pub(super) fn begin(&mut self, id: &str, longest: Duration, now: Moment) -> bool {
        let quick = self.0.values().filter(|mend| now.since(mend.came_on) < SLOW).count();
        if self.is_at(id) || quick >= AT_ONCE || self.0.len() >= MOST {
            return false;
        }
        self.0.insert(id.to_owned(), Mend { came_on: now, longest });
        true
    }

    /// A step of it is done.
    pub(super) fn come_on(&mut self, id: &str, now: Moment) {
        if let Some(mend) = self.0.get_mut(id) {
            mend.came_on = now;
        }
    }

    pub(super) fn end(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// The one that has not come on for longest, if it is too long.
    pub(super) fn stalled(&self, now: Moment) -> Option<String> {
        let idle = |mend: &Mend| now.since(mend.came_on);
        let late = self.0.iter().filter(|(_, mend)| idle(mend) > STALLED.saturating_add(mend.longest));
        let (id, mend) = late.min_by_key(|(_, mend)| mend.came_on)?;
        Some(format!("the repair of {id} has not come on for {} s", idle(mend).as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn what_hangs_leaves_its_place_to_others_but_is_not_begun_twice() {
        let mut mends = Mends::default();
        let none = Duration::ZERO;
        let full = |mends: &mut Mends, from: usize, now| {
            (from..).take_while(|number| mends.begin(&format!("app-{number}"), none, now)).count()
        };
        assert_eq!(full(&mut mends, 0, at(10)), AT_ONCE);
        assert_eq!(full(&mut mends, AT_ONCE, at(14)), 0, "all of them may come on");
        mends.come_on("app-3", at(14));
        assert!(!mends.begin("app-0", none, at(15)), "it is under way");
        assert_eq!(full(&mut mends, AT_ONCE, at(15)), AT_ONCE - 1, "one came on");
        mends.end("app-3");
        assert!(!mends.is_at("app-3") && mends.begin("app-3", none, at(15)));
        for round in 3..100_u64 {
            full(&mut mends, usize::try_from(1_000 * round).unwrap(), at(10 * round));
        }
        assert_eq!(mends.0.len(), MOST);
    }

    #[test]
    fn each_stalls_by_what_its_app_declares() {
        let mut mends = Mends::default();
        mends.begin("slow", Duration::from_secs(1_200), at(0));
        mends.begin("quick", Duration::ZERO, at(60));
        assert_eq!(mends.stalled(at(180)), None);
        assert_eq!(mends.stalled(at(181)).as_deref(), Some("the repair of quick has not come on for 121 s"));
        mends.come_on("quick", at(181));
        assert_eq!(mends.stalled(at(300)), None);
        mends.end("quick");
        assert_eq!(mends.stalled(at(1_320)), None);
        assert_eq!(
            mends.stalled(at(1_321)).as_deref(),
            Some("the repair of slow has not come on for 1321 s")
        );
    }
}
