//! A bundle from its first version to its end.

use std::fs;

use towline_bus::CallContext;
use towline_protocol::{
    Code, Effect, RequestId,
    bundle::{
        BundlePhase, ChangeOp, DeleteBundleRequest, GetBundleRequest, ListBundlesRequest, PauseBundleRequest,
        PutBundleRequest, PutOutcome, ResumeBundleRequest,
    },
    job::{JobState, ListJobsRequest},
};

use crate::bench::*;

#[tokio::test]
async fn z_e3_a_bundle_comes_up_in_order_changes_and_goes_in_reverse() {
    let bench = Bench::new().await;
    let head = "apiVersion: towline/v1\nkind: Bundle\nmetadata: {name: shop, description: all of it}\n";
    let first = format!(
        "{head}{}{}{}{}",
        bench.app("web", "  dependsOn: [App/db, File/conf]\n"),
        bench.app("db", ""),
        bench.file("conf", "one", ""),
        bench.directory("data", "  size: 1Mi\n  mode: \"0750\"\n"),
    );
    let job = bench.done(first.clone()).await;
    assert_eq!((job.state, job.version), (JobState::Done, Some(1)), "{:?}", job.errors);
    assert_eq!(bench.states().await, ["App/db ok", "App/web ok", "Directory/data ok", "File/conf ok"]);
    assert_eq!(bench.changes().await[4..], ["Directory/data ok", "File/conf ok", "App/db ok", "App/web ok"]);
    assert_eq!(bench.journal(), ["db", "web"]);
    assert_eq!(fs::read_to_string(bench.path("conf")).unwrap(), "one");
    assert!(bench.path("data").is_dir());
    let status = bench.status().await;
    assert_eq!((status.summary.applied, status.summary.description.as_str()), (Some(1), "all of it"));
    assert_eq!(status.workloads[0].observed.as_ref().unwrap().units.len(), 1);

    let request = GetBundleRequest { bundle: shop(), version: None };
    let got = bench.platform.get_bundle(&cx(), &request).await.unwrap();
    assert_eq!(got.content, first);

    let second =
        format!("{head}{}{}", bench.app("web", "  dependsOn: [File/conf]\n"), bench.file("conf", "two", ""));
    let job = bench.done(second).await;
    assert_eq!((job.state, job.version), (JobState::Done, Some(2)), "{:?}", job.errors);
    assert_eq!(bench.states().await, ["App/web ok", "File/conf ok"]);
    assert_eq!(
        bench.changes().await[8..],
        ["App/db deleted", "Directory/data deleted", "File/conf ok", "App/web ok"]
    );
    assert!(!bench.path("data").exists());
    assert_eq!(fs::read_to_string(bench.path("conf")).unwrap(), "two");
    assert_eq!(bench.journal(), ["db", "web"], "what only depends on something else was not started again");

    let delete =
        DeleteBundleRequest { reason: Some("sold out".to_owned()), ..DeleteBundleRequest::new(shop()) };
    let deleted = bench.platform.delete_bundle(&cx(), &delete).await.unwrap();
    let order: Vec<&str> = deleted.changes.iter().map(|change| change.workload.as_str()).collect();
    assert_eq!(order, ["App/web", "File/conf"]);
    let (job, _) = bench.ended(deleted.job.unwrap()).await;
    assert_eq!(job.state, JobState::Done);
    assert_eq!(bench.changes().await[12..], ["App/web deleted", "File/conf deleted", "bundle deleted"]);
    assert!(!bench.path("conf").exists());
    assert!(
        bench.platform.list_bundles(&cx(), &ListBundlesRequest::default()).await.unwrap().bundles.is_empty()
    );
    assert_eq!(bench.status().await.summary.phase, BundlePhase::Deleted);
    assert!(bench.agent.direct().runtime().list().is_empty());
    bench.end().await;
}

