//! Who works when: one thing at a time within a bundle, several bundles at once, no more than is good for the host. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use towline_protocol::{JobId, Name, WorkloadId, job::JobKind};

/// Bundles that are worked on at the same time. Their work is mostly waiting.
pub(crate) const AT_ONCE: usize = 16;

/// Jobs that wait in one lane, besides what the agent does by itself. A put takes the place of those before it, so only a flood of
/// mixed operations gets there.
pub(crate) const WAITING_OF_ONE: usize = 64;

/// Jobs that wait in all lanes.
pub(crate) const WAITING: usize = 10_000;

/// One thing to do about a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// What was accepted.
    Job { id: JobId, kind: JobKind },
    /// Bring what is active back after the host was started anew.
    Reboot,
    /// Try what failed again, now that its wait is over.
    Retry,
    /// Mend what drifted.
    Repair { workload: WorkloadId },
}

/// A job that waits behind this one has lost its purpose.
pub(crate) fn supersedes(newer: &JobKind, older: &JobKind) -> bool {
    use JobKind::{Decommission, Delete, Pause, Put, Resume, Retry};
    match newer {
        Put => matches!(older, Put | Delete | Retry),
        Delete => matches!(older, Put | Delete | Retry | Pause | Resume | Decommission),
        Pause | Resume => matches!(older, Pause | Resume),
        Retry => matches!(older, Retry),
        _ => false,
    }
}

/// What waits for one bundle. What somebody asked for goes before what the agent does by itself, or nobody could stop a bundle
/// of which much has drifted; but for coming up again, which is what all that follows builds on.
#[derive(Debug, Default)]
struct Lane {
    reboot: bool,
    /// In the order they were accepted.
    jobs: VecDeque<(JobId, JobKind)>,
    retry: bool,
    /// Begun one at a time, so that a job waits for one of them and no more.
    repair: BTreeSet<WorkloadId>,
}

impl Lane {
    fn add(&mut self, item: Item) {
        match item {
            Item::Reboot => self.reboot = true,
            Item::Job { id, kind } if self.jobs.iter().all(|(known, _)| *known != id) => {
                self.jobs.push_back((id, kind));
            }
            Item::Job { .. } => {}
            Item::Retry => self.retry = true,
            Item::Repair { workload } => drop(self.repair.insert(workload)),
        }
    }

    fn take(&mut self) -> Option<Item> {
        if std::mem::take(&mut self.reboot) {
            return Some(Item::Reboot);
        }
        if let Some((id, kind)) = self.jobs.pop_front() {
            return Some(Item::Job { id, kind });
        }
        if std::mem::take(&mut self.retry) {
            return Some(Item::Retry);
        }
        self.repair.pop_first().map(|workload| Item::Repair { workload })
    }

    /// Things that wait; what drifted is one, however much it is.
    fn depth(&self) -> usize {
        self.jobs.len()
            + [self.reboot, self.retry, !self.repair.is_empty()].map(usize::from).iter().sum::<usize>()
    }
}

/// All lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    waiting: BTreeMap<Name, Lane>,
    /// Lanes that have something and nobody at work, in the order they came to it.
    ready: VecDeque<Name>,
    at_work: BTreeSet<Name>,
}

impl Lanes {
    /// Whether there is no room for one more job of `bundle`. What the agent does by itself takes none.
    pub(crate) fn is_full(&self, bundle: &Name) -> bool {
        self.waiting.get(bundle).map_or(0, |lane| lane.jobs.len()) >= WAITING_OF_ONE
            || self.waiting.values().map(|lane| lane.jobs.len()).sum::<usize>() >= WAITING
    }

    /// The waiting jobs that a new one of `kind` takes the place of.
    pub(crate) fn superseded(&self, bundle: &Name, kind: &JobKind) -> Vec<JobId> {
        let jobs = self.waiting.get(bundle).into_iter().flat_map(|lane| &lane.jobs);
        jobs.filter(|(_, older)| supersedes(kind, older)).map(|(id, _)| *id).collect()
    }

    /// Has `item` wait in its lane. What is there already need not be there twice.
    pub(crate) fn submit(&mut self, bundle: &Name, item: Item) {
        self.waiting.entry(bundle.clone()).or_default().add(item);
        self.make_ready(bundle);
    }

    /// Takes a waiting job out of its lane; says whether it was there.
    pub(crate) fn withdraw(&mut self, bundle: &Name, job: JobId) -> bool {
        let Some(lane) = self.waiting.get_mut(bundle) else { return false };
        let before = lane.jobs.len();
        lane.jobs.retain(|(id, _)| *id != job);
        let found = lane.jobs.len() < before;
        self.tidy(bundle);
        found
    }

    /// The next thing to begin, unless enough are at work.
    pub(crate) fn begin(&mut self) -> Option<(Name, Item)> {
        if self.at_work.len() >= AT_ONCE {
            return None;
        }
        let bundle = self.ready.pop_front()?;
        let item = self.waiting.get_mut(&bundle)?.take()?;
        self.at_work.insert(bundle.clone());
        self.tidy(&bundle);
        Some((bundle, item))
    }

    /// What was begun for `bundle` has ended.
    pub(crate) fn end(&mut self, bundle: &Name) {
        self.at_work.remove(bundle);
        self.make_ready(bundle);
    }

    /// Nobody works on `bundle`, and nothing waits to.
    pub(crate) fn is_idle(&self, bundle: &Name) -> bool {
        !self.at_work.contains(bundle) && !self.waiting.contains_key(bundle)
    }

