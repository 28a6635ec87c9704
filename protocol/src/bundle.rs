//! Bundles: named, versioned sets of resources, and how their workloads stand.
//!
//! A bundle's content is opaque to hub and bus: YAML documents, kept verbatim, read by the agent alone. Putting one
//! answers as soon as it is accepted, with the [job](crate::job) that carries it out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{ContentDigest, JobId, Name, ResourceId, WorkloadId};
use crate::platform::{ServiceStatus, Unit};
use crate::wire_enum;

/// Reserved: who signed a bundle, and what that must weigh. Kept and given back as it was put; nobody checks it yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Grows with each signed change, whatever happens to the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The weight that the signatures must reach together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u64>,
    /// Who may sign.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<Signer>,
    /// Who did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
}

/// Reserved: one who may sign a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// The public key, as its algorithm prints it.
    pub key: String,
    /// What the signature weighs.
    #[serde(default)]
    pub weight: u64,
    /// Without this one nothing is valid.
    #[serde(default)]
    pub required: bool,
}

/// Reserved: one signature of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The public key of whoever signed.
    pub key: String,
    /// How it was signed.
    #[serde(default)]
    pub style: String,
    /// The signature.
    #[serde(default)]
    pub signature: Bytes,
}

/// Puts a bundle: what it holds from now on, as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBundleRequest {
    /// The bundle. A head document that names another one makes the request invalid.
    pub bundle: Name,
    /// The version that the content becomes; it must exceed the last accepted one. `None`: what the head document says,
    /// else the next one, and that only if the content differs from the last accepted one. The same version with the
    /// same content is a success with the same job.
    #[serde(default)]
    pub version: Option<u64>,
    /// The documents, verbatim: any number of YAML documents, an optional head document of `kind: Bundle` among them.
    pub content: Bytes,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Take a version that is not above the last accepted one, and carry unchanged content out again.
    #[serde(default)]
    pub force: bool,
    /// Take over resources that have no bundle yet. Those of another bundle stay a conflict.
    #[serde(default)]
    pub adopt: bool,
    /// Reserved for signing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
}

impl PutBundleRequest {
    /// This content as the version that follows, or that its head document says; nothing else is asked for.
    pub fn new(bundle: Name, content: impl Into<Bytes>) -> Self {
        Self {
            bundle,
            version: None,
            content: content.into(),
            dry_run: false,
            force: false,
            adopt: false,
            envelope: None,
        }
    }
}

wire_enum! {
    /// What came of a put.
    pub enum PutOutcome {
        /// Accepted: a job carries it out.
        Accepted = "accepted",
        /// The content is what was accepted last: nothing to do, and no new version.
        Unchanged = "unchanged",
        /// A dry run: nothing was stored.
        Planned = "planned",
    }
}

/// A bundle was accepted, or looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBundleResponse {
    /// What came of it.
    pub outcome: PutOutcome,
    /// The version that the content has, or in a dry run would have.
    pub version: u64,
    /// The digest of the content as submitted.
    pub digest: ContentDigest,
    /// The job that carries it out; of unchanged content the one that did, if it is still remembered.
    #[serde(default)]
    pub job: Option<JobId>,
    /// What it means for each workload, in the order of the work.
    #[serde(default)]
    pub changes: Vec<Change>,
}

wire_enum! {
    /// What becomes of a workload.
    pub enum ChangeOp {
        /// It is new.
        Add = "add",
        /// It changes.
        Update = "update",
        /// It goes.
        Remove = "remove",
        /// It stays as it is.
        Untouched = "untouched",
    }
}

/// What a new version of a bundle means for one of its workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The workload.
    pub workload: WorkloadId,
    /// The resource that it is on the instance.
    #[serde(default)]
    pub resource: Option<ResourceId>,
    /// What becomes of it.
    pub op: ChangeOp,
    /// Why, in a few words.
    #[serde(default)]
    pub reason: Option<String>,
    /// What differs, for people: lines that begin with `+`, `-` or a space. Secrets are left out by the agent.
    #[serde(default)]
    pub diff: Option<String>,
    /// The units that it has now, where a plan is asked for and they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
}

