//! Jobs, capacity and addresses in JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towline_protocol::bundle::{ChangeOp, ResultState};
use towline_protocol::capacity::{AddressInUse, Capacity, CapacityResponse};
use towline_protocol::job::{Job, JobKind, JobRecord, JobState};
use towline_protocol::{JobId, Name, RequestId, ResourceId, WorkloadId};
use utoipa::ToSchema;

use super::{ItemProblem, Time};
/// Jobs, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<JobInfo>,
    /// There are more: ask for those after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub next: Option<JobId>,
}

/// A job, and its records in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobWithRecords {
    /// The job.
    pub job: JobInfo,
    /// Its records.
    pub records: Vec<JobRecordInfo>,
    /// There are more: ask for those after this sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// The job was told; watch it to see when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobCancelled {
    /// The call's id: the `Idempotency-Key`, or one that the hub drew.
    pub request_id: String,
    /// The job as it stands now.
    pub job: JobInfo,
}

/// The addresses that are given to workloads, by address and port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressList {
    /// The addresses.
    pub addresses: Vec<AddressInfo>,
}

/// One job: a durable operation that the agent has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobInfo {
    /// Its id.
    #[schema(value_type = String)]
    pub id: JobId,
    /// `apply`, `sync`, `put`, `delete`, `pause`, `resume`, `retry`, `repair`, `decommission`.
    #[schema(value_type = String, example = "put")]
    pub kind: JobKind,
    /// `pending`, `running`; at the end `done`, `failed`, `cancelled`, `superseded`.
    #[schema(value_type = String, example = "done")]
    pub state: JobState,
    /// The bundle that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bundle: Option<Name>,
    /// The bundle's version that it brings about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The `Idempotency-Key` of the call that it came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request: Option<RequestId>,
    /// Why, as whoever asked for it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was accepted, by the agent's clock.
    pub accepted_at: Time,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// The sequence of its newest progress record.
    pub records: u64,
    /// What came of it as a whole, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What failed, by workload or resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, ItemProblem>,
}

impl From<Job> for JobInfo {
    fn from(from: Job) -> Self {
        let Job {
            id,
            kind,
            state,
            bundle,
            version,
            request,
            reason,
            accepted_unix_ms,
            started_unix_ms,
            ended_unix_ms,
            records,
            message,
            errors,
        } = from;
        Self {
            id,
            kind,
            state,
            bundle,
            version,
            request,
            reason,
            accepted_at: Time::from_unix_ms(accepted_unix_ms),
            started_at: started_unix_ms.map(Time::from_unix_ms),
            ended_at: ended_unix_ms.map(Time::from_unix_ms),
            records,
            message,
            errors: errors.into_iter().map(|(id, error)| (id, error.into())).collect(),
        }
    }
}

impl From<JobInfo> for Job {
    fn from(from: JobInfo) -> Self {
        let JobInfo {
            id,
            kind,
            state,
            bundle,
            version,
            request,
            reason,
            accepted_at,
            started_at,
            ended_at,
            records,
            message,
            errors,
        } = from;
        Self {
            id,
            kind,
            state,
            bundle,
            version,
            request,
            reason,
            accepted_unix_ms: accepted_at.unix_ms(),
            started_unix_ms: started_at.map(Time::unix_ms),
            ended_unix_ms: ended_at.map(Time::unix_ms),
            records,
            message,
            errors: errors.into_iter().map(|(id, error)| (id, error.into())).collect(),
        }
    }
}

/// One step of a job: the `data` of a server-sent event `record`, whose `id` is the sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobRecordInfo {
    /// Its number within the job: 1, 2, 3, …
    pub seq: u64,
    /// When, by the agent's clock.
    pub at: Time,
    /// How far the job is from here on; the record with a terminal state is the last one.
    #[schema(value_type = String, example = "running")]
    pub state: JobState,
    /// The workload that it is about; absent when it is about the job as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub workload: Option<WorkloadId>,
    /// What is done to the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub op: Option<ChangeOp>,
    /// The step of the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What came of it; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub result: Option<ResultState>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl From<JobRecord> for JobRecordInfo {
    fn from(from: JobRecord) -> Self {
        let JobRecord { seq, at_unix_ms, state, workload, op, step, result, message } = from;
        Self { seq, at: Time::from_unix_ms(at_unix_ms), state, workload, op, step, result, message }
    }
}

impl From<JobRecordInfo> for JobRecord {
    fn from(from: JobRecordInfo) -> Self {
        let JobRecordInfo { seq, at, state, workload, op, step, result, message } = from;
        Self { seq, at_unix_ms: at.unix_ms(), state, workload, op, step, result, message }
    }
}

/// One kind of room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoomInfo {
    /// All that the machine has.
    pub total: u64,
    /// Promised to workloads.
    pub reserved: u64,
    /// In use on the machine now, by workloads and all else; of processors, the load of the last minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Kept for the system.
    pub floor: u64,
}

impl From<Capacity> for RoomInfo {
    fn from(from: Capacity) -> Self {
        let Capacity { total, reserved, used, floor } = from;
        Self { total, reserved, used, floor }
    }
}

impl From<RoomInfo> for Capacity {
    fn from(from: RoomInfo) -> Self {
        let RoomInfo { total, reserved, used, floor } = from;
        Self { total, reserved, used, floor }
    }
}

/// What an instance has room for. What is put must fit `total − floor − reserved`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapacityInfo {
    /// Processor time, in thousandths of a processor.
    pub cpu_millis: RoomInfo,
    /// Memory, in bytes.
    pub memory_bytes: RoomInfo,
    /// Disk, in bytes, where the instance keeps its data.
    pub disk_bytes: RoomInfo,
    /// Bundles that hold at least one workload.
    pub bundles: u64,
    /// Workloads that are up or paused.
    pub workloads: u64,
}

impl From<CapacityResponse> for CapacityInfo {
    fn from(from: CapacityResponse) -> Self {
        let CapacityResponse { cpu_millis, memory_bytes, disk_bytes, bundles, workloads } = from;
        Self {
            cpu_millis: cpu_millis.into(),
            memory_bytes: memory_bytes.into(),
            disk_bytes: disk_bytes.into(),
            bundles,
            workloads,
        }
    }
}

impl From<CapacityInfo> for CapacityResponse {
    fn from(from: CapacityInfo) -> Self {
        let CapacityInfo { cpu_millis, memory_bytes, disk_bytes, bundles, workloads } = from;
        Self {
            cpu_millis: cpu_millis.into(),
            memory_bytes: memory_bytes.into(),
            disk_bytes: disk_bytes.into(),
            bundles,
            workloads,
        }
    }
}

/// One address in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressInfo {
    /// The address.
    pub address: String,
    /// The port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The resource that has it.
    #[schema(value_type = String, example = "default/App/web")]
    pub resource: ResourceId,
    /// The bundle that the resource belongs to; absent if it was applied directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bundle: Option<Name>,
    /// The unit that has it, if it is one unit's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl From<AddressInUse> for AddressInfo {
    fn from(from: AddressInUse) -> Self {
        let AddressInUse { address, port, protocol, resource, bundle, unit } = from;
        Self { address, port, protocol, resource, bundle, unit }
    }
}

impl From<AddressInfo> for AddressInUse {
    fn from(from: AddressInfo) -> Self {
        let AddressInfo { address, port, protocol, resource, bundle, unit } = from;
        Self { address, port, protocol, resource, bundle, unit }
    }
}