    /// Things that wait, in all lanes.
    pub(crate) fn depth(&self) -> usize {
        self.waiting.values().map(Lane::depth).sum()
    }

    fn make_ready(&mut self, bundle: &Name) {
        let waits = self.waiting.contains_key(bundle);
        if waits && !self.at_work.contains(bundle) && !self.ready.contains(bundle) {
            self.ready.push_back(bundle.clone());
        }
    }

    fn tidy(&mut self, bundle: &Name) {
        if self.waiting.get(bundle).is_some_and(|lane| lane.depth() == 0) {
            self.waiting.remove(bundle);
            self.ready.retain(|ready| ready != bundle);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn job(number: u128, kind: JobKind) -> Item {
        Item::Job { id: JobId::new(uuid::Uuid::from_u128(number)), kind }
    }

    #[test]
    fn one_at_a_time_in_a_bundle_and_several_across() {
        let mut lanes = Lanes::default();
        for (bundle, number) in [("a", 1), ("a", 2), ("b", 3)] {
            lanes.submit(&name(bundle), job(number, JobKind::Pause));
        }
        assert_eq!(lanes.begin(), Some((name("a"), job(1, JobKind::Pause))));
        assert_eq!(lanes.begin(), Some((name("b"), job(3, JobKind::Pause))));
        assert_eq!((lanes.begin(), lanes.depth()), (None, 1));
        lanes.end(&name("b"));
        assert!(lanes.is_idle(&name("b")) && !lanes.is_idle(&name("a")));
        lanes.end(&name("a"));
        assert_eq!(lanes.begin(), Some((name("a"), job(2, JobKind::Pause))));
    }

    #[test]
    fn z_u5_what_was_not_begun_gives_way_to_what_is_newer() {
        let mut lanes = Lanes::default();
        let shop = name("shop");
        let ids = [1, 2, 3].map(|number| JobId::new(uuid::Uuid::from_u128(number)));
        for (number, kind) in [(1, JobKind::Put), (2, JobKind::Pause), (3, JobKind::Put)] {
            lanes.submit(&shop, job(number, kind));
        }
        assert_eq!(lanes.superseded(&shop, &JobKind::Put), [ids[0], ids[2]]);
        assert_eq!(lanes.superseded(&shop, &JobKind::Resume), [ids[1]]);
        assert_eq!(lanes.superseded(&shop, &JobKind::Delete), ids);
        assert!(lanes.withdraw(&shop, ids[0]) && !lanes.withdraw(&shop, ids[0]));
        assert_eq!(lanes.begin(), Some((shop, job(2, JobKind::Pause))));
    }

    #[test]
    fn a_lane_has_room_for_so_many() {
        let mut lanes = Lanes::default();
        let shop = name("shop");
        for number in 0..u128::try_from(WAITING_OF_ONE).unwrap() {
            assert!(!lanes.is_full(&shop));
            lanes.submit(&shop, job(number, JobKind::Pause));
        }
        assert!(lanes.is_full(&shop) && !lanes.is_full(&name("other")));
    }

    #[test]
    fn what_is_asked_for_goes_before_what_is_mended_and_finds_room() {
        let (mut lanes, shop) = (Lanes::default(), name("shop"));
        let repair = |number: usize| Item::Repair { workload: format!("File/f{number}").parse().unwrap() };
        for number in 0..2 * WAITING {
            lanes.submit(&shop, repair(number));
        }
        lanes.submit(&shop, Item::Retry);
        assert_eq!((lanes.is_full(&shop), lanes.depth()), (false, 2));
        assert_eq!(lanes.begin(), Some((shop.clone(), Item::Retry)));
        lanes.end(&shop);
        assert_eq!(lanes.begin(), Some((shop.clone(), repair(0))));
        for item in [job(1, JobKind::Pause), Item::Reboot, job(2, JobKind::Put)] {
            lanes.submit(&shop, item);
        }
        for item in [Item::Reboot, job(1, JobKind::Pause), job(2, JobKind::Put), repair(1)] {
            lanes.end(&shop);
            assert_eq!(lanes.begin(), Some((shop.clone(), item)));
        }
    }

    proptest! {
        #[test]
        fn everything_is_begun_once_in_its_lanes_order(submits in proptest::collection::vec((0_u8..40, any::<bool>()), 0..200)) {
            let mut lanes = Lanes::default();
            let mut at_work: Vec<Name> = Vec::new();
            let mut begun: BTreeMap<Name, Vec<Item>> = BTreeMap::new();
            let mut asked: BTreeMap<Name, Vec<Item>> = BTreeMap::new();
            for (number, (bundle, ends)) in submits.iter().enumerate() {
                let bundle = name(&format!("b{bundle}"));
                let item = job(u128::try_from(number).unwrap(), JobKind::Pause);
                lanes.submit(&bundle, item.clone());
                asked.entry(bundle).or_default().push(item);
                while let Some((bundle, item)) = lanes.begin() {
                    prop_assert!(!at_work.contains(&bundle));
                    at_work.push(bundle.clone());
                    begun.entry(bundle).or_default().push(item);
                }
                prop_assert!(at_work.len() <= AT_ONCE);
                if *ends && !at_work.is_empty() {
                    lanes.end(&at_work.remove(0));
                }
            }
            while !at_work.is_empty() || lanes.depth() > 0 {
                if !at_work.is_empty() {
                    lanes.end(&at_work.remove(0));
                }
                while let Some((bundle, item)) = lanes.begin() {
                    at_work.push(bundle.clone());
                    begun.entry(bundle).or_default().push(item);
                }
            }
            prop_assert_eq!(begun, asked);
        }
    }
}