/// Deletes a bundle and all that belongs to it. It stays visible until everything is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteBundleRequest {
    /// The bundle.
    pub bundle: Name,
    /// Why, for the record.
    #[serde(default)]
    pub reason: Option<String>,
    /// Say what would be removed, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Give up on what cannot be removed, instead of trying again until it can.
    #[serde(default)]
    pub force: bool,
}

impl DeleteBundleRequest {
    /// That it goes, for no reason that is told, when all of it is gone.
    #[must_use]
    pub const fn new(bundle: Name) -> Self {
        Self { bundle, reason: None, dry_run: false, force: false }
    }
}

/// The deletion was accepted, or looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteBundleResponse {
    /// The job that carries it out; none in a dry run.
    #[serde(default)]
    pub job: Option<JobId>,
    /// What is removed, in the order of the work.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// Stops the workloads of a bundle, and leaves them so until it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseBundleRequest {
    /// The bundle.
    pub bundle: Name,
    /// Why, for the record.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Starts the workloads of a paused bundle again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeBundleRequest {
    /// The bundle.
    pub bundle: Name,
    /// Why, for the record.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Tries failed workloads of a bundle again now, instead of when their back-off ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBundleRequest {
    /// The bundle.
    pub bundle: Name,
    /// The workloads; none names all that failed.
    #[serde(default)]
    pub workloads: Vec<WorkloadId>,
}

/// The operation was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResponse {
    /// The job that carries it out.
    pub job: JobId,
}

/// Asks for a bundle as it was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetBundleRequest {
    /// The bundle.
    pub bundle: Name,
    /// One of its versions that are still kept, or `None` for the last accepted one.
    #[serde(default)]
    pub version: Option<u64>,
}

/// A bundle as it was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetBundleResponse {
    /// How the bundle stands now.
    pub summary: BundleSummary,
    /// The version of the content.
    pub version: u64,
    /// Its digest.
    pub digest: ContentDigest,
    /// The documents, verbatim.
    pub content: Bytes,
    /// What was put beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
}

/// Asks for all bundles, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListBundlesRequest {
    /// Begin after this one.
    #[serde(default)]
    pub after: Option<Name>,
    /// At most so many; see [`page`](crate::limits::page).
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Bundles, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListBundlesResponse {
    /// The bundles.
    #[serde(default)]
    pub bundles: Vec<BundleSummary>,
    /// There are more: ask for those after this one.
    #[serde(default)]
    pub next: Option<Name>,
}

wire_enum! {
    /// What a bundle is meant to be.
    pub enum BundlePhase {
        /// Its workloads are to run.
        Active = "active",
        /// Its workloads are to be stopped.
        Paused = "paused",
        /// It is being deleted; what is left of it still shows.
        Deleting = "deleting",
        /// It is gone; its record is kept for a while.
        Deleted = "deleted",
    }
}

/// How a bundle stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleSummary {
    /// The bundle.
    pub name: Name,
    /// What its head document says of it.
    #[serde(default)]
    pub description: String,
    /// What it is meant to be.
    pub phase: BundlePhase,
    /// The last accepted version.
    pub accepted: u64,
    /// The last version that was carried out without an error; `None` before the first.
    #[serde(default)]
    pub applied: Option<u64>,
    /// The digest of the accepted content.
    pub digest: ContentDigest,
    /// Its workloads, by the state of their last result.
    #[serde(default)]
    pub counts: BTreeMap<ResultState, u64>,
    /// Since when it stands so, in Unix milliseconds of the agent's clock.
    #[serde(default)]
    pub since_unix_ms: u64,
    /// The last job about it.
    #[serde(default)]
    pub job: Option<JobId>,
}

wire_enum! {
    /// The result of the last operation on a workload. What is observed of it stands apart.
    pub enum ResultState {
        /// Accepted, and nothing was done yet.
        Init = "init",
        /// Done.
        Ok = "ok",
        /// Failed; the message says why.
        Error = "error",
        /// It is gone.
        Deleted = "deleted",
        /// Stopped until it is resumed.
        Paused = "paused",
        /// There was nothing to do.
        Unchanged = "unchanged",
    }
}

