//! Calls that change bundles. Each is answered once the agent has accepted it; the job that it names carries it out.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use towline_bus::{CallContext, Platform, Remote};
use towline_protocol::bundle::{
    BundlePhase, BundleStatusRequest, DeleteBundleRequest, DeleteBundleResponse, JobResponse,
    PauseBundleRequest, PutBundleRequest, PutBundleResponse, ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::{
    CallError, Code, ContentDigest, InstanceId, JobId, Name, RequestId, WorkloadId, limits,
};

use super::bundles::{etag, number};
use super::changes::change;
use super::extract::{Asked, Below, Documents, Params, text_header};
use super::problem::Refusal;
use super::types::{BundleDeleted, BundlePut, JobAccepted, Problem};
use super::{Api, Shared};

/// Puts a bundle: what it holds from now on, as a whole. The body is its documents, in YAML.
///
/// With `If-Match` the bundle must still be at that version: the put becomes the one after it, or is a `conflict`. It
/// goes straight to the agent, with `direct` or without; an instance that is away answers `unavailable`.
#[utoipa::path(
    put, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}", tag = "bundles", operation_id = "put_bundle",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("version" = Option<u64>, Query, description = "The version that the content becomes, above the last accepted one. Else what the head document says, or the next one, and that only if the content changed."),
        ("dry_run" = Option<bool>, Query, description = "Say what would be done, and do nothing."),
        ("force" = Option<bool>, Query, description = "Take a version that is not above the last accepted one, and carry unchanged content out again."),
        ("adopt" = Option<bool>, Query, description = "Take over resources that belong to no bundle yet."),
        ("direct" = Option<bool>, Query, description = "Go straight to the agent: what every put does today."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("If-Match" = Option<String>, Header, description = "The version that the caller saw, as its `ETag`: `\"3\"`; or `*`: some version must be there."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    request_body(content = [u8], description = "The documents, an optional head of `kind: Bundle` among them; kept verbatim.", content_type = "application/yaml"),
    responses(
        (status = 202, description = "Accepted: the job carries it out. The `ETag` is the version, `Location` the job.", body = BundlePut),
        (status = 200, description = "There is nothing to do, or it was a dry run.", body = BundlePut),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn put(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
    body: Documents,
) -> Result<Response, Refusal> {
    let params = params.only(&["version", "dry_run", "force", "adopt", "direct", "timeout"])?;
    let asked = Asked::from(&headers, &params)?;
    params.flag("direct")?;
    let flag = |name| Ok::<_, Refusal>(params.flag(name)?.unwrap_or(false));
    let seen = if_match(&headers)?;
    let Documents { bytes: content, memory } = body;
    let request = PutBundleRequest {
        bundle,
        version: params.parsed("version", version)?,
        content,
        dry_run: flag("dry_run")?,
        force: flag("force")?,
        adopt: flag("adopt")?,
        envelope: None,
    };
    let jobs = jobs_path(&instance);
    let tell = move |id: &RequestId, put: PutBundleResponse| {
        let PutBundleResponse { outcome, version, digest, job, changes } = put;
        let accepted = job.filter(|_| outcome == towline_protocol::bundle::PutOutcome::Accepted);
        let changes = changes.into_iter().map(Into::into).collect();
        let request_id = id.to_string();
        let mut response =
            told(&jobs, accepted, &BundlePut { request_id, outcome, version, digest, job, changes });
        response.headers_mut().insert(header::ETAG, etag(version));
        response
    };
    change(api, instance, asked, tell, move |remote, context| async move {
        let outcome = put_matching(&remote, &context, seen, request).await;
        drop(memory);
        outcome
    })
    .await
}

/// The version that a caller saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Some version.
    Any,
    /// This one.
    Version(u64),
}

pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<Seen>, Refusal> {
    let Some(text) = text_header(headers, header::IF_MATCH.as_str())? else { return Ok(None) };
    if text.trim() == "*" {
        return Ok(Some(Seen::Any));
    }
    let bare = text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let seen = bare.and_then(|text| text.parse().ok()).map(Seen::Version);
    let wrong = || {
        Refusal::malformed(
            "the header `If-Match` is neither a version as its `ETag` tells it, `\"3\"`, nor `*`",
        )
    };
    seen.map(Some).ok_or_else(wrong)
}

fn version(text: &str) -> Result<u64, String> {
    let most = limits::BUNDLE_VERSION_MAX;
    let version = number(text).ok().filter(|version| (1..=most).contains(version));
    version.ok_or_else(|| "it is a whole number from 1 to 2^53".to_owned())
}

/// Puts a bundle if it is still what the caller saw. What is checked here may change before the put arrives; so the put
/// bears the very version that follows the one seen, which the agent takes from one caller only.
async fn put_matching(
    remote: &Remote,
    context: &CallContext,
    seen: Option<Seen>,
    mut request: PutBundleRequest,
) -> Result<PutBundleResponse, CallError> {
    if let Some(seen) = seen {
        let status = BundleStatusRequest { bundle: request.bundle.clone(), after: None, limit: Some(1) };
        let head = match remote.bundle_status(context, &status).await {
            Ok(status) => Some(status.summary).filter(|head| head.phase != BundlePhase::Deleted),
            Err(error) if error.code == Code::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(head) = head else {
            let text = format!("`If-Match` names a version, and there is no bundle `{}`", request.bundle);
            return Err(CallError::new(Code::Conflict, text).with_help("put it without `If-Match`"));
        };
        if let Seen::Version(seen) = seen {
            let digest = ContentDigest::of(&request.content);
            let next = follows(seen, head.accepted, head.digest == digest, request.version);
            request.version = Some(next.map_err(|text| {
                CallError::new(Code::Conflict, format!("`{}` {text}", request.bundle))
                    .with_help("get the bundle again, make the change to that, and put it with its `ETag`")
            })?);
        }
    }
    remote.put_bundle(context, &request).await
}

/// The version that a put bears whose caller saw `seen`, while the agent has accepted `accepted`. What was put already, by
/// an attempt whose answer was lost, is put again: the agent knows it by its content.
fn follows(seen: u64, accepted: u64, is_same: bool, wanted: Option<u64>) -> Result<u64, String> {
    let next = seen.saturating_add(1);
    if wanted.is_some_and(|wanted| wanted != next) {
        return Err(format!("may become version {next} only: `If-Match` says {seen}"));
    }
    match accepted {
        accepted if accepted == seen && is_same && wanted.is_none() => Ok(seen),
        accepted if accepted == seen || (accepted == next && is_same) => Ok(next),
        accepted => Err(format!("is at version {accepted}, and `If-Match` says {seen}")),
    }
}

/// Deletes a bundle and all that belongs to it. It stays visible until everything is gone.
#[utoipa::path(
    delete, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}", tag = "bundles", operation_id = "delete_bundle",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("reason" = Option<String>, Query, description = "Why, for the record; at most 1,024 bytes."),
        ("dry_run" = Option<bool>, Query, description = "Say what would be removed, and do nothing."),
        ("force" = Option<bool>, Query, description = "Give up on what cannot be removed."),
        ("direct" = Option<bool>, Query, description = "Go straight to the agent: what every deletion does today."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    responses(
        (status = 202, description = "Accepted: the job carries it out.", body = BundleDeleted),
        (status = 200, description = "It was a dry run.", body = BundleDeleted),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["reason", "dry_run", "force", "direct", "timeout"])?;
    let asked = Asked::from(&headers, &params)?;
    params.flag("direct")?;
    let dry_run = params.flag("dry_run")?.unwrap_or(false);
    let force = params.flag("force")?.unwrap_or(false);
    let request = DeleteBundleRequest { bundle, reason: reason(&params)?, dry_run, force };
    let jobs = jobs_path(&instance);
    let tell = move |id: &RequestId, DeleteBundleResponse { job, changes }: DeleteBundleResponse| {
        let changes = changes.into_iter().map(Into::into).collect();
        told(&jobs, job, &BundleDeleted { request_id: id.to_string(), job, changes })
    };
    change(api, instance, asked, tell, |remote, context| async move {
        remote.delete_bundle(&context, &request).await
    })
    .await
}

/// Stops the workloads of a bundle, and leaves them so until it is resumed.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}/pause", tag = "bundles", operation_id = "pause_bundle",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("reason" = Option<String>, Query, description = "Why, for the record; at most 1,024 bytes."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    responses(
        (status = 202, description = "Accepted: the job carries it out.", body = JobAccepted),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn pause(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["reason", "timeout"])?;
    let asked = Asked::from(&headers, &params)?;
    let request = PauseBundleRequest { bundle, reason: reason(&params)? };
    operate(
        api,
        instance,
        asked,
        |remote, context| async move { remote.pause_bundle(&context, &request).await },
    )
    .await
}

/// Starts the workloads of a paused bundle again.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}/resume", tag = "bundles", operation_id = "resume_bundle",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("reason" = Option<String>, Query, description = "Why, for the record; at most 1,024 bytes."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    responses(
        (status = 202, description = "Accepted: the job carries it out.", body = JobAccepted),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn resume(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["reason", "timeout"])?;
    let asked = Asked::from(&headers, &params)?;
    let request = ResumeBundleRequest { bundle, reason: reason(&params)? };
    operate(
        api,
        instance,
        asked,
        |remote, context| async move { remote.resume_bundle(&context, &request).await },
    )
    .await
}

