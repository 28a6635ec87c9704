//! Room: what the host has, what is promised of it, and whether what is put fits. The deciding is pure.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};
use towline_protocol::{
    CallError, Code, Name, ResourceId,
    bundle::ResultState,
    capacity::{Capacity, CapacityResponse},
};

use super::{Engine, state::State};
use crate::store::rows::WorkloadRow;

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

/// What the host has, the disk being the one that holds `data_dir`.
///
/// # Errors
/// What cannot be looked up.
fn of_host(data_dir: &Path) -> io::Result<Room> {
    let processors = std::thread::available_parallelism()?.get();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let kilobytes: u64 = memory.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let disk = rustix::fs::statvfs(data_dir)?;
    Ok(Room {
        cpu_millis: u64::try_from(processors).unwrap_or(u64::MAX).saturating_mul(1_000),
        memory: kilobytes.saturating_mul(1_024),
        disk: disk.f_blocks.saturating_mul(disk.f_frsize),
    })
}

/// What is promised to all bundles but `except`. What several share counts once.
pub(super) fn promised(state: &State, except: Option<&Name>) -> Room {
    let mut by_resource: BTreeMap<&ResourceId, Room> = BTreeMap::new();
    for (_, bundle) in state.bundles.iter().filter(|(name, _)| except != Some(*name)) {
        let counted = [ResultState::Init, ResultState::Ok, ResultState::Paused];
        let rows = bundle.workloads.values().filter(|row| counted.contains(&row.result.state));
        let rows = rows.map(|row| (&row.resource, row.needs));
        for (resource, needs) in
            rows.chain(bundle.coming.iter().map(|coming| (&coming.resource, coming.needs)))
        {
            let known = by_resource.entry(resource).or_default();
            *known = known.max(needs);
        }
    }
    by_resource.into_values().fold(Room::default(), Room::plus)
}

impl Engine {
    /// Refuses what does not fit. What `bundle` has already is not counted twice.
    pub(super) fn check_room(
        &self,
        bundle: &Name,
        asked: impl Iterator<Item = Room>,
    ) -> Result<(), CallError> {
        let asked = asked.fold(Room::default(), Room::plus);
        let total = self.host()?;
        let others = promised(&self.state(), Some(bundle));
        admit(total, others, asked)
    }

    /// What there is room for.
    pub(crate) fn capacity(&self) -> Result<CapacityResponse, CallError> {
        let total = self.host()?;
        let floor = floor(total);
        let state = self.state();
        let reserved = promised(&state, None);
        let sound = |row: &&WorkloadRow| matches!(row.result.state, ResultState::Ok | ResultState::Paused);
        let bundles = state.bundles.values().map(|bundle| bundle.workloads.values().filter(sound).count());
        let capacity = |of: fn(Room) -> u64| Capacity {
            total: of(total),
            reserved: of(reserved),
            used: None,
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

    fn host(&self) -> Result<Room, CallError> {
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
