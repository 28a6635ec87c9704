//! Units that were there and are not any more, although nobody here removed them. Pure.
//!
//! A runtime lists what there is; that something is missing only shows beside what was there before. Such a unit is shown as `gone`
//! until another has taken its place: for a moment where an app is repaired, and where it says `drift: report` until somebody acts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use towline_protocol::platform::{Unit, UnitStatus as Word};

use crate::runtime::UnitStatus;

/// What is known of units by their ids. In memory: an agent that starts anew knows of none that were gone by then.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    seen: BTreeMap<String, Seen>,
    /// Those that are removed here, as long as they are listed.
    removed: BTreeSet<String>,
    /// By app; the one that has been missed for longest comes first.
    gone: BTreeMap<String, Vec<Gone>>,
}

#[derive(Debug, Clone)]
struct Seen {
    app: String,
    host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Gone {
    unit: String,
    host: Option<String>,
    since: Timestamp,
}

/// An app, as far as its units go.
#[derive(Debug, Clone, Copy)]
pub(super) struct App {
    pub(super) wanted: usize,
    /// It is worked on: what is listed of it may be on its way in or out.
    pub(super) busy: bool,
}

impl Sightings {
    /// A unit is removed here from now on.
    pub(super) fn removing(&mut self, unit: &str) {
        self.seen.remove(unit);
        self.removed.insert(unit.to_owned());
    }

    /// It could not be removed.
    pub(super) fn kept(&mut self, unit: &str) {
        self.removed.remove(unit);
    }

    /// Takes in all units that there are now.
    pub(super) fn see(&mut self, units: &[UnitStatus], apps: &BTreeMap<String, App>, now: Timestamp) {
        let listed: BTreeSet<&str> = units.iter().map(|unit| unit.unit.as_str()).collect();
        self.seen.retain(|unit, Seen { app, host }| {
            let is_there = listed.contains(unit.as_str());
            if !is_there {
                let gone = Gone { unit: unit.clone(), host: host.clone(), since: now };
                self.gone.entry(app.clone()).or_default().push(gone);
            }
            is_there
        });
        self.removed.retain(|unit| listed.contains(unit.as_str()));
        let mut present: BTreeMap<&str, usize> = BTreeMap::new();
        for unit in units {
            *present.entry(unit.app.as_str()).or_default() += 1;
            let settled = apps.get(&unit.app).is_some_and(|app| !app.busy);
            if settled && !self.removed.contains(&unit.unit) && !self.seen.contains_key(&unit.unit) {
                let seen = Seen { app: unit.app.clone(), host: unit.host.clone() };
                self.seen.insert(unit.unit.clone(), seen);
            }
        }
        self.gone.retain(|app, gone| {
            // What has come back is not gone; what has another in its place is missed by nobody.
            gone.retain(|gone| !listed.contains(gone.unit.as_str()));
            let wanted = apps.get(app).map_or(0, |app| app.wanted);
            gone.truncate(wanted.saturating_sub(present.get(app.as_str()).copied().unwrap_or(0)));
            !gone.is_empty()
        });
    }

    /// Those of an app of which `missing` units are missing now, for people.
    pub(super) fn gone_of(&self, app: &str, missing: usize) -> Vec<Unit> {
        let unit = |gone: &Gone| Unit {
            id: gone.unit.clone(),
            status: Word::Gone,
            reason: Some("it is not there any more, and nobody here removed it".to_owned()),
            since_unix_ms: u64::try_from(gone.since.as_millisecond()).ok(),
            pid: None,
            restarts: 0,
            ports: BTreeMap::new(),
            image: None,
            host: gone.host.clone(),
        };
        self.gone.get(app).into_iter().flatten().take(missing).map(unit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::{Status, UnitState};

    fn units(ids: &[&str]) -> Vec<UnitStatus> {
        let unit = |id: &&str| UnitStatus {
            unit: (*id).to_owned(),
            app: "default/App/web".to_owned(),
            generation: "g".to_owned(),
            host: Some("one".to_owned()),
            state: UnitState::new(Status::Started, Timestamp::UNIX_EPOCH),
            ports: Vec::new(),
            created: Timestamp::UNIX_EPOCH,
        };
        ids.iter().map(unit).collect()
    }

    fn see(sightings: &mut Sightings, ids: &[&str], wanted: usize, busy: bool) -> Vec<String> {
        let apps = BTreeMap::from([("default/App/web".to_owned(), App { wanted, busy })]);
        sightings.see(&units(ids), &apps, Timestamp::UNIX_EPOCH);
        sightings.gone_of("default/App/web", usize::MAX).into_iter().map(|unit| unit.id).collect()
    }

    #[test]
    fn f_c1_what_was_there_is_gone_until_another_has_its_place() {
        let mut sightings = Sightings::default();
        assert!(see(&mut sightings, &["a", "b"], 2, false).is_empty());
        assert_eq!(see(&mut sightings, &["b"], 2, false), ["a"]);
        assert_eq!(see(&mut sightings, &["b"], 2, true), ["a"], "also while it is mended");
        let shown = sightings.gone_of("default/App/web", 1).remove(0);
        assert_eq!((shown.status, shown.host.as_deref()), (Word::Gone, Some("one")));
        assert!(sightings.gone_of("default/App/web", 0).is_empty(), "another has just come");
        assert!(see(&mut sightings, &["b", "c"], 2, true).is_empty());
        assert_eq!(see(&mut sightings, &["b", "c"], 3, false), Vec::<String>::new(), "it never was");
        assert_eq!(see(&mut sightings, &["c"], 2, false), ["b"]);
        assert_eq!(see(&mut sightings, &["b", "c"], 2, false), Vec::<String>::new(), "it is back");
        assert_eq!(see(&mut sightings, &["c"], 1, false), Vec::<String>::new(), "it is not wanted any more");
    }

    #[test]
    fn f_c1_what_is_removed_here_or_never_settled_is_not_gone() {
        let mut sightings = Sightings::default();
        see(&mut sightings, &["a", "b"], 2, false);
        sightings.removing("a");
        assert!(see(&mut sightings, &["a", "b"], 2, true).is_empty());
        assert!(see(&mut sightings, &["b"], 2, true).is_empty());
        assert!(see(&mut sightings, &["b", "c"], 2, true).is_empty());
        assert!(see(&mut sightings, &["b"], 2, true).is_empty(), "its start failed");
        sightings.removing("b");
        sightings.kept("b");
        see(&mut sightings, &["b"], 2, false);
        assert_eq!(see(&mut sightings, &[], 2, false), ["b"]);
        sightings.see(&[], &BTreeMap::new(), Timestamp::UNIX_EPOCH);
        assert!(sightings.gone_of("default/App/web", 1).is_empty(), "the app is none any more");
    }
}
