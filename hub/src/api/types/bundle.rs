//! Bundles in JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towline_protocol::bundle::{
    BundlePhase, BundleSummary, Change, ChangeOp, ChangeRecord, Envelope, PutOutcome, ResultState, Signature,
    Signer,
};
use towline_protocol::{ContentDigest, JobId, Name, ResourceId, WorkloadId};
use utoipa::ToSchema;

use super::{ResourceBytes, Time, WorkloadInfo};
/// What came of putting a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundlePut {
    /// The call's id: the `Idempotency-Key`, or one that the hub drew.
    pub request_id: String,
    /// `accepted`: a job carries it out; `unchanged`: there is nothing to do; `planned`: it was a dry run.
    #[schema(value_type = String, example = "accepted")]
    pub outcome: PutOutcome,
    /// The version that the content has, or in a dry run would have.
    pub version: u64,
    /// BLAKE3 of the content as submitted, in hexadecimal.
    #[schema(value_type = String)]
    pub digest: ContentDigest,
    /// The job that carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// What it means for each workload, in the order of the work.
    #[serde(default)]
    pub changes: Vec<ChangeInfo>,
}

/// What came of deleting a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleDeleted {
    /// The call's id: the `Idempotency-Key`, or one that the hub drew.
    pub request_id: String,
    /// The job that carries it out; absent in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// What is removed, in the order of the work.
    #[serde(default)]
    pub changes: Vec<ChangeInfo>,
}

/// The operation was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobAccepted {
    /// The call's id: the `Idempotency-Key`, or one that the hub drew.
    pub request_id: String,
    /// The job that carries it out.
    #[schema(value_type = String)]
    pub job: JobId,
}

/// Bundles, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleList {
    /// The bundles.
    pub bundles: Vec<BundleInfo>,
    /// There are more: ask for those after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub next: Option<Name>,
}

/// A bundle as it was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleContent {
    /// How the bundle stands now.
    pub bundle: BundleInfo,
    /// The version of the content.
    pub version: u64,
    /// BLAKE3 of the content, in hexadecimal.
    #[schema(value_type = String)]
    pub digest: ContentDigest,
    /// The documents, verbatim.
    pub content: ResourceBytes,
    /// Reserved for signing: what was put beside the documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<EnvelopeInfo>,
}

/// The record of a bundle, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleRecords {
    /// The records.
    pub changes: Vec<BundleRecord>,
    /// There are more: ask for those after this sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// How a bundle and its workloads stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleStanding {
    /// The bundle as a whole.
    pub bundle: BundleInfo,
    /// Its workloads, by id.
    pub workloads: Vec<WorkloadInfo>,
    /// There are more: ask for those after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub next: Option<WorkloadId>,
}

/// What a new version of a bundle means for one of its workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeInfo {
    /// The workload: `Kind/name`.
    #[schema(value_type = String, example = "App/web")]
    pub workload: WorkloadId,
    /// The resource that it is on the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub resource: Option<ResourceId>,
    /// `add`, `update`, `remove`, `untouched`.
    #[schema(value_type = String, example = "update")]
    pub op: ChangeOp,
    /// Why, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What differs, for people: lines that begin with `+`, `-` or a space. Without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// The units that it has now, in the answer to a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
}

impl From<Change> for ChangeInfo {
    fn from(from: Change) -> Self {
        let Change { workload, resource, op, reason, diff, units } = from;
        Self { workload, resource, op, reason, diff, units }
    }
}

impl From<ChangeInfo> for Change {
    fn from(from: ChangeInfo) -> Self {
        let ChangeInfo { workload, resource, op, reason, diff, units } = from;
        Self { workload, resource, op, reason, diff, units }
    }
}

/// How a bundle stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleInfo {
    /// The bundle.
    #[schema(value_type = String, example = "shop")]
    pub name: Name,
    /// What its head document says of it.
    #[serde(default)]
    pub description: String,
    /// `active`, `paused`, `deleting`, `deleted`.
    #[schema(value_type = String, example = "active")]
    pub phase: BundlePhase,
    /// The last accepted version.
    pub accepted: u64,
    /// The last version that was carried out without an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// BLAKE3 of the accepted content, in hexadecimal.
    #[schema(value_type = String)]
    pub digest: ContentDigest,
    /// Its workloads, by the state of their last result.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub counts: BTreeMap<ResultState, u64>,
    /// Since when it stands so, by the agent's clock.
    pub since: Time,
    /// The last job about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
}

