//! What an instance has room for, and which addresses it has given away.

use serde::{Deserialize, Serialize};

use crate::id::{Name, ResourceId};

/// Asks what the instance has room for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityRequest {}

/// What the instance has room for. What is put must fit `total − floor − reserved`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityResponse {
    /// Processor time, in thousandths of a processor.
    pub cpu_millis: Capacity,
    /// Memory, in bytes.
    pub memory_bytes: Capacity,
    /// Disk, in bytes, where the instance keeps its data.
    pub disk_bytes: Capacity,
    /// Bundles that hold at least one workload.
    #[serde(default)]
    pub bundles: u64,
    /// Workloads that are up or paused.
    #[serde(default)]
    pub workloads: u64,
}

/// One kind of room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// All that the machine has.
    #[serde(default)]
    pub total: u64,
    /// Promised to workloads.
    #[serde(default)]
    pub reserved: u64,
    /// In use on the machine now, by workloads and all else; of processors, the load of the last minute.
    #[serde(default)]
    pub used: Option<u64>,
    /// Kept for the system.
    #[serde(default)]
    pub floor: u64,
}

/// Asks which addresses are in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressesRequest {}

/// The addresses that are given to workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressesResponse {
    /// The addresses, by address and port.
    #[serde(default)]
    pub addresses: Vec<AddressInUse>,
}

/// One address in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressInUse {
    /// The address.
    pub address: String,
    /// The port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The resource that has it.
    pub resource: ResourceId,
    /// The bundle that the resource belongs to; none if it was applied directly.
    #[serde(default)]
    pub bundle: Option<Name>,
    /// The unit that has it, if it is one unit's own.
    #[serde(default)]
    pub unit: Option<String>,
}
