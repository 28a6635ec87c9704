//! What the calls carry: services and their units, definitions, actions, log lines.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::ResourceId;
use crate::wire_enum;

/// Asks for nothing but an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRequest {}

/// The answer to a ping.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingResponse {}

/// Asks which build of the agent answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRequest {}

/// The build that answers. It is never invented: an agent without the call answers `upgrade_needed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionResponse {
    /// The agent's version, as its `--version` prints it.
    pub version: String,
}

/// Asks for all services, of one namespace or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllServicesRequest {
    /// The namespace, or `None` for all of them.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Services to leave out.
    #[serde(default)]
    pub ignored: BTreeSet<ResourceId>,
}

/// Asks for the services named. Ids that do not exist are silently absent from the answer; an empty list asks for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SomeServicesRequest {
    /// The services wanted.
    #[serde(default)]
    pub ids: Vec<ResourceId>,
}

/// Services, in no promised order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesResponse {
    /// The services found.
    #[serde(default)]
    pub services: Vec<Service>,
}

/// Something that an instance runs, and how it stands. There are many in one answer: what says nothing does not travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The resource that defines it.
    pub id: ResourceId,
    /// Where it can be reached, if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What else the runtime says of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// How it stands as a whole.
    pub status: ServiceStatus,
    /// Its units, if the runtime could tell them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<Unit>,
    /// Why the units could not be told. An excuse beside no units differs from having none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excuse: Option<String>,
}

wire_enum! {
    /// How a service stands.
    pub enum ServiceStatus {
        /// All the units that are wanted have started.
        Ready = "ready",
        /// Not all of them, but work is under way.
        Updating = "updating",
        /// Some have failed.
        Degraded = "degraded",
        /// None is wanted.
        Stopped = "stopped",
        /// The runtime did not answer.
        Unknown = "unknown",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One running replica of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The unit's own id, unique on its instance.
    pub id: String,
    /// How it stands, as observed.
    pub status: UnitStatus,
    /// Why it stands so, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it stands so, in Unix milliseconds of the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_unix_ms: Option<u64>,
    /// The operating system's process, where the unit is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u64,
    /// The ports that it was given, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// The image that it was made from, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The host that it is on, where its agent serves several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

wire_enum! {
    /// The observed state of a unit. `unknown` means that the runtime did not answer: no plan is made from it.
    pub enum UnitStatus {
        /// Being made.
        Building = "building",
        /// Made, and on its way up.
        Starting = "starting",
        /// Up.
        Started = "started",
        /// Up, but it does not answer where it should.
        Unreachable = "unreachable",
        /// Failed by its own doing.
        Error = "error",
        /// Failed by something else's doing.
        Down = "down",
        /// Stopped because it should be.
        Stopped = "stopped",
        /// The runtime says that it is not there.
        Gone = "gone",
        /// The runtime did not answer.
        Unknown = "unknown",
    }
}

/// One resource to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The id that the definition must turn out to have.
    pub id: ResourceId,
    /// The manifest, verbatim.
    pub definition: Bytes,
    /// Answer once it is accepted, without waiting until it runs.
    #[serde(default, rename = "async")]
    pub is_async: bool,
}

/// Applies definitions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// What to apply.
    #[serde(default)]
    pub definitions: Vec<Definition>,
}

/// The definitions were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyResponse {}

/// One step of a sync: delete, then apply; either may be absent, which differs from being empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncAction {
    /// The resource that the action is about; errors come back under this id.
    pub id: ResourceId,
    /// The manifest of what to delete.
    #[serde(default)]
    pub delete: Option<Bytes>,
    /// The manifest of what to apply.
    #[serde(default)]
    pub apply: Option<Bytes>,
}

/// Runs actions in order. A failed delete skips its own apply; the rest goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// What to do, in order.
    #[serde(default)]
    pub actions: Vec<SyncAction>,
}

/// The actions were done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncResponse {}

/// Asks for everything the instance holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRequest {}

/// Everything the instance holds, in its runtime's own format.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportResponse {
    /// The manifests, verbatim.
    pub config: Bytes,
}

/// Asks for the logs of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// The app.
    pub app: ResourceId,
    /// One of its units, or `None` for all.
    #[serde(default)]
    pub unit: Option<String>,
    /// Go on with lines as they come, until the caller ends the stream.
    #[serde(default)]
    pub follow: bool,
    /// Lines not older than this, in Unix milliseconds.
    #[serde(default)]
    pub since_unix_ms: Option<u64>,
    /// Begin with at most so many of the newest lines.
    #[serde(default)]
    pub tail: Option<u64>,
}

wire_enum! {
    /// Where a log line was written.
    pub enum LogSource {
        /// Standard output.
        Stdout = "stdout",
        /// Standard error.
        Stderr = "stderr",
    }
}

/// One line that a unit wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The unit that wrote it.
    pub unit: String,
    /// When, in Unix nanoseconds of the agent's clock.
    pub at_unix_ns: u64,
    /// Where.
    pub source: LogSource,
    /// The text, without its line end. Bytes that are not UTF-8 arrive as U+FFFD.
    pub text: String,
    /// The line goes on in the next one of this unit and source.
    #[serde(default)]
    pub partial: bool,
}