#[tokio::test]
async fn z_e2_what_is_accepted_is_answered_before_it_is_done_and_done_once() {
    let bench = Bench::new().await;
    let request = bench.request(bench.app("web", ""));
    let context = CallContext::with_id("once".parse::<RequestId>().unwrap());
    let put = bench.platform.put_bundle(&context, &request).await.unwrap();
    assert_eq!((put.outcome.clone(), put.version), (PutOutcome::Accepted, 1));
    assert_eq!(put.changes[0].op, ChangeOp::Add);
    assert_eq!(
        bench.platform.put_bundle(&context, &request).await.unwrap(),
        put,
        "a repetition is told the same"
    );
    let other = PutBundleRequest { content: bench.app("api", "").into(), ..request.clone() };
    let error = bench.platform.put_bundle(&context, &other).await.unwrap_err();
    assert_eq!((error.code, error.effect), (Code::Conflict, Effect::None));
    let (job, records) = bench.ended(put.job.unwrap()).await;
    assert_eq!(job.request, Some(context.id.clone()));
    let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=u64::try_from(records.len()).unwrap()).collect::<Vec<u64>>());
    let again = bench.put(bench.app("web", "")).await.unwrap();
    assert_eq!((again.outcome, again.version, again.job), (PutOutcome::Unchanged, 1, put.job));
    let jobs = bench.platform.list_jobs(&cx(), &ListJobsRequest::default()).await.unwrap().jobs;
    assert_eq!(jobs.len(), 1);
    assert_eq!(bench.journal(), ["web"]);
    bench.end().await;
}

#[tokio::test]
async fn a_dry_run_shows_what_differs_and_does_nothing() {
    let bench = Bench::new().await;
    bench.done(format!("{}{}", bench.app("web", ""), bench.file("conf", "hunter2", ""))).await;
    let content = format!("{}{}", bench.app("web", "  units: 2\n"), bench.file("conf", "hunter3", ""));
    let request = PutBundleRequest { dry_run: true, ..bench.request(content) };
    let planned = bench.platform.put_bundle(&cx(), &request).await.unwrap();
    assert_eq!((planned.outcome, planned.version, planned.job), (PutOutcome::Planned, 2, None));
    let units: Vec<usize> = planned.changes.iter().map(|change| change.units.len()).collect();
    assert_eq!(units, [0, 1], "{:?}", planned.changes);
    let diffs: Vec<String> = planned.changes.into_iter().filter_map(|change| change.diff).collect();
    let digest = |content: &[u8]| blake3::hash(content).to_hex().chars().take(8).collect::<String>();
    let (old, new) = (digest(b"hunter2"), digest(b"hunter3"));
    let content =
        format!("- spec.content: (hidden, blake3 {old}…)\n+ spec.content: (hidden, blake3 {new}…)\n");
    assert_eq!(diffs, [content, "+ spec.units: 2\n".to_owned()]);
    assert_eq!(bench.status().await.summary.accepted, 1);
    assert_eq!(fs::read_to_string(bench.path("conf")).unwrap(), "hunter2");
    bench.end().await;
}

#[tokio::test]
async fn z_p3_a_paused_bundle_stays_so_until_it_is_resumed() {
    let bench = Bench::new().await;
    bench.done(format!("{}{}", bench.app("web", "  dependsOn: [App/db]\n"), bench.app("db", ""))).await;
    let pause = PauseBundleRequest { bundle: shop(), reason: Some("stock-taking".to_owned()) };
    let job = bench.platform.pause_bundle(&cx(), &pause).await.unwrap().job;
    assert_eq!(bench.ended(job).await.0.state, JobState::Done);
    assert_eq!(bench.states().await, ["App/db paused", "App/web paused"]);
    assert_eq!(bench.changes().await[4..], ["App/web paused", "App/db paused"]);
    // Repair looks every two seconds.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert!(bench.agent.direct().runtime().list().iter().all(|unit| unit.state.pid.is_none()));
    // What is put meanwhile waits.
    let job = bench
        .done(format!(
            "{}{}{}",
            bench.app("web", "  dependsOn: [App/db]\n"),
            bench.app("db", ""),
            bench.app("api", "")
        ))
        .await;
    assert_eq!(job.state, JobState::Done);
    assert_eq!(bench.states().await, ["App/api paused", "App/db paused", "App/web paused"]);
    let resume = ResumeBundleRequest { bundle: shop(), reason: None };
    let job = bench.platform.resume_bundle(&cx(), &resume).await.unwrap().job;
    let (job, _) = bench.ended(job).await;
    assert_eq!(job.state, JobState::Done, "{:?}", job.errors);
    assert_eq!(bench.states().await, ["App/api ok", "App/db ok", "App/web ok"]);
    assert_eq!(bench.journal()[..2], ["db", "web"]);
    let mut again = bench.journal()[2..].to_vec();
    again.sort();
    assert_eq!(again, ["api", "db", "web"]);
    assert_eq!(bench.status().await.summary.applied, Some(2));
    bench.end().await;
}

