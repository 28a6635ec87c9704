//! Bundles, jobs, capacity and addresses: what every path must carry of them.

use std::collections::BTreeMap;
use std::time::Duration;

use towline_protocol::bundle::{
    BundleChangesRequest, BundleStatusRequest, BundleStatusResponse, Change, ChangeOp, ChangeRecord,
    DeleteBundleRequest, Drift, GetBundleRequest, ListBundlesRequest, Observation, PauseBundleRequest,
    PutBundleRequest, PutBundleResponse, PutOutcome, ResultState, ResumeBundleRequest, Retry,
    RetryBundleRequest, WorkloadResult, WorkloadStatus,
};
use towline_protocol::capacity::{AddressInUse, AddressesResponse, Capacity, CapacityResponse};
use towline_protocol::job::{
    CancelJobRequest, GetJobRequest, Job, JobKind, JobRecord, JobState, ListJobsRequest, WatchJobRequest,
};
use towline_protocol::platform::ServiceStatus;
use towline_protocol::{CallError, Code, ContentDigest, Effect, ItemError, JobId, Method, Name, WorkloadId};
use uuid::Uuid;

use super::{Ends, bytes_of, cx, error, id, map_of_errors, seen_once, two_services};
use crate::platform::{CallContext, Seen};

/// When things happen here, in Unix milliseconds.
const AT: u64 = 1_700_000_000_123;

/// How long a watcher waits for what was just recorded.
const SOON: Duration = Duration::from_secs(10);

fn name(text: &str) -> Name {
    text.parse().expect("the battery's names are well formed")
}

fn workload(text: &str) -> WorkloadId {
    text.parse().expect("the battery's ids are well formed")
}

fn put(bundle: &str, content: &'static [u8]) -> PutBundleRequest {
    PutBundleRequest::new(name(bundle), content)
}

/// Puts a bundle that later calls are about.
async fn put_shop(ends: Ends<'_>) -> PutBundleResponse {
    let answer = ends.near.put_bundle(&cx(), &put("shop", b"kind: App\n")).await.expect("accepted");
    let _ = ends.far.take_seen();
    answer
}

fn job(state: JobState) -> Job {
    Job {
        id: JobId::new(Uuid::new_v4()),
        kind: JobKind::Other("brand_new".to_owned()),
        state,
        bundle: Some(name("shop")),
        version: Some(3),
        request: Some("deploy-1".parse().expect("a request id")),
        reason: Some("because".to_owned()),
        accepted_unix_ms: AT,
        started_unix_ms: Some(AT + 1),
        ended_unix_ms: None,
        records: 0,
        message: Some("größer\n\"zweite\" Zeile".to_owned()),
        errors: map_of_errors(),
    }
}

fn record(seq: u64, state: JobState) -> JobRecord {
    JobRecord {
        seq,
        at_unix_ms: AT + seq,
        state,
        workload: seq.is_multiple_of(2).then(|| workload("App/web")),
        op: seq.is_multiple_of(2).then_some(ChangeOp::Update),
        step: seq.is_multiple_of(3).then(|| format!("start {seq}")),
        result: seq.is_multiple_of(4).then_some(ResultState::Ok),
        message: seq.is_multiple_of(5).then(|| "grüße ☃".to_owned()),
    }
}