/// Asks for the record of a bundle: every result, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleChangesRequest {
    /// The bundle.
    pub bundle: Name,
    /// Begin after this sequence; 0 for the oldest that is kept.
    #[serde(default)]
    pub after: u64,
    /// At most so many; see [`page`](crate::limits::page).
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Records of a bundle, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleChangesResponse {
    /// The records.
    #[serde(default)]
    pub changes: Vec<ChangeRecord>,
    /// There are more: ask for those after this sequence.
    #[serde(default)]
    pub next: Option<u64>,
}

/// One result, as it was recorded. Records are never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Its number; numbers of one bundle grow, and may leave gaps.
    pub seq: u64,
    /// When, in Unix milliseconds of the agent's clock.
    pub at_unix_ms: u64,
    /// The bundle's version that was being carried out.
    pub version: u64,
    /// The workload; none when the record is about the bundle as a whole.
    #[serde(default)]
    pub workload: Option<WorkloadId>,
    /// The result.
    pub state: ResultState,
    /// Why, or what.
    #[serde(default)]
    pub message: Option<String>,
    /// The job that it came of.
    #[serde(default)]
    pub job: Option<JobId>,
}

/// Asks how a bundle and its workloads stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStatusRequest {
    /// The bundle.
    pub bundle: Name,
    /// Begin after this workload.
    #[serde(default)]
    pub after: Option<WorkloadId>,
    /// At most so many workloads; see [`page`](crate::limits::page).
    #[serde(default)]
    pub limit: Option<u32>,
}

/// How a bundle and its workloads stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStatusResponse {
    /// The bundle as a whole.
    pub summary: BundleSummary,
    /// Its workloads, by id; what is deleted but not gone yet among them.
    #[serde(default)]
    pub workloads: Vec<WorkloadStatus>,
    /// There are more: ask for those after this one.
    #[serde(default)]
    pub next: Option<WorkloadId>,
}

/// How one workload stands, on each axis by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// The workload.
    pub id: WorkloadId,
    /// The resource that it is on the instance.
    #[serde(default)]
    pub resource: Option<ResourceId>,
    /// The bundle's version that changed it last.
    #[serde(default)]
    pub version: u64,
    /// The result of the last operation on it.
    pub result: WorkloadResult,
    /// What is seen of it; none for what cannot be watched, or before the first look.
    #[serde(default)]
    pub observed: Option<Observation>,
    /// How it differs from what was put; none if it does not, as far as is known.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// When it is tried again; none if nothing failed.
    #[serde(default)]
    pub retry: Option<Retry>,
}

/// The result of the last operation on a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadResult {
    /// The result.
    pub state: ResultState,
    /// Why, or what.
    #[serde(default)]
    pub message: Option<String>,
    /// Since when, in Unix milliseconds of the agent's clock.
    #[serde(default)]
    pub since_unix_ms: u64,
    /// The job that it came of.
    #[serde(default)]
    pub job: Option<JobId>,
}

/// What was seen of a workload, and how long ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// How it stands as a whole; `unknown` when the runtime did not answer.
    pub status: ServiceStatus,
    /// Why, where there is something to say.
    #[serde(default)]
    pub reason: Option<String>,
    /// Its units, where it has some.
    #[serde(default)]
    pub units: Vec<Unit>,
    /// How old this is, in milliseconds at the time of the answer.
    #[serde(default)]
    pub age_ms: u64,
}

/// How a workload differs from what was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// What differs, in a sentence.
    pub message: String,
    /// It is being mended, as its policy says; else it is only reported.
    #[serde(default)]
    pub mending: bool,
    /// Since when it is known, in Unix milliseconds of the agent's clock.
    #[serde(default)]
    pub since_unix_ms: u64,
    /// How old the last look is, in milliseconds at the time of the answer.
    #[serde(default)]
    pub age_ms: u64,
}

/// When a failed workload is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How often it has failed in a row.
    #[serde(default)]
    pub attempts: u64,
    /// When it is tried again, in milliseconds from the time of the answer.
    #[serde(default)]
    pub in_ms: u64,
}