impl From<BundleSummary> for BundleInfo {
    fn from(from: BundleSummary) -> Self {
        let BundleSummary { name, description, phase, accepted, applied, digest, counts, since_unix_ms, job } =
            from;
        Self {
            name,
            description,
            phase,
            accepted,
            applied,
            digest,
            counts,
            since: Time::from_unix_ms(since_unix_ms),
            job,
        }
    }
}

impl From<BundleInfo> for BundleSummary {
    fn from(from: BundleInfo) -> Self {
        let BundleInfo { name, description, phase, accepted, applied, digest, counts, since, job } = from;
        Self {
            name,
            description,
            phase,
            accepted,
            applied,
            digest,
            counts,
            since_unix_ms: since.unix_ms(),
            job,
        }
    }
}

/// One result, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleRecord {
    /// Its number; numbers of one bundle grow, and may leave gaps.
    pub seq: u64,
    /// When, by the agent's clock.
    pub at: Time,
    /// The bundle's version that was being carried out.
    pub version: u64,
    /// The workload; absent when it is about the bundle as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub workload: Option<WorkloadId>,
    /// `init`, `ok`, `error`, `deleted`, `paused`, `unchanged`.
    #[schema(value_type = String, example = "ok")]
    pub state: ResultState,
    /// Why, or what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The job that it came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
}

impl From<ChangeRecord> for BundleRecord {
    fn from(from: ChangeRecord) -> Self {
        let ChangeRecord { seq, at_unix_ms, version, workload, state, message, job } = from;
        Self { seq, at: Time::from_unix_ms(at_unix_ms), version, workload, state, message, job }
    }
}

impl From<BundleRecord> for ChangeRecord {
    fn from(from: BundleRecord) -> Self {
        let BundleRecord { seq, at, version, workload, state, message, job } = from;
        Self { seq, at_unix_ms: at.unix_ms(), version, workload, state, message, job }
    }
}

/// Reserved: who signed a bundle, and what that must weigh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvelopeInfo {
    /// Grows with each signed change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The weight that the signatures must reach together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u64>,
    /// Who may sign.
    #[serde(default)]
    pub signers: Vec<SignerInfo>,
    /// Who did.
    #[serde(default)]
    pub signatures: Vec<SignatureInfo>,
}

impl From<Envelope> for EnvelopeInfo {
    fn from(from: Envelope) -> Self {
        let Envelope { revision, threshold, signers, signatures } = from;
        Self {
            revision,
            threshold,
            signers: signers.into_iter().map(Into::into).collect(),
            signatures: signatures.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<EnvelopeInfo> for Envelope {
    fn from(from: EnvelopeInfo) -> Self {
        let EnvelopeInfo { revision, threshold, signers, signatures } = from;
        Self {
            revision,
            threshold,
            signers: signers.into_iter().map(Into::into).collect(),
            signatures: signatures.into_iter().map(Into::into).collect(),
        }
    }
}

/// Reserved: one who may sign a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignerInfo {
    /// The public key.
    pub key: String,
    /// What the signature weighs.
    pub weight: u64,
    /// Without this one nothing is valid.
    pub required: bool,
}

impl From<Signer> for SignerInfo {
    fn from(from: Signer) -> Self {
        let Signer { key, weight, required } = from;
        Self { key, weight, required }
    }
}

impl From<SignerInfo> for Signer {
    fn from(from: SignerInfo) -> Self {
        let SignerInfo { key, weight, required } = from;
        Self { key, weight, required }
    }
}

/// Reserved: one signature of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignatureInfo {
    /// The public key of whoever signed.
    pub key: String,
    /// How it was signed.
    pub style: String,
    /// The signature.
    pub signature: ResourceBytes,
}

impl From<Signature> for SignatureInfo {
    fn from(from: Signature) -> Self {
        let Signature { key, style, signature } = from;
        Self { key, style, signature: signature.into() }
    }
}

impl From<SignatureInfo> for Signature {
    fn from(from: SignatureInfo) -> Self {
        let SignatureInfo { key, style, signature } = from;
        Self { key, style, signature: signature.into() }
    }
}
