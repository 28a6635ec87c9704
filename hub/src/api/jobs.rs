//! Jobs: how far accepted work is, as a list, one by one, and as it goes on. And what an instance has room for.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse;
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use tokio_util::sync::CancellationToken;
use towline_bus::Platform as _;
use towline_bus::platform::ItemStream;
use towline_protocol::job::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, JobRecord, JobState, ListJobsRequest, WatchJobRequest,
};
use towline_protocol::{JobId, Name, RequestId};

use super::Shared;
use super::bundle_changes::reason;
use super::bundles::{limit, number};
use super::changes::change;
use super::extract::{Asked, AtInstance, Below, Params};
use super::problem::Refusal;
use super::sse::{event, last_event_id, respond};
use super::types::{
    AddressList, CapacityInfo, JobCancelled, JobList, JobRecordInfo, JobWithRecords, Problem,
};

/// Jobs of an instance, the newest first.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/jobs", tag = "jobs", operation_id = "list_jobs",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("bundle" = Option<String>, Query, description = "Only those about this bundle."),
        ("state" = Option<Vec<String>>, Query, description = "Only those in these states; may stand more than once, or hold several with commas."),
        ("after" = Option<String>, Query, description = "Only those older than this job: the `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "At most so many: 1,000 if it is not said, at most 10,000."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The jobs.", body = JobList),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<JobList>, Refusal> {
    let (asked, request) = asked(params, &headers)?;
    let page = api.bus.connect(&instance).list_jobs(&asked.reading(), &request).await?;
    Ok(Json(JobList { jobs: page.jobs.into_iter().map(Into::into).collect(), next: page.next }))
}

/// Which jobs are asked for.
pub(super) fn asked(params: Params, headers: &HeaderMap) -> Result<(Asked, ListJobsRequest), Refusal> {
    let params = params.only(&["bundle", "state", "after", "limit", "timeout"])?;
    let asked = Asked::from(headers, &params)?;
    let request = ListJobsRequest {
        bundle: params.parsed("bundle", str::parse::<Name>)?,
        states: params.many("state").map(known_state).collect::<Result<_, _>>()?,
        after: params.parsed("after", str::parse::<JobId>)?,
        limit: limit(&params)?,
    };
    Ok((asked, request))
}

fn known_state(word: &str) -> Result<JobState, Refusal> {
    match JobState::from_word(word) {
        JobState::Other(word) => {
            let known: Vec<_> = JobState::KNOWN.iter().map(JobState::as_str).collect();
            let word: String = word.chars().take(80).collect();
            let detail = format!("`{word}` is not a state of a job: the states are {}", known.join(", "));
            Err(Refusal::malformed(detail))
        }
        known => Ok(known),
    }
}

