//! Bundles that fail, conflict, or are taken back.

use std::fs;

use towline_protocol::{
    Code, Effect,
    bundle::{
        BundleChangesRequest, BundlePhase, DeleteBundleRequest, PauseBundleRequest, PutBundleRequest,
        ResultState, ResumeBundleRequest, RetryBundleRequest,
    },
    job::{CancelJobRequest, JobKind, JobState, ListJobsRequest},
    platform::Definition,
};

use crate::bench::*;

#[tokio::test]
async fn z_e4_what_depends_on_a_failure_is_skipped_and_the_rest_goes_on() {
    let bench = Bench::new().await;
    fs::write(bench.path("conf"), "not ours").unwrap();
    let content = format!(
        "{}{}{}",
        bench.file("conf", "ours", ""),
        bench.app("web", "  dependsOn: [File/conf]\n"),
        bench.app("other", "")
    );
    let job = bench.done(content).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.errors["File/conf"].code, Code::Conflict);
    assert_eq!(job.errors["App/web"].message, "dependency failed: File/conf");
    assert_eq!(bench.states().await, ["App/other ok", "App/web error", "File/conf error"]);
    assert_eq!(fs::read_to_string(bench.path("conf")).unwrap(), "not ours");
    let status = bench.status().await;
    assert_eq!((status.summary.applied, status.workloads[2].retry.as_ref().unwrap().attempts), (None, 1));
    // Tried again by itself, once there is room.
    fs::remove_file(bench.path("conf")).unwrap();
    bench
        .until("the retry", async || bench.states().await == ["App/other ok", "App/web ok", "File/conf ok"])
        .await;
    bench.until("the version to hold", async || bench.status().await.summary.applied == Some(1)).await;
    bench.end().await;
}

#[tokio::test]
async fn z_e10_what_failed_is_tried_again_on_demand() {
    let bench = Bench::new().await;
    bench.done("---\napiVersion: towline/v1\nkind: App\nmetadata: {name: web}\nspec: {command: [no-such-program]}\n").await;
    assert_eq!(bench.states().await, ["App/web error"]);
    let retry = RetryBundleRequest { bundle: shop(), workloads: vec!["App/web".parse().unwrap()] };
    let job = bench.platform.retry_bundle(&cx(), &retry).await.unwrap().job;
    let (job, _) = bench.ended(job).await;
    assert_eq!((job.state, job.errors.len()), (JobState::Failed, 1));
    assert!(bench.status().await.workloads[0].retry.as_ref().unwrap().attempts >= 2);
    let unknown = RetryBundleRequest { bundle: shop(), workloads: vec!["App/none".parse().unwrap()] };
    assert_eq!(bench.platform.retry_bundle(&cx(), &unknown).await.unwrap_err().code, Code::NotFound);
    bench.end().await;
}

#[tokio::test]
async fn z_u6_an_update_that_fails_leaves_what_was_and_says_so() {
    let bench = Bench::new().await;
    bench.done(bench.app("web", "")).await;
    let job = bench
        .done("---\napiVersion: towline/v1\nkind: App\nmetadata: {name: web}\nspec: {command: [no-such-program]}\n")
        .await;
    assert_eq!(job.state, JobState::Failed);
    let status = bench.status().await;
    assert_eq!((status.summary.accepted, status.summary.applied), (2, Some(1)));
    let web = &status.workloads[0];
    assert_eq!((web.version, &web.result.state), (1, &ResultState::Ok));
    assert!(web.result.message.as_ref().unwrap().contains("no-such-program"), "{web:?}");
    assert!(bench.changes().await.contains(&"App/web unchanged".to_owned()));
    assert_eq!(web.observed.as_ref().unwrap().units.len(), 1);
    bench.end().await;
}

#[tokio::test]
async fn z_u6_an_update_that_could_not_be_undone_is_an_error() {
    let bench = Bench::new().await;
    let work = bench.path("work");
    fs::create_dir(&work).unwrap();
    let app = |units: u32| {
        let more =
            format!("  units: {units}\n  strategy: {{type: recreate}}\n  workingDir: {}\n", work.display());
        bench.app("web", &more).replace("sleep 1000", &format!("sleep 100{units}"))
    };
    bench.done(app(1)).await;
    fs::remove_dir(&work).unwrap();
    let job = bench.done(app(2)).await;
    assert_eq!(job.state, JobState::Failed);
    let web = bench.status().await.workloads.remove(0);
    assert_eq!((web.version, &web.result.state), (1, &ResultState::Error));
    let said = web.result.message.unwrap();
    assert!(said.contains("bringing back what was there before failed, too"), "{said}");
    assert!(bench.changes().await.contains(&"App/web error".to_owned()));
    bench.end().await;
}