/// Tries failed workloads of a bundle again now, instead of when their back-off ends.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/bundles/{bundle}/retry", tag = "bundles", operation_id = "retry_bundle",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("bundle" = String, Path),
        ("workload" = Option<Vec<String>>, Query, description = "Only these: `App/web`; may stand more than once, or hold several with commas. Else all that failed."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    responses(
        (status = 202, description = "Accepted: the job carries it out.", body = JobAccepted),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn retry(
    State(api): Shared,
    Below { instance, what: bundle }: Below<Name>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["workload", "timeout"])?;
    let asked = Asked::from(&headers, &params)?;
    let workloads = params.many("workload").map(str::parse).collect::<Result<Vec<WorkloadId>, _>>();
    let workloads = workloads
        .map_err(|error| Refusal::malformed(format!("the parameter `workload` is wrong: {error}")))?;
    let request = RetryBundleRequest { bundle, workloads };
    operate(
        api,
        instance,
        asked,
        |remote, context| async move { remote.retry_bundle(&context, &request).await },
    )
    .await
}

/// An operation that answers a job and nothing else.
async fn operate<W, F>(
    api: Arc<Api>,
    instance: InstanceId,
    asked: Asked,
    work: W,
) -> Result<Response, Refusal>
where
    W: FnOnce(Remote, CallContext) -> F + Send + 'static,
    F: Future<Output = Result<JobResponse, CallError>> + Send,
{
    let jobs = jobs_path(&instance);
    let tell = move |id: &RequestId, JobResponse { job }: JobResponse| {
        told(&jobs, Some(job), &JobAccepted { request_id: id.to_string(), job })
    };
    change(api, instance, asked, tell, work).await
}

/// Why something is done, as its caller says.
pub(super) fn reason(params: &Params) -> Result<Option<String>, Refusal> {
    params.parsed("reason", |text| match text.len() {
        length if length <= limits::REASON_BYTES_MAX => Ok(text.to_owned()),
        length => Err(format!("it has {length} bytes, and {} are allowed", limits::REASON_BYTES_MAX)),
    })
}

fn jobs_path(instance: &InstanceId) -> String {
    format!("/v1/instances/{instance}/jobs")
}

/// What was accepted is under way elsewhere: the answer says where.
fn told<T: Serialize>(jobs: &str, job: Option<JobId>, body: &T) -> Response {
    let status = if job.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut response = (status, Json(body)).into_response();
    if let Some(location) = job.and_then(|job| HeaderValue::from_str(&format!("{jobs}/{job}")).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z_u1_a_put_follows_the_version_that_its_caller_saw() {
        assert_eq!(follows(3, 3, false, None), Ok(4));
        assert_eq!(follows(3, 3, false, Some(4)), Ok(4));
        assert_eq!(follows(3, 3, true, None), Ok(3), "the same content makes no version");
        assert_eq!(follows(3, 4, true, None), Ok(4), "an attempt whose answer was lost is made again");
        for (accepted, is_same, wanted) in
            [(4, false, None), (5, true, None), (2, false, None), (3, false, Some(5)), (3, false, Some(3))]
        {
            let refused = follows(3, accepted, is_same, wanted);
            assert!(refused.is_err(), "{accepted} {is_same} {wanted:?} gave {refused:?}");
        }
        assert!(follows(u64::MAX, 1, false, None).is_err());
    }

    #[test]
    fn entity_tags_are_versions() {
        let seen = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_static(text));
            if_match(&headers)
        };
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(seen("\"3\"").unwrap(), Some(Seen::Version(3)));
        assert_eq!(seen("*").unwrap(), Some(Seen::Any));
        for bad in ["3", "W/\"3\"", "\"3\", \"4\"", "\"-1\"", "\"", ""] {
            assert!(seen(bad).is_err(), "{bad}");
        }
    }
}
