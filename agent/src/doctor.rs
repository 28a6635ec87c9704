//! What agents left on this host that nobody has any more, and how it is removed. Needs no hub and no agent.
//!
//! ```text
//! look: processes, data directories, marks, containers ─► whose is it? (pure) ─► leftovers, and what cannot be told
//! ```
//! A leftover is proven by what is *not* there any more: the data directory that a unit, a mark or a container names, or the
//! store in it. What a running agent has, or a store that is there, is never one; nor is what nobody can tell the owner of:
//! an agent that is merely stopped finds its units again. Each is looked at once more right before it is removed.

mod census;
mod containers;
mod verdict;

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use serde::Serialize;

use self::{
    census::Census,
    verdict::{Container, Group, Homes, Verdict},
};
use crate::{
    proc,
    runtime::{
        docker::HostConfig,
        process::{UnitOnDisk, blocking},
    },
    shim,
};

/// Where to look. Data directories that processes, marks and containers name are looked at, too.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Data directories of agents.
    pub data_dirs: Vec<PathBuf>,
    /// Directories of marks.
    pub mark_dirs: Vec<PathBuf>,
    /// The socket of a Docker engine; none is asked without it.
    pub docker_socket: Option<PathBuf>,
    /// Hosts with engines, as an agent's configuration names them.
    pub docker_hosts: Vec<HostConfig>,
    /// The program of an agent, or one that plays its small parts ([`crate::tether`]): for hosts that are reached through SSH.
    pub program: PathBuf,
}

/// What a leftover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Processes of a unit: its supervisor, its command, whatever these started.
    Unit,
    /// A unit's directory.
    Directory,
    /// A container.
    Container,
    /// The mark of an instance.
    Mark,
    /// What a `towline dev` left that was killed.
    Dev,
}

impl Kind {
    /// As it is shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Directory => "directory",
            Self::Container => "container",
            Self::Mark => "mark",
            Self::Dev => "dev",
        }
    }
}

/// Something that nobody has any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// What it is.
    pub kind: Kind,
    /// Its name: the unit, the path.
    pub name: String,
    /// The instance that it was of, where that is known.
    pub instance: Option<String>,
    /// The host that it is on, where that is one of an agent's configuration; else this one.
    pub host: Option<String>,
    /// How it is known that nobody has it.
    pub why: String,
    /// What it is made of: process ids, paths.
    pub parts: Vec<String>,
}

/// A host that could not be looked at. What is there is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unseen {
    /// Its name.
    pub host: String,
    /// Why not.
    pub why: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What nobody has any more, ordered.
    pub leftovers: Vec<Leftover>,
    /// What may be somebody's. It is left alone.
    pub untold: Vec<String>,
    /// Hosts that could not be looked at, ordered.
    pub unseen: Vec<Unseen>,
}

/// Looks at this host, and at the engines of all that are named.
///
/// # Errors
/// That this host does not tell of its processes.
pub async fn examine(places: &Places) -> io::Result<Report> {
    let (containers, unseen) = containers::list(places).await;
    let mut report = Report { unseen, ..Report::default() };
    let named: Vec<PathBuf> = containers.iter().filter_map(|found| found.home.clone()).collect();
    let census = take(places, named).await?;
    let mut add = |kind, name: String, instance: Option<String>, verdict, parts| match verdict {
        Verdict::Belongs => {}
        Verdict::Leftover(why) => {
            report.leftovers.push(Leftover { kind, name, instance, host: None, why, parts });
        }
        Verdict::Untold(why) => report.untold.push(format!("{} {name}: {why}", kind.word())),
    };
    // What runs in a container that was listed is told of with it.
    let contained: BTreeSet<&String> = containers.iter().map(|found| &found.name).collect();
    for group in census.groups.iter().filter(|group| group.same_files || !contained.contains(&group.unit)) {
        let parts = group.pids().map(|pid| format!("process {pid}")).collect();
        add(Kind::Unit, group.unit.clone(), group.instance(), verdict::of_group(group, &census.homes), parts);
    }
    for dir in census.homes.stray_units() {
        let instance = UnitOnDisk::read(&dir).ok().and_then(|unit| unit.instance);
        let why = Verdict::Leftover("there is no store beside it".to_owned());
        add(Kind::Directory, dir.display().to_string(), instance, why, Vec::new());
    }
    for found in &census.marks {
        let verdict = verdict::of_mark(found, &census.homes);
        add(Kind::Mark, found.path.display().to_string(), Some(found.instance.clone()), verdict, Vec::new());
    }
    for found in containers {
        report.add_container(found, &census.homes);
    }
    report.leftovers.sort_by(|a, b| (a.kind, &a.name, &a.host).cmp(&(b.kind, &b.name, &b.host)));
    report.untold.sort();
    report.unseen.sort();
    Ok(report)
}

