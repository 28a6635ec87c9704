//! Whose something is. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Processes of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) unit: String,
    /// Pid and start time of its supervisors: one, or none if that died.
    pub(super) shims: Vec<(i32, u64)>,
    /// The processes that bear its mark.
    pub(super) members: Vec<i32>,
    /// The instances that those name: one, unless somebody plays tricks.
    pub(super) instances: BTreeSet<String>,
    /// Its directory, as far as that can be told.
    pub(super) dir: Option<PathBuf>,
    /// Its processes see the same files as we do.
    pub(super) same_files: bool,
}

impl Group {
    /// The instance, if it is one.
    pub(super) fn instance(&self) -> Option<String> {
        self.instances.first().filter(|_| self.instances.len() == 1).cloned()
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        self.shims.iter().map(|(pid, _)| *pid).chain(self.members.iter().copied())
    }
}

/// A data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) exists: bool,
    pub(super) has_store: bool,
    /// An agent works there.
    pub(super) is_held: bool,
    /// Units that have a directory there.
    pub(super) units: BTreeSet<String>,
}

impl Home {
    /// Somebody has what is in it, or will have it again.
    fn lives(&self) -> bool {
        self.has_store || self.is_held
    }
}

/// All data directories that anything names, and the instances whose agents run here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Homes {
    pub(super) homes: BTreeMap<PathBuf, Home>,
    pub(super) running: BTreeSet<String>,
}

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A running agent's, or a store's that is there.
    Belongs,
    /// Nobody's; why.
    Leftover(String),
    /// Nobody can tell; why.
    Untold(String),
}

impl Homes {
    /// What the absence of a data directory says; nothing where it lives.
    fn absence(&self, home: &Path) -> Option<String> {
        match self.homes.get(home) {
            Some(found) if found.lives() => None,
            Some(found) if found.exists => Some(format!("there is no store in {}", home.display())),
            _ => Some(format!("its data directory {} is gone", home.display())),
        }
    }

    /// Directories of units in data directories without a store.
    pub(super) fn stray_units(&self) -> Vec<PathBuf> {
        let stray = self.homes.iter().filter(|(_, home)| !home.lives());
        stray.flat_map(|(path, home)| home.units.iter().map(|unit| path.join("units").join(unit))).collect()
    }

    /// Directories of all units.
    pub(super) fn unit_dirs(&self) -> impl Iterator<Item = PathBuf> {
        let homes = self.homes.iter();
        homes.flat_map(|(path, home)| home.units.iter().map(|unit| path.join("units").join(unit)))
    }
}

/// Whose the processes of a unit are.
pub(super) fn of_group(group: &Group, homes: &Homes) -> Verdict {
    if !group.same_files {
        return Verdict::Untold("it sees other files than we do, as in a container; look there".to_owned());
    }
    if group.instances.len() > 1 {
        return Verdict::Untold("its processes name several instances".to_owned());
    }
    let known = homes.homes.values().any(|home| home.lives() && home.units.contains(&group.unit));
    let home = group.dir.as_deref().and_then(|dir| dir.parent()?.parent());
    match home {
        _ if known => Verdict::Belongs,
        None => {
            Verdict::Untold("its directory is not known; name the data directory of its agent".to_owned())
        }
        Some(home) => homes.absence(home).map_or(Verdict::Belongs, Verdict::Leftover),
    }
}

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) path: PathBuf,
    pub(super) instance: String,
    /// The data directory of the agent that raised it; agents of older versions say none.
    pub(super) home: Option<PathBuf>,
    /// That agent, or one before it, runs.
    pub(super) is_held: bool,
}

/// Whose a mark is.
pub(super) fn of_mark(mark: &Mark, homes: &Homes) -> Verdict {
    if mark.is_held || homes.running.contains(&mark.instance) {
        return Verdict::Belongs;
    }
    match &mark.home {
        None => Verdict::Untold("it does not say which data directory it is of".to_owned()),
        Some(home) => homes.absence(home).map_or(Verdict::Belongs, Verdict::Leftover),
    }
}

/// A container that bears our labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) instance: String,
    /// The data directory of the agent that made it, if that was on this host.
    pub(super) home: Option<PathBuf>,
    /// The host that it is on, where that has a name.
    pub(super) host: Option<String>,
}

