//! The JSON of the API, for both sides: the hub writes what a client reads.
//!
//! Names are in snake case; times are RFC 3339 in UTC; ages are whole milliseconds. A client ignores fields that it does
//! not know; the hub refuses them, for what it does not know it would not do.

mod bundle;
mod job;
mod standing;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use towline_protocol::platform::{LogLine, LogSource, Service, ServiceStatus, Unit, UnitStatus};
use towline_protocol::{CallError, Code, Effect, ItemError, ResourceId};
use utoipa::ToSchema;

pub use self::bundle::{
    BundleContent, BundleDeleted, BundleInfo, BundleList, BundlePut, BundleRecord, BundleRecords,
    BundleStanding, ChangeInfo, EnvelopeInfo, JobAccepted, SignatureInfo, SignerInfo,
};
pub use self::job::{
    AddressInfo, AddressList, CapacityInfo, JobCancelled, JobInfo, JobList, JobRecordInfo, JobWithRecords,
    RoomInfo,
};
pub use self::standing::{DriftInfo, ObservationInfo, ResultInfo, RetryInfo, WorkloadInfo};
pub use super::bytes::ResourceBytes;
pub use crate::time::{NanoTime, Time};

/// Why a request failed (RFC 9457, `application/problem+json`). *The effect, not the code, says whether to retry.*
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:towline:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:towline:problem:unavailable")]
    pub kind: String,
    /// The code, as a title.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, in a stable word.
    pub code: String,
    /// What was done all the same: `none`, `partial`, `unknown`.
    #[schema(value_type = String, example = "none")]
    pub effect: Effect,
    /// A sentence for people.
    pub detail: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Errors by resource id, where several things were asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, ItemProblem>,
}

impl Problem {
    /// The same as the error of a call. Codes of the API's own door become `Code::Other`.
    #[must_use]
    pub fn into_call_error(self) -> CallError {
        CallError {
            code: Code::from_word(&self.code),
            effect: self.effect,
            message: self.detail,
            help: self.help,
            errors: self.errors.into_iter().map(|(id, error)| (id, error.into())).collect(),
        }
    }
}

/// Why one of several things was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemProblem {
    /// What went wrong with this one.
    #[schema(value_type = String, example = "invalid")]
    pub code: Code,
    /// A sentence for people.
    pub message: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl From<ItemError> for ItemProblem {
    fn from(ItemError { code, message, help }: ItemError) -> Self {
        Self { code, message, help }
    }
}

impl From<ItemProblem> for ItemError {
    fn from(ItemProblem { code, message, help }: ItemProblem) -> Self {
        Self { code, message, help }
    }
}

/// All instances, and how sure the hub is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceList {
    /// Sorted by id.
    pub instances: Vec<Instance>,
    /// `connected`, or `disconnected`: then the hub itself does not reach the bus, and presence stands still.
    #[schema(example = "connected")]
    pub bus: String,
    /// When the list was made.
    pub as_of: Time,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// `tenant/name`.
    #[schema(example = "default/shop")]
    pub id: String,
    /// The operator's own words about it.
    pub labels: BTreeMap<String, String>,
    /// When it was put on record.
    pub created_at: Time,
    /// `created` through the API, or `first_seen` when an agent claimed it.
    #[schema(example = "created")]
    pub origin: String,
    /// Whether it is there.
    pub presence: Presence,
    /// How its work stands. `unknown` unless it is connected.
    pub health: Health,
    /// The session that serves it, or the one that served it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// Whether an instance is there, and for how long that has been so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// `connected`, `unreachable` or `never_seen`.
    #[schema(example = "connected")]
    pub state: String,
    /// Since when; for `never_seen`, since it was created.
    pub since: Time,
    /// How long ago that was.
    pub age_ms: u64,
    /// How long ago it was heard last, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_ms_ago: Option<u64>,
}

/// How an agent's work stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `healthy`, `stalled`, or `unknown` while the instance is not connected.
    #[schema(example = "healthy")]
    pub state: String,
    /// What there is to say about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A session. Each field is what the agent said of itself last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its fencing token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The process behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The store behind the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The agent's build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What runs things there: `process`, `docker`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The calls that the agent answers.
    #[serde(default)]
    pub calls: Vec<String>,
    /// The digest of what it has applied, in hexadecimal.
    #[serde(default)]
    pub applied: String,
}

/// Creates an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInstance {
    /// `name` or `tenant/name`, each 1 to 63 characters of a–z, 0–9 and `-`.
    #[schema(example = "default/shop")]
    pub id: String,
    /// The operator's own words about it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The agent answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pong {
    /// How long the round trip took, in microseconds.
    pub round_trip_us: u64,
}

/// Which build answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The agent's version.
    #[schema(example = "0.1.0")]
    pub version: String,
}

/// Services, in no promised order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceList {
    /// The services found.
    pub services: Vec<ServiceInfo>,
}

/// Something that an instance runs, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceInfo {
    /// The resource that defines it.
    #[schema(value_type = String, example = "default/App/web")]
    pub id: ResourceId,
    /// Where it can be reached, if it can.
    #[serde(default)]
    pub address: Option<String>,
    /// What else the runtime says of it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// `ready`, `updating`, `degraded`, `stopped`, `unknown`.
    #[schema(value_type = String, example = "ready")]
    pub status: ServiceStatus,
    /// Its units, if the runtime could tell them.
    #[serde(default)]
    pub units: Vec<UnitInfo>,
    /// Why the units could not be told.
    #[serde(default)]
    pub excuse: Option<String>,
}