impl Report {
    fn add_container(&mut self, found: Container, homes: &Homes) {
        let verdict = verdict::of_container(&found, homes);
        let Container { id, name, instance, host, home: _ } = found;
        match verdict {
            Verdict::Belongs => {}
            Verdict::Leftover(why) => {
                let (kind, instance, parts) = (Kind::Container, Some(instance), vec![id]);
                self.leftovers.push(Leftover { kind, name, instance, host, why, parts });
            }
            Verdict::Untold(why) => {
                let place = host.map(|host| format!(" on {host}")).unwrap_or_default();
                self.untold.push(format!("container {name}{place}: {why}"));
            }
        }
    }
}

/// Removes a leftover, if it still is one; says whether it was.
///
/// # Errors
/// Why it could not be removed.
pub async fn remove(places: &Places, leftover: &Leftover) -> Result<bool, String> {
    let now = examine(places).await.map_err(|error| error.to_string())?;
    // Of those that went meanwhile nothing need be done; of those that came to life nothing may be.
    let same = |other: &&Leftover| {
        (other.kind, &other.name, &other.host) == (leftover.kind, &leftover.name, &leftover.host)
    };
    let Some(leftover) = now.leftovers.iter().find(same) else { return Ok(false) };
    match leftover.kind {
        Kind::Unit => remove_group(places, &leftover.name).await?,
        Kind::Directory => remove_directory(places, leftover.name.clone().into()).await?,
        Kind::Mark => remove_mark(&leftover.name)?,
        Kind::Container => {
            let Some(id) = leftover.parts.first() else { return Ok(false) };
            containers::remove(places, leftover.host.as_deref(), id).await?;
        }
        Kind::Dev => return Ok(false),
    }
    Ok(true)
}

async fn take(places: &Places, named: Vec<PathBuf>) -> io::Result<Census> {
    let places = places.clone();
    let taken = tokio::task::spawn_blocking(move || Census::take(&places, named)).await;
    taken.map_err(io::Error::other)?
}

/// Ends all processes of a unit: the supervisor first, which would start the command again.
async fn remove_group(places: &Places, unit: &str) -> Result<(), String> {
    let census = take(places, Vec::new()).await.map_err(|error| error.to_string())?;
    let is_leftover = |group: &&Group| {
        group.unit == unit && matches!(verdict::of_group(group, &census.homes), Verdict::Leftover(_))
    };
    let Some(group) = census.groups.iter().find(is_leftover) else { return Ok(()) };
    let control_groups = census::control_groups(group);
    for shim in group.shims.iter().filter_map(|shim| proc::find(*shim)) {
        proc::kill(shim).map_err(|error| format!("its supervisor cannot be killed: {error}"))?;
    }
    if let Some(instance) = group.instance() {
        shim::sweep_marked(&instance, unit).await?;
    }
    for dir in control_groups {
        // Nobody is in it any more; one that is gone already is no error.
        fs::remove_dir(dir).ok();
    }
    Ok(())
}

/// Removes a unit's directory, and the files elsewhere that its label names and no other label does.
async fn remove_directory(places: &Places, dir: PathBuf) -> Result<(), String> {
    let census = take(places, Vec::new()).await.map_err(|error| error.to_string())?;
    let removed = blocking(move || {
        let others = others_files(&census.homes, &dir);
        UnitOnDisk::remove(&dir, &others)
    });
    removed.await.map_err(|error| error.to_string())
}

