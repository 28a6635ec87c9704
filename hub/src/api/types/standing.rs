//! How the workloads of a bundle stand, in JSON.

use serde::{Deserialize, Serialize};
use towline_protocol::bundle::{Drift, Observation, ResultState, Retry, WorkloadResult, WorkloadStatus};
use towline_protocol::platform::ServiceStatus;
use towline_protocol::{JobId, ResourceId, WorkloadId};
use utoipa::ToSchema;

use super::{Time, UnitInfo};
/// The result of the last operation on a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResultInfo {
    /// `init`, `ok`, `error`, `deleted`, `paused`, `unchanged`.
    #[schema(value_type = String, example = "ok")]
    pub state: ResultState,
    /// Why, or what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when, by the agent's clock.
    pub since: Time,
    /// The job that it came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
}

impl From<WorkloadResult> for ResultInfo {
    fn from(from: WorkloadResult) -> Self {
        let WorkloadResult { state, message, since_unix_ms, job } = from;
        Self { state, message, since: Time::from_unix_ms(since_unix_ms), job }
    }
}

impl From<ResultInfo> for WorkloadResult {
    fn from(from: ResultInfo) -> Self {
        let ResultInfo { state, message, since, job } = from;
        Self { state, message, since_unix_ms: since.unix_ms(), job }
    }
}

/// What was seen of a workload, and how long ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObservationInfo {
    /// `ready`, `updating`, `degraded`, `stopped`, `unknown`.
    #[schema(value_type = String, example = "ready")]
    pub status: ServiceStatus,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its units, where it has some.
    #[serde(default)]
    pub units: Vec<UnitInfo>,
    /// How old this is.
    pub age_ms: u64,
}

impl From<Observation> for ObservationInfo {
    fn from(from: Observation) -> Self {
        let Observation { status, reason, units, age_ms } = from;
        Self { status, reason, units: units.into_iter().map(Into::into).collect(), age_ms }
    }
}

impl From<ObservationInfo> for Observation {
    fn from(from: ObservationInfo) -> Self {
        let ObservationInfo { status, reason, units, age_ms } = from;
        Self { status, reason, units: units.into_iter().map(Into::into).collect(), age_ms }
    }
}

/// How a workload differs from what was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriftInfo {
    /// What differs, in a sentence.
    pub message: String,
    /// It is being mended; else it is only reported.
    pub mending: bool,
    /// Since when it is known, by the agent's clock.
    pub since: Time,
    /// How old the last look is.
    pub age_ms: u64,
}

impl From<Drift> for DriftInfo {
    fn from(from: Drift) -> Self {
        let Drift { message, mending, since_unix_ms, age_ms } = from;
        Self { message, mending, since: Time::from_unix_ms(since_unix_ms), age_ms }
    }
}

impl From<DriftInfo> for Drift {
    fn from(from: DriftInfo) -> Self {
        let DriftInfo { message, mending, since, age_ms } = from;
        Self { message, mending, since_unix_ms: since.unix_ms(), age_ms }
    }
}

/// When a failed workload is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetryInfo {
    /// How often it has failed in a row.
    pub attempts: u64,
    /// How long until it is tried again.
    pub in_ms: u64,
}

impl From<Retry> for RetryInfo {
    fn from(from: Retry) -> Self {
        let Retry { attempts, in_ms } = from;
        Self { attempts, in_ms }
    }
}

impl From<RetryInfo> for Retry {
    fn from(from: RetryInfo) -> Self {
        let RetryInfo { attempts, in_ms } = from;
        Self { attempts, in_ms }
    }
}

/// How one workload stands, on each axis by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkloadInfo {
    /// The workload: `Kind/name`.
    #[schema(value_type = String, example = "App/web")]
    pub id: WorkloadId,
    /// The resource that it is on the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub resource: Option<ResourceId>,
    /// The bundle's version that changed it last.
    pub version: u64,
    /// The result of the last operation on it.
    pub result: ResultInfo,
    /// What is seen of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservationInfo>,
    /// How it differs from what was put, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftInfo>,
    /// When it is tried again, if something failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryInfo>,
}

impl From<WorkloadStatus> for WorkloadInfo {
    fn from(from: WorkloadStatus) -> Self {
        let WorkloadStatus { id, resource, version, result, observed, drift, retry } = from;
        Self {
            id,
            resource,
            version,
            result: result.into(),
            observed: observed.map(Into::into),
            drift: drift.map(Into::into),
            retry: retry.map(Into::into),
        }
    }
}

impl From<WorkloadInfo> for WorkloadStatus {
    fn from(from: WorkloadInfo) -> Self {
        let WorkloadInfo { id, resource, version, result, observed, drift, retry } = from;
        Self {
            id,
            resource,
            version,
            result: result.into(),
            observed: observed.map(Into::into),
            drift: drift.map(Into::into),
            retry: retry.map(Into::into),
        }
    }
}
