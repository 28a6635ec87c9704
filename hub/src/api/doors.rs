//! Readers of this module for the fuzzer: nothing else may reach them from outside.

use std::time::Duration;

use axum::http::{HeaderMap, Uri};
use towline_protocol::job::ListJobsRequest;
use towline_protocol::platform::LogsRequest;

use super::bundle_changes::reason;
use super::extract::{Asked, Params};
use super::problem::Refusal;
use super::types::Problem;
use super::{events, jobs, logs};

/// What routes make of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Lines of an app, and for how long.
    Logs(LogsRequest, Option<Duration>),
    /// Jobs, and how long to wait for them.
    Jobs(ListJobsRequest, Option<Duration>),
    /// Events not older than that, in Unix milliseconds.
    Events(Option<u64>),
    /// A change, for this reason.
    Change(Option<String>),
}

/// Reads a query as routes do that take many parameters; for each of them what it wants, or why it is refused. None when
/// `query` cannot stand in a request at all.
#[must_use]
pub fn query(query: &str, now_unix_ms: u64) -> Option<Vec<Result<Wanted, Problem>>> {
    let uri: Uri = format!("/?{query}").parse().ok()?;
    let headers = HeaderMap::new();
    let params = || Params::of(&uri);
    let logs = || {
        let (asked, request) = logs::asked(params()?, &headers, now_unix_ms)?;
        Ok(Wanted::Logs(request, asked.time))
    };
    let jobs = || {
        let (asked, request) = jobs::asked(params()?, &headers)?;
        Ok(Wanted::Jobs(request, asked.time))
    };
    let events = || Ok(Wanted::Events(events::asked(params()?, now_unix_ms)?.0.since_unix_ms));
    let change = || {
        let params = params()?.only(&["reason", "timeout"])?;
        Asked::from(&headers, &params)?;
        Ok(Wanted::Change(reason(&params)?))
    };
    let told = |result: Result<Wanted, Refusal>| result.map_err(|refusal| *refusal.0);
    Some(vec![told(logs()), told(jobs()), told(events()), told(change())])
}