pub(super) async fn bundles_arrive_byte_for_byte(ends: Ends<'_>) {
    let change = |kind: &str, op, diff: Option<&str>| Change {
        workload: workload(kind),
        resource: Some(id(&format!("default/{kind}"))),
        op,
        reason: diff.map(|_| "spec.units changed".to_owned()),
        diff: diff.map(str::to_owned),
        units: diff.map(|_| "web-1".to_owned()).into_iter().collect(),
    };
    let changes = vec![
        change("App/old", ChangeOp::Remove, None),
        change("App/web", ChangeOp::Update, Some("-  units: 1\n+  units: 2\n")),
        change("File/é", ChangeOp::Other("brand_new".to_owned()), Some("")),
        change("Directory/data", ChangeOp::Untouched, None),
    ];
    ends.far.set_put_changes(changes.clone());
    let contents = [bytes_of(0, true), (0..=u8::MAX).collect::<Vec<_>>().into(), bytes_of(1 << 20, false)];
    for (version, content) in (7..).zip(contents) {
        for (dry_run, force, adopt) in
            [(true, false, true), (false, true, false), (false, true, true), (true, true, true)]
        {
            let request = PutBundleRequest {
                version: Some(version),
                content: content.clone(),
                dry_run,
                force,
                adopt,
                ..put("shop", b"")
            };
            let answer = ends.near.put_bundle(&cx(), &request).await.expect("accepted");
            let outcome = if dry_run { PutOutcome::Planned } else { PutOutcome::Accepted };
            assert_eq!((answer.outcome, answer.version, answer.changes), (outcome, version, changes.clone()));
            assert_eq!((answer.digest, answer.job.is_some()), (ContentDigest::of(&content), !dry_run));
            seen_once(ends, &Seen::PutBundle { request });
        }
        let wanted = GetBundleRequest { bundle: name("shop"), version: Some(version) };
        let held = ends.near.get_bundle(&cx(), &wanted).await.expect("the bundle");
        assert!(held.content == content, "{} bytes came back as {}", content.len(), held.content.len());
        assert_eq!(
            (held.version, held.digest, held.summary.accepted),
            (version, ContentDigest::of(&content), version)
        );
        seen_once(ends, &Seen::GetBundle { request: wanted });
    }
}

pub(super) async fn a_put_is_done_once_per_request_id(ends: Ends<'_>) {
    let once = CallContext::with_id(format!("put-{}", Uuid::new_v4().simple()).parse().expect("an id"));
    let first = ends.near.put_bundle(&once, &put("shop", b"one")).await.expect("accepted");
    let again = ends.near.put_bundle(&once, &put("shop", b"one")).await.expect("accepted");
    assert_eq!((first.version, &again), (1, &first), "a retry has the same job");
    let executed = ends.far.executed().into_iter().filter(|done| *done == once.id).count();
    assert_eq!(executed, 1);
    // Another call with the same content changes nothing, and says so.
    let other = ends.near.put_bundle(&cx(), &put("shop", b"one")).await.expect("unchanged");
    assert_eq!((other.outcome, other.version, other.job), (PutOutcome::Unchanged, 1, first.job));
    let next = ends.near.put_bundle(&cx(), &put("shop", b"two")).await.expect("accepted");
    assert_eq!((next.outcome, next.version), (PutOutcome::Accepted, 2));
    let lower = PutBundleRequest { version: Some(1), ..put("shop", b"three") };
    let refused = ends.near.put_bundle(&cx(), &lower).await.expect_err("a lower version is refused");
    assert_eq!((refused.code, refused.effect), (Code::Conflict, Effect::None));
}

pub(super) async fn operations_arrive_and_answer_a_job(ends: Ends<'_>) {
    put_shop(ends).await;
    let (bundle, reason) = (name("shop"), Some("because «so»".to_owned()));
    let request = PauseBundleRequest { bundle: bundle.clone(), reason: reason.clone() };
    let paused = ends.near.pause_bundle(&cx(), &request).await.expect("accepted").job;
    seen_once(ends, &Seen::PauseBundle { request });
    let request = ResumeBundleRequest { bundle: bundle.clone(), reason: None };
    ends.near.resume_bundle(&cx(), &request).await.expect("accepted");
    seen_once(ends, &Seen::ResumeBundle { request });
    let request = RetryBundleRequest {
        bundle: bundle.clone(),
        workloads: vec![workload("App/web"), workload("File/zwölf")],
    };
    ends.near.retry_bundle(&cx(), &request).await.expect("accepted");
    seen_once(ends, &Seen::RetryBundle { request });
    for (dry_run, force) in [(true, false), (false, true)] {
        let request = DeleteBundleRequest { bundle: bundle.clone(), reason: reason.clone(), dry_run, force };
        let answer = ends.near.delete_bundle(&cx(), &request).await.expect("accepted");
        assert_eq!(answer.job.is_some(), !dry_run);
        seen_once(ends, &Seen::DeleteBundle { request });
    }
    let request = GetJobRequest { job: paused, after: 0, limit: None };
    let job = ends.near.get_job(&cx(), &request).await.expect("the job").job;
    assert_eq!((job.kind, job.bundle, job.reason), (JobKind::Pause, Some(bundle), reason));
}

