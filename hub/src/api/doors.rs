//! Readers of this module for the fuzzer: nothing else may reach them from outside.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use towline_protocol::job::ListJobsRequest;
use towline_protocol::platform::LogsRequest;

use super::bundle_changes::{Seen, if_match, reason};
use super::bundles::wants_yaml;
use super::extract::{Asked, Params};
use super::problem::Refusal;
use super::types::Problem;
use super::{events, extract, jobs, logs, sse};

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

/// What routes make of the headers of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The request has this id, and waits so long.
    Asked(Option<String>, Option<Duration>),
    /// The bundle is to be changed whether it is there or not.
    Whatever,
    /// If it is there.
    Any,
    /// If it is this version still.
    Version(u64),
    /// A stream goes on after this event.
    After(u64),
    /// The body is JSON, of so many bytes where that is said.
    Json(Option<usize>),
    /// The answer is to be YAML, or is not.
    Yaml(bool),
}

/// Reads headers (a name and a value each) as routes do that take some; for each of them what is said, or why it is refused. None
/// when they cannot stand in a request at all.
#[must_use]
pub fn headers<'a>(
    lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Option<Vec<Result<Said, Problem>>> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    let asked = || {
        let asked = Asked::from(&headers, &Params::of(&Uri::from_static("/"))?)?;
        Ok(Said::Asked(asked.id.map(|id| id.to_string()), asked.time))
    };
    let seen = || {
        Ok(match if_match(&headers)? {
            None => Said::Whatever,
            Some(Seen::Any) => Said::Any,
            Some(Seen::Version(version)) => Said::Version(version),
        })
    };
    let after = || Ok(Said::After(sse::last_event_id(&headers)?));
    let json = || {
        extract::require_json(&headers)?;
        Ok(Said::Json(extract::announced_length(&headers)))
    };
    let told = |result: Result<Said, Refusal>| result.map_err(|refusal| *refusal.0);
    Some(vec![told(asked()), told(seen()), told(after()), told(json()), Ok(Said::Yaml(wants_yaml(&headers)))])
}
