//! The call table: every call that a platform answers, in one place.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bundle::{
    BundleChangesRequest, BundleChangesResponse, BundleStatusRequest, BundleStatusResponse,
    DeleteBundleRequest, DeleteBundleResponse, GetBundleRequest, GetBundleResponse, JobResponse,
    ListBundlesRequest, ListBundlesResponse, PauseBundleRequest, PutBundleRequest, PutBundleResponse,
    ResumeBundleRequest, RetryBundleRequest,
};
use crate::capacity::{AddressesRequest, AddressesResponse, CapacityRequest, CapacityResponse};
use crate::id::{RequestId, StoreId};
use crate::job::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, JobRecord, ListJobsRequest,
    ListJobsResponse, WatchJobRequest,
};
use crate::limits;
use crate::platform::{
    AllServicesRequest, ApplyRequest, ApplyResponse, ExportRequest, ExportResponse, LogLine, LogsRequest,
    PingRequest, PingResponse, ServicesResponse, SomeServicesRequest, SyncRequest, SyncResponse,
    VersionRequest, VersionResponse,
};
use crate::version::CallSetVersion;

/// What a caller sends, as a type: it names its method, and what comes back.
pub trait Request: Serialize + DeserializeOwned + Send + std::marker::Sync + 'static {
    /// The method's row in the table.
    const METHOD: Method;
    /// What comes back: the answer, or for a stream each of its items.
    type Response: Serialize + DeserializeOwned + Send + 'static;
}

/// How a call answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// With one message.
    Unary,
    /// With a stream of items, until either side ends it.
    Stream,
}

/// Whether a call changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only reads: a lost caller cancels it.
    Reading,
    /// It changes things: idempotent by request id, and neither a lost caller nor a passed deadline cancels it.
    Mutating,
}

macro_rules! call_table {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $since:ident, $kind:ident, $shape:ident, $time:expr,
        $request:ty => $response:ty;)+) => {
        /// A row of the call table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Method {
            $($(#[$doc])* $name,)+
        }

        impl Method {
            /// All rows, in the table's order.
            pub const ALL: &'static [Method] = &[$(Method::$name),+];

            /// The method's name: a token of its subject, and a label of its metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Method::$name => $word,)+ }
            }

            /// The call set that has had it first.
            #[must_use]
            pub const fn since(self) -> CallSetVersion {
                match self { $(Method::$name => CallSetVersion::$since,)+ }
            }

            /// Whether it changes anything.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Method::$name => Kind::$kind,)+ }
            }

            /// How it answers.
            #[must_use]
            pub const fn shape(self) -> Shape {
                match self { $(Method::$name => Shape::$shape,)+ }
            }

            /// The time it is given when the caller names none.
            #[must_use]
            pub const fn default_time(self) -> Duration {
                match self { $(Method::$name => $time,)+ }
            }

            /// Finds a method by its name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|method| method.name() == name)
            }
        }

        $(
            impl Request for $request {
                const METHOD: Method = Method::$name;
                type Response = $response;
            }
        )+
    };
}