pub(super) async fn what_there_is_not_is_not_found(ends: Ends<'_>) {
    fn code<T>(result: Result<T, CallError>) -> Option<(Code, Effect, bool)> {
        result.err().map(|error| (error.code, error.effect, error.message.contains("`gone`")))
    }
    let (near, bundle) = (ends.near, name("gone"));
    let missing = Some((Code::NotFound, Effect::None, true));
    let reason = None;
    let get = GetBundleRequest { bundle: bundle.clone(), version: None };
    assert_eq!(code(near.get_bundle(&cx(), &get).await), missing);
    let status = BundleStatusRequest { bundle: bundle.clone(), after: None, limit: None };
    assert_eq!(code(near.bundle_status(&cx(), &status).await), missing);
    let changes = BundleChangesRequest { bundle: bundle.clone(), after: 0, limit: None };
    assert_eq!(code(near.bundle_changes(&cx(), &changes).await), missing);
    let pause = PauseBundleRequest { bundle: bundle.clone(), reason: reason.clone() };
    assert_eq!(code(near.pause_bundle(&cx(), &pause).await), missing);
    let resume = ResumeBundleRequest { bundle: bundle.clone(), reason: reason.clone() };
    assert_eq!(code(near.resume_bundle(&cx(), &resume).await), missing);
    let retry = RetryBundleRequest { bundle: bundle.clone(), workloads: Vec::new() };
    assert_eq!(code(near.retry_bundle(&cx(), &retry).await), missing);
    for dry_run in [true, false] {
        let delete =
            DeleteBundleRequest { bundle: bundle.clone(), reason: reason.clone(), dry_run, force: false };
        assert_eq!(code(near.delete_bundle(&cx(), &delete).await), missing);
    }
    let job = JobId::new(Uuid::nil());
    let refused = near.get_job(&cx(), &GetJobRequest { job, after: 0, limit: None }).await;
    assert_eq!(refused.expect_err("there is no such job").code, Code::NotFound);
    let refused = near.watch_job(&cx(), &WatchJobRequest { job, after: 0 }).await.map(|_| ());
    assert_eq!(refused.expect_err("there is no such job").code, Code::NotFound);
    let refused = near.cancel_job(&cx(), &CancelJobRequest { job, reason }).await;
    assert_eq!(refused.expect_err("there is no such job").code, Code::NotFound);
}