/// One running replica of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnitInfo {
    /// The unit's own id.
    pub id: String,
    /// `building`, `starting`, `started`, `unreachable`, `error`, `down`, `stopped`, `gone`, `unknown`.
    #[schema(value_type = String, example = "started")]
    pub status: UnitStatus,
    /// Why it stands so.
    #[serde(default)]
    pub reason: Option<String>,
    /// Since when it stands so, by the agent's clock.
    #[serde(default)]
    pub since: Option<Time>,
    /// The operating system's process, where the unit is one.
    #[serde(default)]
    pub pid: Option<u32>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u64,
    /// The ports that it was given, by name.
    #[serde(default)]
    pub ports: BTreeMap<String, u16>,
    /// The image that it was made from.
    #[serde(default)]
    pub image: Option<String>,
    /// The host that it is on, where its agent serves several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl From<Service> for ServiceInfo {
    fn from(Service { id, address, metadata, status, units, excuse }: Service) -> Self {
        let units = units.into_iter().map(UnitInfo::from).collect();
        Self { id, address, metadata, status, units, excuse }
    }
}

impl From<ServiceInfo> for Service {
    fn from(ServiceInfo { id, address, metadata, status, units, excuse }: ServiceInfo) -> Self {
        let units = units.into_iter().map(Unit::from).collect();
        Self { id, address, metadata, status, units, excuse }
    }
}

impl From<Unit> for UnitInfo {
    fn from(unit: Unit) -> Self {
        let Unit { id, status, reason, since_unix_ms, pid, restarts, ports, image, host } = unit;
        let since = since_unix_ms.map(Time::from_unix_ms);
        Self { id, status, reason, since, pid, restarts, ports, image, host }
    }
}

impl From<UnitInfo> for Unit {
    fn from(unit: UnitInfo) -> Self {
        let UnitInfo { id, status, reason, since, pid, restarts, ports, image, host } = unit;
        let since_unix_ms = since.map(Time::unix_ms);
        Self { id, status, reason, since_unix_ms, pid, restarts, ports, image, host }
    }
}

/// Asks for the services named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// Ids that do not exist are silently absent from the answer; an empty list asks for none.
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<ResourceId>,
}

/// Asks for all services, of one namespace or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The namespace; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Ids to leave out.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub ignored: BTreeSet<ResourceId>,
}

/// Applies definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// What to apply.
    pub definitions: Vec<DefinitionInfo>,
}

/// One resource to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DefinitionInfo {
    /// The id that the definition must turn out to have.
    #[schema(value_type = String, example = "default/App/web")]
    pub id: ResourceId,
    /// The manifest, verbatim.
    pub definition: ResourceBytes,
    /// Answer once it is accepted, without waiting until it runs.
    #[serde(default, rename = "async", skip_serializing_if = "std::ops::Not::not")]
    pub is_async: bool,
}

/// Runs actions in order. A failed delete skips its own apply; the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// What to do, in order.
    pub actions: Vec<ActionInfo>,
}

/// One step of a sync: delete, then apply. Either may be absent (or null), which differs from being empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionInfo {
    /// The resource that the action is about; errors come back under this id.
    #[schema(value_type = String, example = "default/App/web")]
    pub id: ResourceId,
    /// The manifest of what to delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<ResourceBytes>,
    /// The manifest of what to apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<ResourceBytes>,
}

/// All that was asked is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// The call's id: the `Idempotency-Key`, or one that the hub drew.
    pub request_id: String,
}

/// One event: the `data` of a server-sent event, whose `event` is the kind and whose `id` is the sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the hub's log.
    pub sequence: u64,
    /// The instance that it happened to.
    #[schema(example = "default/shop")]
    pub instance: String,
    /// The session that it happened to.
    pub epoch: u64,
    /// What happened: `connected`, `disconnected`, `reconnected`, `left`, `kicked`, `takeover`, `duplicate`.
    #[schema(example = "connected")]
    pub kind: String,
    /// When.
    pub at: Time,
    /// A sentence for people.
    pub detail: String,
}

/// Events after this one are not kept any more: the `data` of a server-sent event `gap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// The last sequence that the watcher had.
    pub after: u64,
}

/// One line that a unit wrote: the `data` of a server-sent event `line`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLineInfo {
    /// The unit that wrote it.
    pub unit: String,
    /// When, by the agent's clock, to the nanosecond.
    pub at: NanoTime,
    /// `stdout` or `stderr`.
    #[schema(value_type = String, example = "stdout")]
    pub source: LogSource,
    /// The text, without its line end.
    pub text: String,
    /// The line goes on in the next one of this unit and source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl From<LogLine> for LogLineInfo {
    fn from(LogLine { unit, at_unix_ns, source, text, partial }: LogLine) -> Self {
        Self { unit, at: NanoTime::from_unix_ns(at_unix_ns), source, text, partial }
    }
}

impl From<LogLineInfo> for LogLine {
    fn from(LogLineInfo { unit, at, source, text, partial }: LogLineInfo) -> Self {
        Self { unit, at_unix_ns: at.unix_ns(), source, text, partial }
    }
}

/// The hub is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Healthy {
    /// `ok`.
    #[schema(example = "ok")]
    pub status: String,
    /// The hub's build.
    #[schema(example = "0.1.0")]
    pub version: String,
}