call_table! {
    /// A round trip through the platform itself.
    Ping = "ping", V4, Reading, Unary, Duration::from_secs(5), PingRequest => PingResponse;
    /// Which build answers.
    Version = "version", V4, Reading, Unary, Duration::from_secs(5), VersionRequest => VersionResponse;
    /// All services, of one namespace or of all.
    AllServices = "all_services", V4, Reading, Unary, Duration::from_secs(30), AllServicesRequest => ServicesResponse;
    /// The services named.
    SomeServices = "some_services", V4, Reading, Unary, Duration::from_secs(30), SomeServicesRequest => ServicesResponse;
    /// Applies definitions.
    Apply = "apply", V4, Mutating, Unary, limits::CALL_TIME_MAX, ApplyRequest => ApplyResponse;
    /// Everything the instance holds.
    Export = "export", V5, Reading, Unary, Duration::from_secs(300), ExportRequest => ExportResponse;
    /// Runs delete-then-apply actions in order.
    Sync = "sync", V5, Mutating, Unary, limits::CALL_TIME_MAX, SyncRequest => SyncResponse;
    /// The logs of an app, as a stream of lines.
    Logs = "logs", V5, Reading, Stream, limits::CALL_TIME_MAX, LogsRequest => LogLine;
    /// Accepts a bundle; a job carries it out.
    PutBundle = "put_bundle", V6, Mutating, Unary, Duration::from_secs(300), PutBundleRequest => PutBundleResponse;
    /// Accepts that a bundle goes.
    DeleteBundle = "delete_bundle", V6, Mutating, Unary, Duration::from_secs(60), DeleteBundleRequest => DeleteBundleResponse;
    /// Accepts that a bundle's workloads stop.
    PauseBundle = "pause_bundle", V6, Mutating, Unary, Duration::from_secs(60), PauseBundleRequest => JobResponse;
    /// Accepts that a bundle's workloads start again.
    ResumeBundle = "resume_bundle", V6, Mutating, Unary, Duration::from_secs(60), ResumeBundleRequest => JobResponse;
    /// Accepts that failed workloads are tried again now.
    RetryBundle = "retry_bundle", V6, Mutating, Unary, Duration::from_secs(60), RetryBundleRequest => JobResponse;
    /// A bundle as it was put.
    GetBundle = "get_bundle", V6, Reading, Unary, Duration::from_secs(300), GetBundleRequest => GetBundleResponse;
    /// All bundles.
    ListBundles = "list_bundles", V6, Reading, Unary, Duration::from_secs(30), ListBundlesRequest => ListBundlesResponse;
    /// The record of a bundle.
    BundleChanges = "bundle_changes", V6, Reading, Unary, Duration::from_secs(30), BundleChangesRequest => BundleChangesResponse;
    /// How a bundle and its workloads stand.
    BundleStatus = "bundle_status", V6, Reading, Unary, Duration::from_secs(30), BundleStatusRequest => BundleStatusResponse;
    /// A job, and its records.
    GetJob = "get_job", V6, Reading, Unary, Duration::from_secs(30), GetJobRequest => GetJobResponse;
    /// Jobs, the newest first.
    ListJobs = "list_jobs", V6, Reading, Unary, Duration::from_secs(30), ListJobsRequest => ListJobsResponse;
    /// A job's records as they are made, as a stream.
    WatchJob = "watch_job", V6, Reading, Stream, limits::CALL_TIME_MAX, WatchJobRequest => JobRecord;
    /// Takes a job back.
    CancelJob = "cancel_job", V6, Mutating, Unary, Duration::from_secs(60), CancelJobRequest => CancelJobResponse;
    /// What the instance has room for.
    Capacity = "capacity", V6, Reading, Unary, Duration::from_secs(30), CapacityRequest => CapacityResponse;
    /// Which addresses are in use.
    Addresses = "addresses", V6, Reading, Unary, Duration::from_secs(30), AddressesRequest => AddressesResponse;
}

impl Method {
    /// The names of all calls, as an agent lists them in its claim.
    #[must_use]
    pub fn names() -> Vec<String> {
        Self::ALL.iter().map(|method| method.name().to_owned()).collect()
    }

    /// Whether it changes anything.
    #[must_use]
    pub const fn is_mutating(self) -> bool {
        matches!(self.kind(), Kind::Mutating)
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The calls that an agent answers. Those of the table take a byte each: a hub keeps a set for each of its agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CallSet {
    known: Box<[Method]>,
    /// Calls of a newer table.
    others: Box<[String]>,
}

impl CallSet {
    /// The set of these names, as a claim lists them. A name that is told twice counts once.
    #[must_use]
    pub fn from_names(names: &[String]) -> Self {
        let mut known: Vec<Method> = names.iter().filter_map(|name| Method::from_name(name)).collect();
        known.sort_unstable();
        known.dedup();
        let others = names.iter().filter(|name| Method::from_name(name).is_none()).cloned().collect();
        Self { known: known.into(), others }
    }

    /// Whether the agent answers this call.
    #[must_use]
    pub fn has(&self, method: Method) -> bool {
        self.known.contains(&method)
    }

    /// Whether nothing is known of what it answers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.others.is_empty()
    }

    /// The names, in the order of the table, those that this build does not know last.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let known = self.known.iter().map(|method| method.name().to_owned());
        known.chain(self.others.iter().cloned()).collect()
    }
}

/// The body of a call frame: who asks, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallBody<R> {
    /// The caller's own id for this call, the same for each retry.
    pub id: RequestId,
    /// The store that saw the first attempt: another one answers `unknown_outcome` instead of doing it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreId>,
    /// What is asked.
    pub args: R,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_keeps_what_a_newer_agent_says() {
        let names = ["teleport", "ping", "apply", "ping"].map(str::to_owned);
        let set = CallSet::from_names(&names);
        assert_eq!(set.names(), ["ping", "apply", "teleport"]);
        assert!(set.has(Method::Apply) && !set.has(Method::Sync) && !set.is_empty());
        assert!(CallSet::default().is_empty() && !CallSet::from_names(&["teleport".to_owned()]).is_empty());
    }

    #[test]
    fn the_table_is_sound() {
        for method in Method::ALL {
            assert_eq!(Method::from_name(method.name()), Some(*method));
            assert!(method.since() <= CallSetVersion::LATEST);
            assert!(method.default_time() <= limits::CALL_TIME_MAX, "{method} may outlast the longest call");
            assert!(method.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        assert!(Method::ALL.len() <= limits::CALLS_MAX);
    }
}