pub(super) async fn lists_come_in_pages(ends: Ends<'_>) {
    for bundle in ["c", "a", "b"] {
        ends.near.put_bundle(&cx(), &put(bundle, b"kind: App")).await.expect("accepted");
    }
    let _ = ends.far.take_seen();
    let request = ListBundlesRequest { after: None, limit: Some(2) };
    let page = ends.near.list_bundles(&cx(), &request).await.expect("a page");
    let names = |bundles: &[towline_protocol::bundle::BundleSummary]| {
        bundles.iter().map(|bundle| bundle.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((names(&page.bundles), &page.next), (vec!["a".to_owned(), "b".to_owned()], &Some(name("b"))));
    seen_once(ends, &Seen::ListBundles { request });
    let rest = ListBundlesRequest { after: page.next, limit: Some(2) };
    let rest = ends.near.list_bundles(&cx(), &rest).await.expect("a page");
    assert_eq!((names(&rest.bundles), rest.next), (vec!["c".to_owned()], None));
    let request = ListJobsRequest {
        bundle: Some(name("b")),
        states: vec![JobState::Done, JobState::Superseded],
        after: None,
        limit: Some(10),
    };
    let _ = ends.far.take_seen();
    let jobs = ends.near.list_jobs(&cx(), &request).await.expect("a page");
    assert_eq!((jobs.jobs.len(), jobs.next), (1, None));
    seen_once(ends, &Seen::ListJobs { request });
    let request = ListJobsRequest { limit: Some(2), ..ListJobsRequest::default() };
    let page = ends.near.list_jobs(&cx(), &request).await.expect("a page");
    assert_eq!((page.jobs.len(), page.next.is_some()), (2, true));
    let rest = ListJobsRequest { after: page.next, ..request };
    let rest = ends.near.list_jobs(&cx(), &rest).await.expect("a page");
    assert_eq!((rest.jobs.len(), rest.next), (1, None));
    let newest_first: Vec<_> = page.jobs.into_iter().chain(rest.jobs).filter_map(|job| job.bundle).collect();
    assert_eq!(newest_first, [name("b"), name("a"), name("c")]);
}

pub(super) async fn status_of_six_thousand_field_by_field(ends: Ends<'_>) {
    put_shop(ends).await;
    let get = GetBundleRequest { bundle: name("shop"), version: None };
    let mut summary = ends.near.get_bundle(&cx(), &get).await.expect("the bundle").summary;
    summary.description = "was wir verkaufen".to_owned();
    summary.applied = None;
    let other = ResultState::Other("brand_new".to_owned());
    summary.counts = BTreeMap::from([(ResultState::Ok, 5_998), (ResultState::Error, 1), (other, 1)]);
    let units = two_services().remove(0).units;
    let full = |n: usize| WorkloadStatus {
        id: workload(&format!("App/web-{n}")),
        resource: Some(id(&format!("default/App/web-{n}"))),
        version: 1,
        result: WorkloadResult {
            state: ResultState::Error,
            message: Some("port 80 is taken".to_owned()),
            since_unix_ms: AT,
            job: summary.job,
        },
        observed: Some(Observation {
            status: ServiceStatus::Degraded,
            reason: Some("1 of 2 units".to_owned()),
            units: units.clone(),
            age_ms: 1_234,
        }),
        drift: Some(Drift {
            message: "1 unit is missing".to_owned(),
            mending: true,
            since_unix_ms: AT,
            age_ms: 99,
        }),
        retry: Some(Retry { attempts: 3, in_ms: 4_321 }),
    };
    let bare =
        |n: usize| WorkloadStatus { resource: None, observed: None, drift: None, retry: None, ..full(n) };
    let workloads = (0..6_000).map(|n| if n % 2 == 0 { full(n) } else { bare(n) }).collect();
    let next = Some(workload("App/web-5999"));
    let status = BundleStatusResponse { summary, workloads, next };
    ends.far.set_bundle_status(&name("shop"), status.clone());
    let _ = ends.far.take_seen();
    let request =
        BundleStatusRequest { bundle: name("shop"), after: Some(workload("App/w")), limit: Some(6_000) };
    let answer = ends.near.bundle_status(&cx(), &request).await.expect("the status");
    assert_eq!(answer.workloads.len(), 6_000);
    assert!(answer == status, "the status differs: {:?}", answer.workloads.first());
    seen_once(ends, &Seen::BundleStatus { request });
}

pub(super) async fn the_record_of_a_bundle_comes_in_order(ends: Ends<'_>) {
    let job = put_shop(ends).await.job;
    let change = |seq: u64| ChangeRecord {
        seq,
        at_unix_ms: AT + seq,
        version: 1,
        workload: seq.is_multiple_of(2).then(|| workload("App/web")),
        state: if seq == 7 { ResultState::Other("brand_new".to_owned()) } else { ResultState::Init },
        message: seq.is_multiple_of(3).then(|| "why".to_owned()),
        job: job.filter(|_| seq.is_multiple_of(5)),
    };
    let changes: Vec<_> = (1..=30).map(change).collect();
    ends.far.set_bundle_changes(&name("shop"), changes.clone());
    let request = BundleChangesRequest { bundle: name("shop"), after: 4, limit: Some(10) };
    let page = ends.near.bundle_changes(&cx(), &request).await.expect("a page");
    assert_eq!((page.changes.as_slice(), page.next), (changes.get(4..14).unwrap_or_default(), Some(14)));
    seen_once(ends, &Seen::BundleChanges { request });
    let request = BundleChangesRequest { bundle: name("shop"), after: 14, limit: None };
    let rest = ends.near.bundle_changes(&cx(), &request).await.expect("a page");
    assert_eq!((rest.changes.as_slice(), rest.next), (changes.get(14..).unwrap_or_default(), None));
}

pub(super) async fn jobs_field_by_field(ends: Ends<'_>) {
    let mut expected = job(JobState::Failed);
    expected.ended_unix_ms = Some(AT + 2);
    let records: Vec<_> = (1..=12).map(|seq| record(seq, JobState::Running)).collect();
    ends.far.add_job(expected.clone(), records.clone());
    let request = GetJobRequest { job: expected.id, after: 3, limit: Some(5) };
    let answer = ends.near.get_job(&cx(), &request).await.expect("the job");
    assert_eq!((&answer.job, answer.next), (&expected, Some(8)));
    assert_eq!(answer.records.as_slice(), records.get(3..8).unwrap_or_default());
    seen_once(ends, &Seen::GetJob { request });
    let bare = Job {
        bundle: None,
        version: None,
        request: None,
        reason: None,
        started_unix_ms: None,
        message: None,
        errors: BTreeMap::new(),
        ..job(JobState::Pending)
    };
    ends.far.add_job(bare.clone(), Vec::new());
    let answer = ends.near.list_jobs(&cx(), &ListJobsRequest::default()).await.expect("jobs");
    assert_eq!(answer.jobs, [bare.clone(), expected]);
    let request = CancelJobRequest { job: bare.id, reason: Some("changed my mind".to_owned()) };
    let _ = ends.far.take_seen();
    let cancelled = ends.near.cancel_job(&cx(), &request).await.expect("cancelled").job;
    assert_eq!(cancelled, Job { state: JobState::Cancelled, records: 1, ..bare });
    seen_once(ends, &Seen::CancelJob { request: request.clone() });
    let again = ends.near.cancel_job(&cx(), &request).await.expect_err("it has ended");
    assert_eq!((again.code, again.effect), (Code::Conflict, Effect::None));
}

pub(super) async fn a_watch_is_in_order_and_ends(ends: Ends<'_>) {
    let watched = job(JobState::Running);
    let first: Vec<_> = (1..=2_500).map(|seq| record(seq, JobState::Running)).collect();
    ends.far.add_job(watched.clone(), first.clone());
    let request = WatchJobRequest { job: watched.id, after: 500 };
    let mut stream = ends.near.watch_job(&cx(), &request).await.expect("the watch opens");
    let mut arrived = Vec::new();
    while arrived.len() < 2_000 {
        arrived.push(stream.next().await.expect("the job has not ended").expect("a record"));
    }
    assert!(arrived.as_slice() == first.get(500..).unwrap_or_default(), "records came in another order");
    seen_once(ends, &Seen::WatchJob { request });
    for seq in 2_501..=2_503 {
        let state = if seq == 2_503 { JobState::Failed } else { JobState::Running };
        ends.far.add_record(watched.id, record(seq, state.clone()));
        let next = tokio::time::timeout(SOON, stream.next()).await.expect("the record comes while it is new");
        assert_eq!(next, Some(Ok(record(seq, state))));
    }
    let end = tokio::time::timeout(SOON, stream.next()).await.expect("the watch ends with the job");
    assert_eq!(end, None);
    // Whoever comes late sees the same, and the end.
    let late = WatchJobRequest { job: watched.id, after: 2_502 };
    let mut stream = ends.near.watch_job(&cx(), &late).await.expect("the watch opens");
    assert_eq!(stream.next().await, Some(Ok(record(2_503, JobState::Failed))));
    assert_eq!(stream.next().await, None);
    // And who has seen all of it is not kept waiting.
    let seen = WatchJobRequest { job: watched.id, after: 2_503 };
    let mut stream = ends.near.watch_job(&cx(), &seen).await.expect("the watch opens");
    let end = tokio::time::timeout(SOON, stream.next()).await.expect("the watch ends at once");
    assert_eq!(end, None);
}

pub(super) async fn capacity_and_addresses(ends: Ends<'_>) {
    let room = |total| Capacity { total, reserved: 500, used: Some(120), floor: 250 };
    let capacity = CapacityResponse {
        cpu_millis: room(4_000),
        memory_bytes: Capacity { used: None, ..room(8 << 30) },
        disk_bytes: room(1 << 40),
        bundles: 2,
        workloads: 6_000,
    };
    ends.far.set_capacity(capacity.clone());
    assert_eq!(ends.near.capacity(&cx()).await, Ok(capacity));
    seen_once(ends, &Seen::Capacity);
    let address = |port, bundle: Option<&str>| AddressInUse {
        address: "::1".to_owned(),
        port,
        protocol: "tcp".to_owned(),
        resource: id("default/App/wéb"),
        bundle: bundle.map(name),
        unit: bundle.map(|bundle| format!("{bundle}-1")),
    };
    let addresses = vec![address(80, Some("shop")), address(65_535, None)];
    ends.far.set_addresses(addresses.clone());
    assert_eq!(ends.near.addresses(&cx()).await, Ok(AddressesResponse { addresses }));
    seen_once(ends, &Seen::Addresses);
}

pub(super) async fn errors_of_bundles_keep_their_structure(ends: Ends<'_>) {
    let mut errors = map_of_errors();
    let newer = ItemError::new(Code::Other("brand_new".to_owned()), "from a newer agent");
    errors.insert("App/web".to_owned(), newer);
    let mut expected = error(Code::Invalid, "2 workloads are wrong").with_effect(Effect::Partial);
    expected.errors = errors;
    for method in Method::ALL {
        ends.far.fail(*method, Some(expected.clone()));
    }
    let (near, bundle, reason) = (ends.near, name("shop"), None);
    let expected = Some(expected);
    assert_eq!(near.put_bundle(&cx(), &put("shop", b"")).await.err(), expected);
    let delete =
        DeleteBundleRequest { bundle: bundle.clone(), reason: reason.clone(), dry_run: false, force: false };
    assert_eq!(near.delete_bundle(&cx(), &delete).await.err(), expected);
    let pause = PauseBundleRequest { bundle: bundle.clone(), reason: reason.clone() };
    assert_eq!(near.pause_bundle(&cx(), &pause).await.err(), expected);
    let resume = ResumeBundleRequest { bundle: bundle.clone(), reason: reason.clone() };
    assert_eq!(near.resume_bundle(&cx(), &resume).await.err(), expected);
    let retry = RetryBundleRequest { bundle: bundle.clone(), workloads: Vec::new() };
    assert_eq!(near.retry_bundle(&cx(), &retry).await.err(), expected);
    let get = GetBundleRequest { bundle: bundle.clone(), version: None };
    assert_eq!(near.get_bundle(&cx(), &get).await.err(), expected);
    assert_eq!(near.list_bundles(&cx(), &ListBundlesRequest::default()).await.err(), expected);
    let changes = BundleChangesRequest { bundle: bundle.clone(), after: 0, limit: None };
    assert_eq!(near.bundle_changes(&cx(), &changes).await.err(), expected);
    let status = BundleStatusRequest { bundle, after: None, limit: None };
    assert_eq!(near.bundle_status(&cx(), &status).await.err(), expected);
    let job = JobId::new(Uuid::nil());
    assert_eq!(near.get_job(&cx(), &GetJobRequest { job, after: 0, limit: None }).await.err(), expected);
    assert_eq!(near.list_jobs(&cx(), &ListJobsRequest::default()).await.err(), expected);
    assert_eq!(near.watch_job(&cx(), &WatchJobRequest { job, after: 0 }).await.err(), expected);
    assert_eq!(near.cancel_job(&cx(), &CancelJobRequest { job, reason }).await.err(), expected);
    assert_eq!(near.capacity(&cx()).await.err(), expected);
    assert_eq!(near.addresses(&cx()).await.err(), expected);
}