/// One job, and its progress records in order.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/jobs/{job}", tag = "jobs", operation_id = "get_job",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("job" = String, Path),
        ("after" = Option<u64>, Query, description = "Records after this sequence."),
        ("limit" = Option<u32>, Query, description = "At most so many records: 1,000 if it is not said, at most 10,000."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The job.", body = JobWithRecords),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get(
    State(api): Shared,
    Below { instance, what: job }: Below<JobId>,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<JobWithRecords>, Refusal> {
    let params = params.only(&["after", "limit", "timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let after = params.parsed("after", number)?.unwrap_or(0);
    let request = GetJobRequest { job, after, limit: limit(&params)? };
    let found = api.bus.connect(&instance).get_job(&context, &request).await?;
    let records = found.records.into_iter().map(Into::into).collect();
    Ok(Json(JobWithRecords { job: found.job.into(), records, next: found.next }))
}

/// The records of a job: those that there are, then each new one. `event: record` for each; `event: end` after the one
/// with a terminal state, or `event: error` with a problem.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/jobs/{job}/events", tag = "jobs", operation_id = "watch_job",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("job" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long the stream may last. Also as the header `Towline-Timeout`."),
        ("Last-Event-ID" = Option<u64>, Header, description = "Begin after this sequence."),
    ),
    responses(
        (status = 200, description = "The records; `id` is the sequence.", body = JobRecordInfo, content_type = "text/event-stream"),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn watch(
    State(api): Shared,
    Below { instance, what: job }: Below<JobId>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let request = WatchJobRequest { job, after: last_event_id(&headers)? };
    let records = api.bus.connect(&instance).watch_job(&context, &request).await?;
    let source = Source { records, stopping: api.tasks.stopping().clone() };
    Ok(respond(stream::unfold(Some(source), next)))
}

struct Source {
    records: ItemStream<JobRecord>,
    stopping: CancellationToken,
}

/// A caller sees the difference between a job that has ended and a stream that was lost.
async fn next(source: Option<Source>) -> Option<(sse::Event, Option<Source>)> {
    let mut source = source?;
    let record = tokio::select! {
        record = source.records.next() => record,
        () = source.stopping.cancelled() => return None,
    };
    Some(match record {
        Some(Ok(record)) => {
            let shown = JobRecordInfo::from(record);
            (event("record", &shown).id(shown.seq.to_string()), Some(source))
        }
        Some(Err(error)) => (event("error", &Refusal::from(error).0), None),
        None => (event("end", &serde_json::json!({})), None),
    })
}

/// Takes a job back: one that has not begun ends at once, one under way undoes what it was doing.
#[utoipa::path(
    post, path = "/v1/instances/{tenant}/{name}/jobs/{job}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(
        ("tenant" = String, Path), ("name" = String, Path), ("job" = String, Path),
        ("reason" = Option<String>, Query, description = "Why, for the record; at most 1,024 bytes."),
        ("timeout" = Option<String>, Query, description = "How long to wait: `2m`. Also as the header `Towline-Timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same for each retry: 1 to 64 of `A–Z a–z 0–9 _ -`, good for 24 hours."),
    ),
    responses(
        (status = 200, description = "The job was told; watch it to see when it has ended.", body = JobCancelled),
        (status = "default", description = "Refused, or failed: see the effect.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn cancel(
    State(api): Shared,
    Below { instance, what: job }: Below<JobId>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let params = params.only(&["reason", "timeout"])?;
    let asked = Asked::from(&headers, &params)?;
    let request = CancelJobRequest { job, reason: reason(&params)? };
    let tell = |id: &RequestId, CancelJobResponse { job }: CancelJobResponse| {
        Json(JobCancelled { request_id: id.to_string(), job: job.into() }).into_response()
    };
    change(api, instance, asked, tell, |remote, context| async move {
        remote.cancel_job(&context, &request).await
    })
    .await
}

/// What an instance has room for: processor, memory, disk.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/capacity", tag = "jobs", operation_id = "capacity",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "Its room.", body = CapacityInfo),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn capacity(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<CapacityInfo>, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    Ok(Json(api.bus.connect(&instance).capacity(&context).await?.into()))
}

/// Which addresses of an instance are in use, and by what.
#[utoipa::path(
    get, path = "/v1/instances/{tenant}/{name}/addresses", tag = "jobs", operation_id = "addresses",
    params(
        ("tenant" = String, Path), ("name" = String, Path),
        ("timeout" = Option<String>, Query, description = "How long to wait: `30s`. Also as the header `Towline-Timeout`."),
    ),
    responses(
        (status = 200, description = "The addresses, by address and port.", body = AddressList),
        (status = "default", description = "Refused, or failed.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn addresses(
    State(api): Shared,
    AtInstance(instance): AtInstance,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<AddressList>, Refusal> {
    let params = params.only(&["timeout"])?;
    let context = Asked::from(&headers, &params)?.reading();
    let found = api.bus.connect(&instance).addresses(&context).await?;
    Ok(Json(AddressList { addresses: found.addresses.into_iter().map(Into::into).collect() }))
}