/// Whose a container is.
pub(super) fn of_container(container: &Container, homes: &Homes) -> Verdict {
    // Whatever agent of its instance runs here finds it by its label.
    if homes.running.contains(&container.instance) {
        return Verdict::Belongs;
    }
    match &container.home {
        None => Verdict::Untold("its agent is on another host, or of an older version".to_owned()),
        Some(home) => homes.absence(home).map_or(Verdict::Belongs, Verdict::Leftover),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homes() -> Homes {
        let home = |exists, has_store, is_held, unit: &str| Home {
            exists,
            has_store,
            is_held,
            units: (!unit.is_empty()).then(|| unit.to_owned()).into_iter().collect(),
        };
        let homes = [
            ("/live", home(true, true, true, "web-1")),
            ("/stopped", home(true, true, false, "web-2")),
            ("/deleted", home(false, false, true, "")),
            ("/bare", home(true, false, false, "web-3")),
            ("/gone", Home::default()),
        ];
        Homes {
            homes: homes.map(|(path, home)| (path.into(), home)).into(),
            running: BTreeSet::from(["default/here".to_owned()]),
        }
    }

    fn group(unit: &str, home: Option<&str>) -> Group {
        Group {
            unit: unit.to_owned(),
            shims: vec![(10, 1)],
            instances: BTreeSet::from(["default/local".to_owned()]),
            dir: home.map(|home| Path::new(home).join("units").join(unit)),
            same_files: true,
            ..Group::default()
        }
    }

    #[test]
    fn only_what_names_a_place_that_is_gone_is_a_leftover() {
        let table = [
            (group("web-1", Some("/live")), "belongs"),
            (group("web-2", Some("/stopped")), "belongs"),
            (group("web-9", Some("/stopped")), "belongs"),
            (group("web-9", Some("/deleted")), "belongs"),
            (group("web-3", Some("/bare")), "there is no store in /bare"),
            (group("web-9", Some("/gone")), "its data directory /gone is gone"),
            (group("web-9", Some("/never/heard/of")), "its data directory /never/heard/of is gone"),
            (group("web-9", None), "untold"),
            (group("web-1", None), "belongs"),
            (Group { same_files: false, ..group("web-9", Some("/gone")) }, "untold"),
            (
                Group {
                    instances: BTreeSet::from(["a/b".to_owned(), "c/d".to_owned()]),
                    ..group("web-9", Some("/gone"))
                },
                "untold",
            ),
        ];
        for (group, expected) in table {
            let found = match of_group(&group, &homes()) {
                Verdict::Belongs => "belongs".to_owned(),
                Verdict::Leftover(why) => why,
                Verdict::Untold(_) => "untold".to_owned(),
            };
            assert_eq!(found, expected, "{group:?}");
        }
        assert_eq!(homes().stray_units(), [PathBuf::from("/bare/units/web-3")]);
    }

    #[test]
    fn what_an_instance_has_that_is_served_here_is_no_leftover() {
        let mark = |instance: &str, home: Option<&str>, is_held| Mark {
            path: "/marks/x".into(),
            instance: instance.to_owned(),
            home: home.map(PathBuf::from),
            is_held,
        };
        let gone = Verdict::Leftover("its data directory /gone is gone".to_owned());
        assert_eq!(of_mark(&mark("default/far", Some("/gone"), false), &homes()), gone);
        assert_eq!(of_mark(&mark("default/far", Some("/gone"), true), &homes()), Verdict::Belongs);
        assert_eq!(of_mark(&mark("default/here", Some("/gone"), false), &homes()), Verdict::Belongs);
        assert_eq!(of_mark(&mark("default/far", Some("/stopped"), false), &homes()), Verdict::Belongs);
        assert!(matches!(of_mark(&mark("default/far", None, false), &homes()), Verdict::Untold(_)));
        let container = |instance: &str, home: Option<&str>| Container {
            id: "1".to_owned(),
            name: "web-1".to_owned(),
            instance: instance.to_owned(),
            home: home.map(PathBuf::from),
            host: None,
        };
        assert_eq!(of_container(&container("default/far", Some("/gone")), &homes()), gone);
        assert_eq!(of_container(&container("default/here", Some("/gone")), &homes()), Verdict::Belongs);
        assert_eq!(of_container(&container("default/far", Some("/live")), &homes()), Verdict::Belongs);
        assert!(matches!(of_container(&container("default/far", None), &homes()), Verdict::Untold(_)));
    }
}
