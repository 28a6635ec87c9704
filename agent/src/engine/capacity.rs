//! Room: what the host has, what is promised of it, and whether what is put fits. The deciding is pure.

use std::{collections::BTreeMap, io, path::Path, sync::MutexGuard};

use serde::{Deserialize, Serialize};
use towline_protocol::{
    CallError, Code, Name, ResourceId,
    bundle::ResultState,
    capacity::{Capacity, CapacityResponse},
};

use super::{Engine, state::State};
use crate::{
    manifest::{AppSpec, ByteSize, Cpu},
    store::rows::WorkloadRow,
};

/// An amount of each kind of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Room {
    /// Thousandths of a processor.
    pub(crate) cpu_millis: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes, where the agent keeps its data.
    pub(crate) disk: u64,
}

impl Room {
    /// What the units of an app are promised together. Those that a rolling update starts beside them are not counted.
    pub(crate) fn of_units(app: &AppSpec) -> Self {
        let (units, resources) = (u64::from(app.units), &app.resources);
        Self {
            cpu_millis: resources.cpu.map_or(0, Cpu::millis).saturating_mul(units),
            memory: resources.memory.map_or(0, ByteSize::get).saturating_mul(units),
            disk: 0,
        }
    }

    fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_millis: with(self.cpu_millis, other.cpu_millis),
            memory: with(self.memory, other.memory),
            disk: with(self.disk, other.disk),
        }
    }
}

/// What is kept for the system: a tenth of processors and memory, a twentieth of the disk, and of memory and disk at least
/// what an idle host needs.
fn floor(total: Room) -> Room {
    const LEAST_MEMORY: u64 = 256 << 20;
    const LEAST_DISK: u64 = 512 << 20;
    Room {
        cpu_millis: total.cpu_millis / 10,
        memory: (total.memory / 10).max(LEAST_MEMORY),
        disk: (total.disk / 20).max(LEAST_DISK),
    }
}

/// Whether `asked` fits beside what is promised to `others`.
///
/// # Errors
/// The first kind of room that does not suffice, with both numbers.
fn admit(total: Room, others: Room, asked: Room) -> Result<(), CallError> {
    let free = total.minus(floor(total)).minus(others);
    let kinds = [
        ("thousandths of a processor", asked.cpu_millis, free.cpu_millis),
        ("bytes of memory", asked.memory, free.memory),
        ("bytes of disk", asked.disk, free.disk),
    ];
    match kinds.into_iter().find(|(_, asked, free)| asked > free) {
        Some((what, asked, free)) => {
            let text = format!("it needs {asked} {what}, and {free} are free");
            Err(CallError::new(Code::Conflict, text).with_help("ask for less, or remove what is not needed"))
        }
        None => Ok(()),
    }
}

/// What the host has, and what of that is in use by all that runs on it, the disk being the one that holds `data_dir`. Of
/// processors the load of the last minute is in use: what runs or waits to.
///
/// # Errors
/// What cannot be looked up.
fn of_host(data_dir: &Path) -> io::Result<(Room, Room)> {
    let processors = std::thread::available_parallelism()?.get();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let bytes = |name: &str| kilobytes(&memory, name).saturating_mul(1_024);
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let disk = rustix::fs::statvfs(data_dir)?;
    let total = Room {
        cpu_millis: u64::try_from(processors).unwrap_or(u64::MAX).saturating_mul(1_000),
        memory: bytes("MemTotal:"),
        disk: disk.f_blocks.saturating_mul(disk.f_frsize),
    };
    let used = Room {
        cpu_millis: millis(load.split(' ').next().unwrap_or_default()),
        memory: total.memory.saturating_sub(bytes("MemAvailable:")),
        disk: disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize),
    };
    Ok((total, used))
}

/// A value of `/proc/meminfo`; 0 where there is none.
fn kilobytes(meminfo: &str, name: &str) -> u64 {
    let found = meminfo.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    found.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A load such as `0.42`, which has two decimals, in thousandths.
fn millis(load: &str) -> u64 {
    let hundredths: String = load.chars().filter(char::is_ascii_digit).collect();
    hundredths.parse::<u64>().unwrap_or(0).saturating_mul(10)
}

/// What of `asked` is not promised to others already: what several share counts once.
fn beside(others: &BTreeMap<ResourceId, Room>, asked: &[(ResourceId, Room)]) -> Room {
    let more = |(resource, needs): &(ResourceId, Room)| match others.get(resource) {
        Some(known) => needs.minus(*known),
        None => *needs,
    };
    asked.iter().map(more).fold(Room::default(), Room::plus)
}

/// The sum of what is promised.
pub(super) fn sum(promised: &BTreeMap<ResourceId, Room>) -> Room {
    promised.values().copied().fold(Room::default(), Room::plus)
}

/// What is promised to all bundles but `except`, by resource. What several share counts once.
pub(super) fn promised(state: &State, except: Option<&Name>) -> BTreeMap<ResourceId, Room> {
    let mut by_resource: BTreeMap<ResourceId, Room> = BTreeMap::new();
    for (_, bundle) in state.bundles.iter().filter(|(name, _)| except != Some(*name)) {
        // Also what failed: it is tried again, and some of it may run. Only what was given up needs nothing any more.
        let rows = bundle.workloads.values().filter(|row| !row.given_up);
        let rows = rows.map(|row| (&row.resource, row.needs));
        let coming = bundle.coming.iter().map(|coming| (&coming.resource, coming.needs));
        let needy = rows.chain(coming).filter(|(_, needs)| *needs != Room::default());
        merge(&mut by_resource, needy.map(|(resource, needs)| (resource.clone(), needs)));
    }
    for (_, asked) in state.admitted.iter().filter(|(name, _)| except != Some(*name)) {
        merge(&mut by_resource, asked.iter().cloned());
    }
    by_resource
}

/// Adds `more` to what is promised: of one resource the larger room.
fn merge(promised: &mut BTreeMap<ResourceId, Room>, more: impl IntoIterator<Item = (ResourceId, Room)>) {
    for (resource, needs) in more {
        let known = promised.entry(resource).or_default();
        *known = known.max(needs);
    }
}

/// Room that a bundle has been admitted to and that its rows do not show yet; given up when this is dropped.
pub(super) struct Admission {
    engine: Engine,
    bundle: Name,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.engine.state().admitted.remove(&self.bundle);
    }
}

