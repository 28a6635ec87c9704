//! How this host lets units be held to what they declare: by control groups where the agent may make them, else by limits
//! of the process where there are such. What neither can do is refused by name, for a bound that does not hold is a lie.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use crate::{
    manifest::{Complaint, Resources},
    shim::{Bounds, Group},
};

/// The length of a period in which processor time is given out, in microseconds.
const PERIOD: u64 = 100_000;

/// Where control groups of one controller can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Controller {
    /// Below this group of the controller's own hierarchy.
    Own(PathBuf),
    /// Below this group of the hierarchy of all controllers.
    Unified(PathBuf),
}

impl Controller {
    fn word(&self) -> &'static str {
        match self {
            Self::Own(_) => "control group v1",
            Self::Unified(_) => "control group v2",
        }
    }

    fn dir(&self, unit: &str) -> PathBuf {
        let (Self::Own(parent) | Self::Unified(parent)) = self;
        parent.join(format!("towline-{unit}"))
    }
}

/// What this host has; looked up once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    cpu: Option<Controller>,
    memory: Option<Controller>,
    pids: Option<Controller>,
}

impl Limits {
    /// What can be used here. Makes nothing yet.
    pub(super) fn of_host() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (mounts, own) = (read("/proc/self/mounts"), read("/proc/self/cgroup"));
        let of = |name: &str| own_hierarchy(&mounts, &own, name).or_else(|| unified(&mounts, &own, name));
        Self { cpu: of("cpu"), memory: of("memory"), pids: of("pids") }
    }

    /// Why units cannot be held to `resources` here, for each that they cannot be.
    pub(crate) fn complaints(&self, resources: &Resources) -> Vec<Complaint> {
        let table = [
            ("cpu", resources.cpu.is_some() && self.cpu.is_none(), "processors"),
            ("swap", resources.swap.is_some() && self.memory.is_none(), "swap"),
            ("pids", resources.pids.is_some() && self.pids.is_none(), "processes"),
        ];
        let complaint = |(name, _, what)| {
            let text = format!(
                "found a value, but nothing on this host holds a unit to so much of its {what}: the agent may make no \
                 control groups with {}; remove it, or let the agent make them",
                if name == "swap" { "memory" } else { name }
            );
            Complaint::new(format!("spec.resources.{name}"), text)
        };
        table.into_iter().filter(|(_, refused, _)| *refused).map(complaint).collect()
    }

    /// What holds `unit` to `resources`.
    pub(super) fn bounds(&self, resources: &Resources, unit: &str) -> Bounds {
        let mut bounds = Bounds::default();
        let mut set = |controller: &Option<Controller>,
                       settings: &dyn Fn(bool) -> Vec<(&'static str, String)>| {
            let Some(controller) = controller else { return };
            let settings = settings(matches!(controller, Controller::Unified(_)));
            let settings = settings.into_iter().map(|(file, value)| (file.to_owned(), value));
            let dir = controller.dir(unit);
            match bounds.groups.iter_mut().find(|group| group.dir == dir) {
                Some(group) => group.settings.extend(settings),
                None => bounds.groups.push(Group { dir, settings: settings.collect() }),
            }
        };
        if let Some(cpu) = resources.cpu {
            let quota = cpu.millis().saturating_mul(PERIOD) / 1_000;
            set(&self.cpu, &|unified| match unified {
                true => vec![("cpu.max", format!("{quota} {PERIOD}"))],
                false => {
                    vec![("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())]
                }
            });
        }
        if let Some(memory) = resources.memory {
            let swap = resources.swap.map(crate::manifest::ByteSize::get);
            set(&self.memory, &|unified| {
                let limit = if unified { "memory.max" } else { "memory.limit_in_bytes" };
                let mut settings = vec![(limit, memory.get().to_string())];
                settings.extend(swap.map(|swap| match unified {
                    true => ("memory.swap.max", swap.to_string()),
                    false => ("memory.memsw.limit_in_bytes", memory.get().saturating_add(swap).to_string()),
                }));
                settings
            });
        }
        if let Some(pids) = resources.pids {
            set(&self.pids, &|_| vec![("pids.max", pids.to_string())]);
        }
        bounds.address_space =
            resources.memory.filter(|_| self.memory.is_none()).map(crate::manifest::ByteSize::get);
        bounds
    }

    /// What holds units to `resources`, for people; none where nothing is declared.
    pub(crate) fn told(&self, resources: &Resources) -> Option<String> {
        let by = |controller: &Option<Controller>, other: &'static str| {
            controller.as_ref().map_or(other, Controller::word)
        };
        let table = [
            ("cpu", resources.cpu.is_some(), by(&self.cpu, "nothing")),
            ("memory", resources.memory.is_some(), by(&self.memory, "rlimit of address space")),
            ("swap", resources.swap.is_some(), by(&self.memory, "nothing")),
            ("pids", resources.pids.is_some(), by(&self.pids, "nothing")),
        ];
        let told = table.iter().filter(|(_, declared, _)| *declared);
        let told: Vec<String> = told.map(|(name, _, by)| format!("{name} by {by}")).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// The group of this process in the hierarchy of `controller` alone, if there is one and groups can be made below it.
fn own_hierarchy(mounts: &str, own: &str, controller: &str) -> Option<Controller> {
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (dir, kind, options) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup" && options.split(',').any(|option| option == controller)).then_some(dir)
    })?;
    let below = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers.split(',').any(|found| found == controller).then_some(path)
    });
    let dir = group(mount, below.unwrap_or("/"));
    access(&dir, Access::WRITE_OK).ok().map(|()| Controller::Own(dir))
}