/// Repair looks every two seconds.
#[tokio::test]
async fn z_p3_nothing_of_a_paused_bundle_runs_whatever_failed_of_it() {
    let bench = Bench::new().await;
    let work = bench.path("work");
    fs::create_dir(&work).unwrap();
    let app = bench.app("web", &format!("  units: 2\n  workingDir: {}\n", work.display()));
    bench.done(app.clone()).await;
    fs::remove_dir(&work).unwrap();
    let units = bench.agent.direct().runtime().units_of("default/App/web");
    let shim = rustix::process::Pid::from_raw(units[0].state.shim.unwrap().0).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let again = PutBundleRequest { force: true, ..bench.request(app) };
    let lost = || bench.agent.direct().runtime().list().iter().any(|unit| unit.state.final_state);
    bench.until("the loss to be seen", async || lost()).await;
    let put = bench.platform.put_bundle(&cx(), &again).await.unwrap();
    assert_eq!(bench.ended(put.job.unwrap()).await.0.state, JobState::Failed);
    assert_eq!(bench.states().await, ["App/web error"]);
    let pause = PauseBundleRequest { bundle: shop(), reason: None };
    let paused = bench.platform.pause_bundle(&cx(), &pause).await.unwrap();
    assert_eq!(bench.ended(paused.job).await.0.state, JobState::Done);
    let running = |bench: &Bench| {
        bench.agent.direct().runtime().list().iter().filter(|unit| !unit.state.final_state).count()
    };
    assert_eq!((bench.states().await, running(&bench)), (vec!["App/web paused".to_owned()], 0));
    assert!(bench.status().await.workloads[0].result.message.is_some(), "why it failed is still told");
    fs::create_dir(&work).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!((running(&bench), bench.journal().len()), (0, 2));
    // Nor by the next agent.
    let bench = bench.reopened().await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!((running(&bench), bench.journal().len()), (0, 2));
    let resume = ResumeBundleRequest { bundle: shop(), reason: None };
    let resumed = bench.platform.resume_bundle(&cx(), &resume).await.unwrap();
    assert_eq!(bench.ended(resumed.job).await.0.state, JobState::Done);
    assert_eq!(running(&bench), 2);
    bench.end().await;
}

#[tokio::test]
async fn z_u1_what_is_wrong_is_refused_whole() {
    let bench = Bench::new().await;
    let both = |other: &str| format!("{}{other}", bench.app("web", ""));
    let table = [
        (both(&bench.app("web", "")), "found App/web again"),
        (bench.app("Web", ""), "metadata.name"),
        (
            both(&bench.app("api", "  dependsOn: [App/none]\n")),
            "found App/none, allowed are workloads of the same",
        ),
        (bench.app("web", "  dependsOn: [App/web]\n"), "found a circle of App/web"),
        (both(&bench.app("api", "  colour: red\n")), "document 2: spec.colour"),
        ("kind: Nothing\napiVersion: towline/v1\nmetadata: {name: a}\n".to_owned(), "allowed in a bundle"),
        ("apiVersion: towline/v1\nkind: Bundle\nmetadata: {name: other}\n".to_owned(), "names bundle other"),
        (bench.directory("data", "  path2: x\n"), "spec.path2: found an unknown field"),
    ];
    for (content, expected) in table {
        let error = bench.put(content).await.unwrap_err();
        assert!(error.message.contains(expected), "{} lacks {expected}", error.message);
        assert_eq!((error.code, error.effect), (Code::Invalid, Effect::None));
    }
    let reserved = PutBundleRequest { bundle: "direct".parse().unwrap(), ..bench.request("") };
    assert_eq!(bench.platform.put_bundle(&cx(), &reserved).await.unwrap_err().code, Code::Invalid);
    assert!(bench.journal().is_empty());
    bench.done(bench.app("web", "")).await;
    let changed = bench.put(bench.directory("web", "")).await.unwrap_err();
    assert!(changed.message.contains("web was App and is Directory now"), "{}", changed.message);
    let lower = PutBundleRequest { version: Some(1), ..bench.request(bench.app("web", "  units: 2\n")) };
    assert_eq!(bench.platform.put_bundle(&cx(), &lower).await.unwrap_err().code, Code::Conflict);
    assert_eq!(bench.status().await.summary.accepted, 1);
    bench.end().await;
}

