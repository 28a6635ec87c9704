//! What must hold after all that killing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use towline_bus::{CallContext, Platform};
use towline_protocol::{
    JobId, Name,
    bundle::{
        BundlePhase, BundleStatusRequest, DeleteBundleRequest, GetBundleRequest, ListBundlesRequest,
        ResultState, ResumeBundleRequest,
    },
    job::{GetJobRequest, JobState, ListJobsRequest},
};

use crate::driver::open;

fn cx() -> CallContext {
    CallContext::new()
}

/// Opens the agent once more and compares: answers, record, host. Then deletes everything, and looks again.
pub(crate) fn whole(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let agent = open(dir).await;
        let platform = agent.platform();
        all_have_ended(platform.as_ref()).await;
        answered_are_remembered(platform.as_ref(), dir).await;
        let bundles = platform.list_bundles(&cx(), &ListBundlesRequest::default()).await.unwrap().bundles;
        for bundle in bundles.iter().filter(|bundle| bundle.phase == BundlePhase::Paused) {
            let request = ResumeBundleRequest { bundle: bundle.name.clone(), reason: None };
            platform.resume_bundle(&cx(), &request).await.unwrap();
        }
        all_have_ended(platform.as_ref()).await;
        let mut expected = BTreeSet::new();
        let mut units = BTreeMap::new();
        for bundle in bundles.iter().filter(|bundle| bundle.phase != BundlePhase::Deleting) {
            settled(platform.as_ref(), &bundle.name).await;
            let request = GetBundleRequest { bundle: bundle.name.clone(), version: None };
            let content = platform.get_bundle(&cx(), &request).await.unwrap().content;
            expect(std::str::from_utf8(&content).unwrap(), &mut expected, &mut units);
        }
        gone(platform.as_ref()).await;
        let found = names(&dir.join("host"));
        let told = {
            let jobs = platform.list_jobs(&cx(), &ListJobsRequest::default()).await.unwrap().jobs;
            let told: Vec<String> = jobs
                .iter()
                .take(20)
                .map(|job| {
                    format!(
                        "{} {:?} {:?} {:?} {:?}",
                        job.kind, job.bundle, job.version, job.state, job.message
                    )
                })
                .collect();
            told.join("\n")
        };
        assert_eq!(found, expected, "the newest jobs:\n{told}");
        let mut running: BTreeMap<String, usize> = BTreeMap::new();
        for unit in agent.direct().runtime().list() {
            *running.entry(unit.app.rsplit('/').next().unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!(running, units);
        for bundle in bundles {
            let request =
                DeleteBundleRequest { bundle: bundle.name, reason: None, dry_run: false, force: false };
            platform.delete_bundle(&cx(), &request).await.ok();
        }
        all_have_ended(platform.as_ref()).await;
        gone(platform.as_ref()).await;
        for kept in ["host", "data/units", "data/labels"] {
            assert_eq!(names(&dir.join(kept)), BTreeSet::new(), "{kept}");
        }
        assert_eq!(orphans(dir), 0);
        drop(platform);
        agent.close().await;
    });
}

/// Every job that there is has ended, with one terminal record, its last.
async fn all_have_ended(platform: &dyn Platform) {
    let open = ListJobsRequest { states: vec![JobState::Pending, JobState::Running], ..Default::default() };
    until("all jobs to end", async || platform.list_jobs(&cx(), &open).await.unwrap().jobs.is_empty()).await;
    for job in platform.list_jobs(&cx(), &ListJobsRequest::default()).await.unwrap().jobs {
        let request = GetJobRequest { job: job.id, after: 0, limit: Some(10_000) };
        let records = platform.get_job(&cx(), &request).await.unwrap().records;
        let terminal = records.iter().filter(|record| record.state.is_terminal()).count();
        assert_eq!(terminal, 1, "{job:?} {records:?}");
        assert!(records.last().unwrap().state.is_terminal());
        assert!(
            records.windows(2).all(|two| two.first().unwrap().seq + 1 == two.last().unwrap().seq),
            "{records:?}"
        );
    }
}

async fn answered_are_remembered(platform: &dyn Platform, dir: &Path) {
    let answers = fs::read_to_string(dir.join("answers")).unwrap_or_default();
    for job in answers.lines() {
        let request = GetJobRequest { job: job.parse::<JobId>().unwrap(), after: 0, limit: None };
        platform.get_job(&cx(), &request).await.unwrap();
    }
}

/// All workloads of the bundle are as they are to be, retries included.
async fn settled(platform: &dyn Platform, bundle: &Name) {
    let request = BundleStatusRequest { bundle: bundle.clone(), after: None, limit: None };
    until("a bundle to settle", async || {
        let status = platform.bundle_status(&cx(), &request).await.unwrap();
        status.workloads.iter().all(|workload| workload.result.state == ResultState::Ok)
            && status.workloads.iter().all(|workload| workload.retry.is_none())
    })
    .await;
}

/// What is to be deleted is.
async fn gone(platform: &dyn Platform) {
    until("deletions", async || {
        let bundles = platform.list_bundles(&cx(), &ListBundlesRequest::default()).await.unwrap().bundles;
        bundles.iter().all(|bundle| bundle.phase != BundlePhase::Deleting)
    })
    .await;
}

/// The files and the numbers of units that a content asks for.
fn expect(content: &str, paths: &mut BTreeSet<String>, units: &mut BTreeMap<String, usize>) {
    for document in content.split("---\n").filter(|document| !document.is_empty()) {
        let name = document.split("name: ").nth(1).unwrap().split('}').next().unwrap().to_owned();
        if document.contains("kind: Directory") {
            paths.insert(format!("{name}.d"));
        } else if document.contains("kind: File") {
            paths.insert(format!("{name}.f"));
        } else {
            let count = document.split("units: ").nth(1).unwrap();
            units.insert(name, count[..1].parse().unwrap());
        }
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Processes of this test's instance that still run.
fn orphans(dir: &Path) -> usize {
    let instance = dir.file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "t");
    let mark = format!("TOWLINE_INSTANCE=default/{instance}");
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let environments = entries.filter_map(|entry| fs::read(entry.path().join("environ")).ok());
    environments.filter(|text| text.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())).count()
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
