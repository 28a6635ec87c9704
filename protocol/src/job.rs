//! Jobs: durable operations that an agent has accepted, and how far they are.
//!
//! An accepted job ends exactly once, in one terminal state, whatever happens to the agent in between.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::{ChangeOp, ResultState};
use crate::error::ItemError;
use crate::id::{JobId, Name, RequestId, WorkloadId};
use crate::wire_enum;

wire_enum! {
    /// What a job does.
    pub enum JobKind {
        /// Applies definitions of no bundle.
        Apply = "apply",
        /// Runs delete-then-apply actions.
        Sync = "sync",
        /// Brings a bundle to a version.
        Put = "put",
        /// Deletes a bundle.
        Delete = "delete",
        /// Stops a bundle's workloads.
        Pause = "pause",
        /// Starts them again.
        Resume = "resume",
        /// Tries failed workloads again.
        Retry = "retry",
        /// Mends what drifted away from what was put.
        Repair = "repair",
        /// Takes down what a monitor decided must go.
        Decommission = "decommission",
    }
}

wire_enum! {
    /// How far a job is.
    pub enum JobState {
        /// Accepted, and not begun.
        Pending = "pending",
        /// Under way.
        Running = "running",
        /// Ended: all was done.
        Done = "done",
        /// Ended: some was not done; the errors say what.
        Failed = "failed",
        /// Ended: it was taken back.
        Cancelled = "cancelled",
        /// Ended before it began: a newer job, or another store, took its place.
        Superseded = "superseded",
    }
}

impl JobState {
    /// Whether a job in this state has ended. A word of a newer peer counts as not ended: whoever waits goes on waiting.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled | Self::Superseded)
    }
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// The bundle that it is about, if it is about one.
    #[serde(default)]
    pub bundle: Option<Name>,
    /// The bundle's version that it brings about.
    #[serde(default)]
    pub version: Option<u64>,
    /// The call that it came of; none when the agent began it by itself.
    #[serde(default)]
    pub request: Option<RequestId>,
    /// Why, as whoever asked for it said.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was accepted, in Unix milliseconds of the agent's clock, as are the next two.
    pub accepted_unix_ms: u64,
    /// When it was begun.
    #[serde(default)]
    pub started_unix_ms: Option<u64>,
    /// When it ended.
    #[serde(default)]
    pub ended_unix_ms: Option<u64>,
    /// The sequence of its newest progress record; 0 before the first.
    #[serde(default)]
    pub records: u64,
    /// What came of it as a whole, in a sentence.
    #[serde(default)]
    pub message: Option<String>,
    /// What failed, by workload or resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, ItemError>,
}

/// One step of a job, as it was recorded. Records are never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number within the job: 1, 2, 3, …
    pub seq: u64,
    /// When, in Unix milliseconds of the agent's clock.
    pub at_unix_ms: u64,
    /// How far the job is from here on. The record with a terminal state is the last one.
    pub state: JobState,
    /// The workload that it is about; none when it is about the job as a whole.
    #[serde(default)]
    pub workload: Option<WorkloadId>,
    /// What is done to the workload.
    #[serde(default)]
    pub op: Option<ChangeOp>,
    /// The step of the operation, in a word or two: `create`, `start`, `undo start`.
    #[serde(default)]
    pub step: Option<String>,
    /// What came of it; none while it is under way.
    #[serde(default)]
    pub result: Option<ResultState>,
    /// A sentence for people; at most [`JOB_MESSAGE_BYTES_MAX`](crate::limits::JOB_MESSAGE_BYTES_MAX).
    #[serde(default)]
    pub message: Option<String>,
}

/// Asks for a job, and its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetJobRequest {
    /// The job.
    pub job: JobId,
    /// Records after this sequence.
    #[serde(default)]
    pub after: u64,
    /// At most so many records; see [`page`](crate::limits::page).
    #[serde(default)]
    pub limit: Option<u32>,
}

/// A job, and its records in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetJobResponse {
    /// The job.
    pub job: Job,
    /// Its records.
    #[serde(default)]
    pub records: Vec<JobRecord>,
    /// There are more: ask for those after this sequence.
    #[serde(default)]
    pub next: Option<u64>,
}

/// Asks for jobs, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListJobsRequest {
    /// Those about this bundle.
    #[serde(default)]
    pub bundle: Option<Name>,
    /// Those in one of these states; none names all.
    #[serde(default)]
    pub states: Vec<JobState>,
    /// Begin after this one: with those that are older.
    #[serde(default)]
    pub after: Option<JobId>,
    /// At most so many; see [`page`](crate::limits::page).
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Jobs, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListJobsResponse {
    /// The jobs.
    #[serde(default)]
    pub jobs: Vec<Job>,
    /// There are more: ask for those after this one.
    #[serde(default)]
    pub next: Option<JobId>,
}

/// Asks for a job's records as they are made: those that there are, then each new one. The stream ends after the record
/// with a terminal state, however late it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchJobRequest {
    /// The job.
    pub job: JobId,
    /// Begin after this sequence.
    #[serde(default)]
    pub after: u64,
}

/// Takes a job back: one that has not begun ends at once, one under way undoes what it was doing. One that has ended is a
/// conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelJobRequest {
    /// The job.
    pub job: JobId,
    /// Why, for the record.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The job was told; watch it to see when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelJobResponse {
    /// The job as it stands now.
    pub job: Job,
}