fn others_files(homes: &Homes, dir: &PathBuf) -> BTreeSet<PathBuf> {
    let others = homes.unit_dirs().filter(|other| other != dir);
    others.filter_map(|other| Some(UnitOnDisk::read(&other).ok()?.files)).flatten().collect()
}

fn remove_mark(path: &str) -> Result<(), String> {
    for suffix in ["", ".lock", ".raise"] {
        match fs::remove_file(format!("{path}{suffix}")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mark_of_a_data_directory_that_is_gone_goes_with_its_locks() {
        let dir = tempfile::tempdir().unwrap();
        let (marks, data) = (dir.path().join("marks"), dir.path().join("data"));
        fs::create_dir(&marks).unwrap();
        fs::create_dir(&data).unwrap();
        let mark = |pid: i32, home: &std::path::Path| {
            let store = towline_protocol::StoreId::new(uuid::Uuid::nil());
            let start_time = rustix::process::Pid::from_raw(pid)
                .and_then(proc::inspect)
                .map_or(0, |found| found.start_time);
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
            serde_json::json!({
                "epoch": 5, "store": store, "home": home,
                "holder": {"pid": pid, "start_time": start_time, "boot": boot.trim(), "instance": "test/x"},
            })
        };
        let own = i32::try_from(std::process::id()).unwrap();
        let gone = dir.path().join("gone");
        for (name, mark) in [
            ("test.lost", mark(i32::MAX, &gone)),
            ("test.stopped", mark(i32::MAX, &data)),
            ("test.runs", mark(own, &gone)),
        ] {
            fs::write(marks.join(name), mark.to_string()).unwrap();
            fs::write(marks.join(format!("{name}.lock")), "").unwrap();
        }
        fs::write(data.join("identity.json"), "{}").unwrap();
        let places = Places { mark_dirs: vec![marks.clone()], ..Places::default() };
        let ours = |report: Report| {
            let ours = |found: &Leftover| found.name.starts_with(&dir.path().display().to_string());
            report.leftovers.into_iter().filter(ours).collect::<Vec<_>>()
        };
        let found = ours(examine(&places).await.unwrap());
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, [marks.join("test.lost").display().to_string()], "{found:?}");
        assert_eq!((found[0].kind, found[0].instance.as_deref()), (Kind::Mark, Some("test/lost")));
        assert_eq!(remove(&places, &found[0]).await, Ok(true));
        assert_eq!(remove(&places, &found[0]).await, Ok(false), "it is one no more");
        assert_eq!(ours(examine(&places).await.unwrap()), []);
        let mut left: Vec<_> =
            fs::read_dir(&marks).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["test.runs", "test.runs.lock", "test.stopped", "test.stopped.lock"]);
    }

    #[tokio::test]
    async fn a_units_directory_without_a_store_goes_with_the_files_that_only_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap();
        let (own, shared) = (data.join("own"), data.join("shared"));
        fs::write(&own, "").unwrap();
        fs::write(&shared, "").unwrap();
        let unit = |home: &str, name: &str, files: &[&PathBuf]| {
            let dir = data.join(home).join("units").join(name);
            fs::create_dir_all(&dir).unwrap();
            let record = serde_json::json!({
                "unit": name, "app": "default/App/web", "generation": "g", "ports": [], "files": files,
                "created": "2026-11-27T00:00:00Z",
            });
            fs::write(dir.join("unit.json"), record.to_string()).unwrap();
            dir
        };
        let (stray, kept) = (unit("bare", "web-1", &[&own, &shared]), unit("live", "web-2", &[&shared]));
        fs::write(data.join("live/agent.redb"), "").unwrap();
        let data_dirs = vec![data.join("bare"), data.join("live")];
        let places = Places { data_dirs, ..Places::default() };
        let report = examine(&places).await.unwrap();
        let found: Vec<&Leftover> =
            report.leftovers.iter().filter(|found| found.kind == Kind::Directory).collect();
        let [found] = found.as_slice() else { panic!("{report:?}") };
        assert_eq!((found.name.clone(), found.instance.clone()), (stray.display().to_string(), None));
        assert_eq!(remove(&places, found).await, Ok(true));
        assert!(!stray.exists() && !own.exists() && shared.exists() && kept.exists());
    }
}