#[tokio::test]
async fn z_c1_what_does_not_fit_is_refused_and_what_fits_is_counted() {
    let bench = Bench::new().await;
    let total = bench.platform.capacity(&cx()).await.unwrap().disk_bytes;
    // Most of what there is: twice that would not fit, and an update of it does.
    let most = (total.total - total.floor) / 10 * 9;
    let directory = |size: u64, more: &str| bench.directory("data", &format!("  size: \"{size}\"\n{more}"));
    bench.done(directory(most, "")).await;
    let job = bench.done(directory(most, "  mode: \"0700\"\n")).await;
    assert_eq!(job.state, JobState::Done, "{:?}", job.errors);
    let capacity = bench.platform.capacity(&cx()).await.unwrap();
    assert_eq!((capacity.disk_bytes.reserved, capacity.bundles, capacity.workloads), (most, 1, 1));
    let other = PutBundleRequest {
        bundle: "other".parse().unwrap(),
        ..bench.request(bench.directory("more", &format!("  size: \"{most}\"\n")))
    };
    let error = bench.platform.put_bundle(&cx(), &other).await.unwrap_err();
    assert_eq!((error.code, error.effect), (Code::Conflict, Effect::None));
    assert!(error.message.starts_with(&format!("it needs {most} bytes of disk, and ")), "{}", error.message);
    bench.end().await;
}

#[tokio::test]
async fn addresses_in_use_are_told() {
    let bench = Bench::new().await;
    bench.done(bench.app("web", "  ports: [{name: http, port: 80}]\n")).await;
    let found = bench.platform.addresses(&cx()).await.unwrap().addresses;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address.as_str(), found[0].protocol.as_str()), ("127.0.0.1", "tcp"));
    assert_eq!((found[0].resource.as_str(), found[0].bundle.clone()), ("default/App/web", Some(shop())));
    bench.end().await;
}

#[tokio::test]
async fn z_c1_memory_and_processors_of_apps_are_promised_once_and_held_to() {
    let bench = Bench::new().await;
    let before = bench.platform.capacity(&cx()).await.unwrap();
    for found in [before.cpu_millis, before.memory_bytes, before.disk_bytes] {
        assert!(found.used.is_some() && found.total > found.floor, "{found:?}");
    }
    let most = before.memory_bytes.total - before.memory_bytes.floor;
    let app = |name: &str, memory: u64| {
        bench.app(name, &format!("  units: 2\n  resources: {{memory: \"{memory}\"}}\n"))
    };
    let error = bench.put(app("web", most / 2 + 1)).await.unwrap_err();
    assert_eq!((error.code, error.effect), (Code::Conflict, Effect::None));
    let asked = (most / 2 + 1) * 2;
    assert_eq!(error.message, format!("it needs {asked} bytes of memory, and {most} are free"));
    let job = bench.done(app("web", most / 4)).await;
    assert_eq!(job.state, JobState::Done, "{:?}", job.errors);
    let found = bench.platform.capacity(&cx()).await.unwrap().memory_bytes;
    assert_eq!(found.reserved, most / 4 * 2, "each unit counts");
    let services = bench.agent.direct().some_services(&["default/App/web".parse().unwrap()]);
    let limits = &services[0].metadata["limits"];
    assert!(limits.starts_with("memory by "), "{limits}");
    // What each may have of its own bundle's room is not asked of it twice; another bundle has the rest.
    let job = bench.done(app("web", most / 3)).await;
    assert_eq!(job.state, JobState::Done, "{:?}", job.errors);
    let other = PutBundleRequest { bundle: "other".parse().unwrap(), ..bench.request(app("api", most / 4)) };
    let error = bench.platform.put_bundle(&cx(), &other).await.unwrap_err();
    assert!(error.message.ends_with(&format!("{} are free", most - most / 3 * 2)), "{}", error.message);
    bench.end().await;
}

#[tokio::test]
async fn z_c1_what_two_bundles_share_is_counted_once() {
    let bench = Bench::new().await;
    let total = bench.platform.capacity(&cx()).await.unwrap().disk_bytes;
    let most = (total.total - total.floor) / 10 * 9;
    let shared = bench.directory("common", &format!("  size: \"{most}\"\n  shared: true\n"));
    bench.done(shared.clone()).await;
    let other = PutBundleRequest { bundle: "other".parse().unwrap(), ..bench.request(shared) };
    let put = bench.platform.put_bundle(&cx(), &other).await.unwrap();
    assert_eq!(bench.ended(put.job.unwrap()).await.0.state, JobState::Done);
    assert_eq!(bench.platform.capacity(&cx()).await.unwrap().disk_bytes.reserved, most);
    bench.end().await;
}