impl Engine {
    /// Refuses what does not fit. What `bundle` has already is not counted twice. Keep what is returned until the bundle has
    /// what it asked for, and its gate: nobody else is promised the same room meanwhile.
    pub(super) fn admit(
        &self,
        bundle: &Name,
        asked: Vec<(ResourceId, Room)>,
    ) -> Result<Admission, CallError> {
        self.with_room(bundle, &asked)?.admitted.insert(bundle.clone(), asked);
        Ok(Admission { engine: self.clone(), bundle: bundle.clone() })
    }

    /// Refuses what does not fit now, and promises nothing.
    pub(super) fn fits(&self, bundle: &Name, asked: &[(ResourceId, Room)]) -> Result<(), CallError> {
        self.with_room(bundle, asked).map(drop)
    }

    /// The state, in which there is room for what is asked.
    fn with_room(
        &self,
        bundle: &Name,
        asked: &[(ResourceId, Room)],
    ) -> Result<MutexGuard<'_, State>, CallError> {
        let (total, _) = self.host()?;
        let direct = (self.inner.direct_room)();
        let state = self.state();
        let mut others = promised(&state, Some(bundle));
        merge(&mut others, direct);
        admit(total, sum(&others), beside(&others, asked))?;
        Ok(state)
    }

    /// What there is room for.
    pub(crate) fn capacity(&self) -> Result<CapacityResponse, CallError> {
        let (total, used) = self.host()?;
        let floor = floor(total);
        let direct = (self.inner.direct_room)();
        let state = self.state();
        let mut reserved = promised(&state, None);
        merge(&mut reserved, direct);
        let reserved = sum(&reserved);
        let sound = |row: &&WorkloadRow| matches!(row.result.state, ResultState::Ok | ResultState::Paused);
        let bundles = state.bundles.values().map(|bundle| bundle.workloads.values().filter(sound).count());
        let capacity = |of: fn(Room) -> u64| Capacity {
            total: of(total),
            reserved: of(reserved),
            used: Some(of(used)),
            floor: of(floor),
        };
        Ok(CapacityResponse {
            cpu_millis: capacity(|room| room.cpu_millis),
            memory_bytes: capacity(|room| room.memory),
            disk_bytes: capacity(|room| room.disk),
            bundles: count(bundles.clone().filter(|sound| *sound > 0)),
            workloads: u64::try_from(bundles.sum::<usize>()).unwrap_or(u64::MAX),
        })
    }

    fn host(&self) -> Result<(Room, Room), CallError> {
        of_host(&self.inner.data_dir).map_err(|error| {
            CallError::new(Code::Cluster, format!("cannot look up what the host has: {error}"))
        })
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_several_share_is_asked_for_once() {
        let disk = |disk: u64| Room { disk, ..Room::default() };
        let id = |name: &str| format!("default/Directory/{name}").parse::<ResourceId>().unwrap();
        let others = BTreeMap::from([(id("common"), disk(5))]);
        let asked = |common: u64| [(id("common"), disk(common)), (id("own"), disk(2))];
        assert_eq!(beside(&others, &asked(5)), disk(2));
        assert_eq!(beside(&others, &asked(7)), disk(4));
        assert_eq!(sum(&others), disk(5));
    }

    #[test]
    fn what_the_host_says_is_read() {
        let meminfo = "MemTotal:        2048 kB\nMemAvailable:     512 kB\n";
        assert_eq!((kilobytes(meminfo, "MemAvailable:"), kilobytes(meminfo, "Swap:")), (512, 0));
        assert_eq!((millis("0.42"), millis("12.05"), millis("")), (420, 12_050, 0));
        let (total, used) = of_host(Path::new("/")).unwrap();
        assert!(used.memory > 0 && used.memory < total.memory && used.disk <= total.disk);
    }

    #[test]
    fn z_c1_what_does_not_fit_is_refused_with_both_numbers() {
        let total = Room { cpu_millis: 4_000, memory: 8 * GIB, disk: 100 * GIB };
        let others = Room { cpu_millis: 1_000, memory: 4 * GIB, disk: 50 * GIB };
        let asked = |memory: u64| Room { memory, ..Room::default() };
        // A tenth is kept for the system.
        let free = 8 * GIB - 8 * GIB / 10 - 4 * GIB;
        assert_eq!(admit(total, others, asked(free)), Ok(()));
        let error = admit(total, others, asked(free + 1)).unwrap_err();
        assert_eq!(error.message, format!("it needs {} bytes of memory, and {free} are free", free + 1));
        assert_eq!(error.effect, towline_protocol::Effect::None);
        assert!(admit(total, others, Room { disk: 46 * GIB, ..Room::default() }).is_err());
        assert!(admit(total, others, Room { cpu_millis: 2_601, ..Room::default() }).is_err());
        assert_eq!(floor(Room::default()).memory, 256 << 20);
        assert_eq!(admit(Room::default(), Room::default(), Room::default()), Ok(()));
    }
}