#[tokio::test]
async fn one_owner_for_each_resource() {
    let bench = Bench::new().await;
    let web = bench.app("web", "");
    let apply = |content: String| Definition {
        id: "default/App/web".parse().unwrap(),
        definition: content.trim_start_matches("---\n").to_owned().into(),
        is_async: false,
    };
    let context = cx();
    bench.platform.apply(&context, &[apply(web.clone())]).await.unwrap();
    let jobs = bench.platform.list_jobs(&cx(), &ListJobsRequest::default()).await.unwrap().jobs;
    assert_eq!((jobs[0].kind.clone(), jobs[0].state.clone()), (JobKind::Apply, JobState::Done));
    assert_eq!(jobs[0].request, Some(context.id.clone()));
    let record = BundleChangesRequest { bundle: "direct".parse().unwrap(), after: 0, limit: None };
    let record = bench.platform.bundle_changes(&cx(), &record).await.unwrap().changes;
    assert_eq!((record.len(), record[0].job), (1, Some(jobs[0].id)));
    let error = bench.put(web.clone()).await.unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(error.message.contains("default/App/web was brought here by apply"), "{}", error.message);
    let adopt = PutBundleRequest { adopt: true, ..bench.request(web.clone()) };
    let put = bench.platform.put_bundle(&cx(), &adopt).await.unwrap();
    let (job, _) = bench.ended(put.job.unwrap()).await;
    assert_eq!(job.state, JobState::Done, "{:?}", job.errors);
    assert_eq!(bench.journal(), ["web"], "it runs on");
    assert!(bench.platform.export(&cx()).await.unwrap().is_empty());
    let error = bench.platform.apply(&cx(), &[apply(web.clone())]).await.unwrap_err();
    let error = &error.errors["default/App/web"];
    assert_eq!(
        (error.code.clone(), error.message.as_str()),
        (Code::Conflict, "default/App/web is of bundle shop")
    );
    let other = PutBundleRequest { bundle: "other".parse().unwrap(), ..bench.request(web) };
    let error = bench.platform.put_bundle(&cx(), &other).await.unwrap_err();
    assert!(error.message.contains("default/App/web is of bundle shop"), "{}", error.message);
    bench.end().await;
}

#[tokio::test]
async fn z_s2_a_directory_is_shared_if_each_bundle_says_so() {
    let bench = Bench::new().await;
    let shared = bench.directory("common", "  shared: true\n");
    bench.done(shared.clone()).await;
    let of_other =
        |content: String| PutBundleRequest { bundle: "other".parse().unwrap(), ..bench.request(content) };
    let error = bench.platform.put_bundle(&cx(), &of_other(bench.directory("common", ""))).await.unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    let put = bench.platform.put_bundle(&cx(), &of_other(shared)).await.unwrap();
    assert_eq!(bench.ended(put.job.unwrap()).await.0.state, JobState::Done);
    for (bundle, left) in [("shop", true), ("other", false)] {
        let delete = DeleteBundleRequest::new(bundle.parse().unwrap());
        let job = bench.platform.delete_bundle(&cx(), &delete).await.unwrap().job.unwrap();
        assert_eq!(bench.ended(job).await.0.state, JobState::Done);
        assert_eq!(bench.path("common").exists(), left);
    }
    bench.end().await;
}