/// A group of the hierarchy of all controllers that has `controller` for its children: the one of this process, or the one
/// around that, which holds no process where the service manager was told to delegate with a subgroup.
fn unified(mounts: &str, own: &str, controller: &str) -> Option<Controller> {
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (dir, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then_some(dir)
    })?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let dir = group(mount, path);
    let around = dir.parent().filter(|around| around.starts_with(mount)).map(Path::to_owned);
    let has = |dir: &PathBuf| {
        let lists = |file: &str| {
            let listed = fs::read_to_string(dir.join(file)).unwrap_or_default();
            listed.split_whitespace().any(|found| found == controller)
        };
        let given = "cgroup.subtree_control";
        access(dir, Access::WRITE_OK).is_ok()
            && lists("cgroup.controllers")
            && (lists(given)
                || (fs::write(dir.join(given), format!("+{controller}")).is_ok() && lists(given)))
    };
    [Some(dir), around].into_iter().flatten().find(has).map(Controller::Unified)
}

/// The directory of a group below a mount; the mount itself where that shows another part of the hierarchy.
fn group(mount: &str, path: &str) -> PathBuf {
    let dir = Path::new(mount).join(path.trim_start_matches('/'));
    if dir.is_dir() { dir } else { PathBuf::from(mount) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Resources {
        Resources {
            cpu: Some("0.5".parse().unwrap()),
            memory: Some("64Mi".parse().unwrap()),
            swap: Some("1Mi".parse().unwrap()),
            pids: Some(7),
        }
    }

    fn settings(bounds: &Bounds) -> Vec<String> {
        let of = |group: &Group| {
            let dir = group.dir.display().to_string();
            group
                .settings
                .iter()
                .map(move |(file, value)| format!("{dir}/{file} {value}"))
                .collect::<Vec<_>>()
        };
        bounds.groups.iter().flat_map(of).collect()
    }

    #[test]
    fn each_kind_of_control_group_is_told_its_own_words() {
        let own = |name: &str| Some(Controller::Own(PathBuf::from(format!("/{name}"))));
        let limits = Limits { cpu: own("cpu"), memory: own("memory"), pids: own("pids") };
        assert_eq!(
            settings(&limits.bounds(&resources(), "web-1")),
            [
                "/cpu/towline-web-1/cpu.cfs_period_us 100000",
                "/cpu/towline-web-1/cpu.cfs_quota_us 50000",
                "/memory/towline-web-1/memory.limit_in_bytes 67108864",
                "/memory/towline-web-1/memory.memsw.limit_in_bytes 68157440",
                "/pids/towline-web-1/pids.max 7",
            ]
        );
        let all = Some(Controller::Unified(PathBuf::from("/all")));
        let limits = Limits { cpu: all.clone(), memory: all.clone(), pids: all };
        let bounds = limits.bounds(&resources(), "web-1");
        assert_eq!(
            settings(&bounds),
            ["cpu.max 50000 100000", "memory.max 67108864", "memory.swap.max 1048576", "pids.max 7"]
                .map(|setting| format!("/all/towline-web-1/{setting}"))
        );
        assert_eq!((bounds.groups.len(), bounds.address_space), (1, None));
        assert_eq!(limits.complaints(&resources()), []);
        assert_eq!(
            limits.told(&Resources { swap: None, pids: None, ..resources() }).as_deref(),
            Some("cpu by control group v2, memory by control group v2")
        );
        assert_eq!(limits.told(&Resources::default()), None);
        assert_eq!(limits.bounds(&Resources::default(), "web-1"), Bounds::default());
    }

    #[test]
    fn without_control_groups_memory_has_a_limit_and_the_rest_is_refused() {
        let limits = Limits::default();
        let refused: Vec<String> =
            limits.complaints(&resources()).into_iter().map(|complaint| complaint.path).collect();
        assert_eq!(refused, ["spec.resources.cpu", "spec.resources.swap", "spec.resources.pids"]);
        let memory = Resources { memory: resources().memory, ..Resources::default() };
        assert_eq!(limits.complaints(&memory), []);
        let bounds = limits.bounds(&memory, "web-1");
        assert_eq!((bounds.groups.len(), bounds.address_space), (0, Some(64 << 20)));
        assert_eq!(limits.told(&memory).as_deref(), Some("memory by rlimit of address space"));
    }

    #[test]
    fn groups_are_looked_for_where_this_process_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("memory/us")).unwrap();
        fs::create_dir_all(at("all/service/agent")).unwrap();
        let mounts = format!(
            "cgroup {0}/memory cgroup rw,memory 0 0\ncgroup2 {0}/all cgroup2 rw 0 0\n",
            dir.path().display()
        );
        let own = "4:memory:/us\n0::/service/agent\n";
        assert_eq!(own_hierarchy(&mounts, own, "memory"), Some(Controller::Own(at("memory/us"))));
        assert_eq!(own_hierarchy(&mounts, "", "memory"), Some(Controller::Own(at("memory"))));
        assert_eq!(own_hierarchy(&mounts, own, "cpu"), None);
        assert_eq!(unified(&mounts, own, "cpu"), None, "no controllers there");
        for group in ["all/service", "all/service/agent"] {
            fs::write(at(group).join("cgroup.controllers"), "cpu pids\n").unwrap();
        }
        fs::write(at("all/service/cgroup.subtree_control"), "cpu\n").unwrap();
        assert_eq!(unified(&mounts, own, "cpu"), Some(Controller::Unified(at("all/service"))));
        assert_eq!(unified(&mounts, own, "memory"), None);
    }
}
