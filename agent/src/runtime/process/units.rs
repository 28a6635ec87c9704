//! The units that are known, by id and by app.

use std::{
    collections::{BTreeMap, HashMap, btree_map},
    sync::Arc,
};

use super::unit::Unit;

/// Units, each in both ways.
#[derive(Debug, Default)]
pub(super) struct Units {
    by_id: BTreeMap<String, Arc<Unit>>,
    by_app: HashMap<String, BTreeMap<String, Arc<Unit>>>,
}

impl Units {
    pub(super) fn insert(&mut self, unit: Arc<Unit>) {
        let of_app = self.by_app.entry(unit.record.app.clone()).or_default();
        of_app.insert(unit.id().to_owned(), Arc::clone(&unit));
        self.by_id.insert(unit.id().to_owned(), unit);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<Unit>> {
        let unit = self.by_id.remove(id)?;
        if let Some(of_app) = self.by_app.get_mut(&unit.record.app) {
            of_app.remove(id);
            if of_app.is_empty() {
                self.by_app.remove(&unit.record.app);
            }
        }
        Some(unit)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<Unit>> {
        self.by_id.get(id)
    }

    /// All, by id.
    pub(super) fn values(&self) -> btree_map::Values<'_, String, Arc<Unit>> {
        self.by_id.values()
    }

    /// Those of one app, by id.
    pub(super) fn of_app(&self, app: &str) -> impl Iterator<Item = &Arc<Unit>> {
        self.by_app.get(app).into_iter().flat_map(BTreeMap::values)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{
        super::{changes::Changes, unit::UnitRecord},
        *,
    };
    use crate::shim::{Status, UnitState};

    fn unit(id: &str, app: &str) -> Arc<Unit> {
        let record = UnitRecord {
            unit: id.to_owned(),
            app: app.to_owned(),
            generation: "g".to_owned(),
            ports: Vec::new(),
            files: Vec::new(),
            written: BTreeMap::new(),
            created: Timestamp::UNIX_EPOCH,
        };
        let state = UnitState::new(Status::Building, Timestamp::UNIX_EPOCH);
        Arc::new(Unit::new(record, id.into(), state, Changes::default()))
    }

    #[test]
    fn units_are_found_in_both_ways_until_they_are_removed() {
        let (web, other) = ("default/App/web", "shop/App/web");
        let mut units = Units::default();
        for (id, app) in [("web-2", web), ("web-1", web), ("web-3", other)] {
            units.insert(unit(id, app));
        }
        let ids = |units: &Units, app: &str| -> Vec<String> {
            units.of_app(app).map(|unit| unit.id().to_owned()).collect()
        };
        assert_eq!(
            (ids(&units, web), ids(&units, other)),
            (vec!["web-1".to_owned(), "web-2".to_owned()], vec!["web-3".to_owned()])
        );
        assert!(units.remove("web-1").is_some() && units.remove("web-1").is_none());
        assert!(units.remove("web-3").is_some());
        assert_eq!((ids(&units, web), ids(&units, other)), (vec!["web-2".to_owned()], vec![]));
        assert!(units.get("web-1").is_none() && units.get("web-2").is_some());
        assert_eq!(units.values().count(), 1);
        assert_eq!(units.by_app.len(), 1, "an app without units takes no room");
    }
}