#[tokio::test]
async fn z_e9_a_deletion_is_done_when_everything_is_gone() {
    let bench = Bench::new().await;
    bench
        .done(format!(
            "{}{}",
            bench.directory("data", ""),
            bench.app("web", "  dependsOn: [Directory/data]\n")
        ))
        .await;
    // A mount point cannot be removed; without the right to mount one, a label that is not readable does.
    let labels: Vec<_> =
        fs::read_dir(bench.dir.path().join("labels")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let label = fs::read(&labels[0]).unwrap();
    fs::write(&labels[0], "torn").unwrap();
    let delete =
        DeleteBundleRequest { reason: Some("enough".to_owned()), ..DeleteBundleRequest::new(shop()) };
    let job = bench.platform.delete_bundle(&cx(), &delete).await.unwrap().job.unwrap();
    let (job, _) = bench.ended(job).await;
    assert_eq!((job.state, job.errors.len()), (JobState::Failed, 1));
    let status = bench.status().await;
    assert_eq!((status.summary.phase, status.workloads.len()), (BundlePhase::Deleting, 1));
    assert_eq!(bench.states().await, ["Directory/data error"]);
    fs::write(&labels[0], label).unwrap();
    bench.until("the rest to go", async || bench.status().await.summary.phase == BundlePhase::Deleted).await;
    assert!(!bench.path("data").exists());
    bench.end().await;
}

#[tokio::test]
async fn t_p9_a_job_that_is_taken_back_undoes_what_it_did() {
    let bench = Bench::new().await;
    let first = bench.file("conf", "one", "");
    bench.done(first).await;
    // It does not come up, and is not given up: a rolling update waits for it to stay up.
    let slow = format!(
        "{}{}{}",
        bench.file("conf", "two", ""),
        bench.directory("data", ""),
        (0..20).map(|number| bench.app(&format!("a{number}"), "  units: 20\n")).collect::<String>()
    );
    let put = bench.put(slow).await.unwrap();
    let job = put.job.unwrap();
    bench.until("it to begin", async || bench.path("data").exists()).await;
    let cancel = CancelJobRequest { job, reason: Some("not now".to_owned()) };
    bench.platform.cancel_job(&cx(), &cancel).await.unwrap();
    let (job, records) = bench.ended(job).await;
    assert_eq!(job.state, JobState::Cancelled, "{records:?}");
    assert_eq!(fs::read_to_string(bench.path("conf")).unwrap(), "one");
    assert!(!bench.path("data").exists());
    assert_eq!(bench.states().await, ["File/conf ok"]);
    assert!(bench.agent.direct().runtime().list().is_empty());
    let again = bench.platform.cancel_job(&cx(), &CancelJobRequest { job: job.id, reason: None }).await;
    assert_eq!(again.unwrap_err().code, Code::Conflict);
    bench.end().await;
}

#[tokio::test]
async fn z_e11_what_a_monitor_gave_up_stays_visible_with_its_reason() {
    let bench = Bench::new().await;
    bench.done(bench.app("web", "")).await;
    let web = "App/web".parse().unwrap();
    let job = bench.agent.decommission(&shop(), &web, "it eats the host").await.unwrap().unwrap();
    assert_eq!(bench.ended(job).await.0.kind, JobKind::Decommission);
    assert_eq!(bench.states().await, ["App/web error"]);
    assert!(bench.agent.direct().runtime().list().is_empty());
    let status = bench.status().await;
    assert_eq!(status.workloads[0].result.message.as_deref(), Some("it eats the host"));
    let changes = bench.changes().await;
    // Given up already.
    assert_eq!(bench.agent.decommission(&shop(), &web, "again").await.unwrap(), None);
    // Repair looks every two seconds.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!((bench.changes().await, bench.journal().len()), (changes, 1));
    let retry = RetryBundleRequest { bundle: shop(), workloads: Vec::new() };
    let job = bench.platform.retry_bundle(&cx(), &retry).await.unwrap().job;
    assert_eq!(bench.ended(job).await.0.state, JobState::Done);
    assert_eq!(bench.journal().len(), 2);
    bench.end().await;
}

#[tokio::test]
async fn z_c2_what_drifts_is_mended_or_shown() {
    let bench = Bench::new().await;
    bench
        .done(format!("{}{}", bench.file("conf", "one", ""), bench.file("notes", "one", "  drift: report\n")))
        .await;
    fs::write(bench.path("conf"), "edited").unwrap();
    fs::write(bench.path("notes"), "edited").unwrap();
    bench.until("the repair", async || fs::read_to_string(bench.path("conf")).unwrap() == "one").await;
    bench
        .until("the report", async || {
            let status = bench.status().await;
            status.workloads[1].drift.as_ref().is_some_and(|drift| drift.message.contains("other content"))
        })
        .await;
    assert_eq!(fs::read_to_string(bench.path("notes")).unwrap(), "edited");
    bench.end().await;
}

/// Looked at every five minutes, unless somebody asks.
#[tokio::test]
async fn f_c3_a_retry_looks_at_the_files_of_apps_at_once() {
    let bench = Bench::new().await;
    let app = |name: &str, drift: &str| {
        let files = format!("  files: [{{path: {}, content: one}}]\n", bench.path(name).display());
        bench.app(name, &format!("  drift: {drift}\n{files}"))
    };
    bench.done(format!("{}{}", app("mended", "repair"), app("told", "report"))).await;
    let running =
        || bench.agent.direct().runtime().list().into_iter().map(|unit| unit.state.pid).collect::<Vec<_>>();
    let before = running();
    fs::write(bench.path("mended"), "edited").unwrap();
    fs::write(bench.path("told"), "edited").unwrap();
    let retry = RetryBundleRequest { bundle: shop(), workloads: Vec::new() };
    bench.platform.retry_bundle(&cx(), &retry).await.unwrap();
    bench.until("the repair", async || fs::read_to_string(bench.path("mended")).unwrap() == "one").await;
    let told = async || {
        let status = bench.status().await;
        let drift = status.workloads[1].drift.as_ref();
        drift.is_some_and(|drift| {
            !drift.mending && drift.message.contains("told of told-") && drift.since_unix_ms > 0
        })
    };
    bench.until("the report", told).await;
    assert_eq!(fs::read_to_string(bench.path("told")).unwrap(), "edited");
    assert_eq!(running(), before);
    bench.end().await;
}

#[tokio::test]
async fn what_is_to_go_is_neither_paused_nor_resumed() {
    let bench = Bench::new().await;
    bench.done(format!("{}{}", bench.directory("data", ""), bench.app("web", ""))).await;
    let delete = DeleteBundleRequest::new(shop());
    let pause = PauseBundleRequest { bundle: shop(), reason: None };
    let first = cx();
    let second = cx();
    let (deleted, paused) = tokio::join!(
        bench.platform.delete_bundle(&first, &delete),
        bench.platform.pause_bundle(&second, &pause)
    );
    let job = deleted.unwrap().job.unwrap();
    if let Ok(paused) = paused {
        // It came first.
        assert!(bench.ended(paused.job).await.0.state.is_terminal());
    }
    assert_eq!(bench.ended(job).await.0.state, JobState::Done);
    assert_eq!(bench.status().await.summary.phase, BundlePhase::Deleted);
    assert_eq!(bench.platform.pause_bundle(&cx(), &pause).await.unwrap_err().code, Code::NotFound);
    // Put again, it begins anew.
    let job = bench.done(bench.app("web", "")).await;
    assert_eq!((job.state, job.version), (JobState::Done, Some(2)));
    assert_eq!(bench.status().await.summary.phase, BundlePhase::Active);
    bench.end().await;
}

#[tokio::test]
async fn a_unit_that_is_lost_is_told_at_once_and_whether_it_is_mended() {
    let bench = Bench::new().await;
    bench.done(format!("{}{}", bench.app("quiet", "  drift: report\n"), bench.app("web", ""))).await;
    let lose = |app: &str| {
        let units = bench.agent.direct().runtime().units_of(&format!("default/App/{app}"));
        let shim = rustix::process::Pid::from_raw(units[0].state.shim.unwrap().0).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    };
    lose("quiet");
    // A second, five times: by the timer alone it may take ten.
    let told = async {
        loop {
            let drift = bench.status().await.workloads.remove(0).drift;
            match drift {
                Some(drift) => return drift,
                None => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    let drift = tokio::time::timeout(std::time::Duration::from_secs(5), told).await.unwrap();
    assert!(!drift.mending && drift.since_unix_ms > 0, "{drift:?}");
    lose("web");
    bench.until("the unit to be back", async || bench.journal().len() == 3).await;
    bench.until("that to be seen", async || bench.status().await.workloads[1].drift.is_none()).await;
    assert!(bench.status().await.workloads[0].drift.is_some(), "the other is only reported");
    bench.end().await;
}
