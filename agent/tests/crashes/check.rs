//! What must hold after all that killing: answers, record and host are compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    path::Path,
};

use towline_bus::{CallContext, Platform as _, message_bus::Remote};
use towline_protocol::{
    JobId, Name,
    bundle::{
        BundlePhase, BundleStatusRequest, DeleteBundleRequest, GetBundleRequest, ListBundlesRequest,
        ResultState, ResumeBundleRequest, WorkloadStatus,
    },
    job::{GetJobRequest, Job, JobState, ListJobsRequest},
};

use crate::{
    journal,
    model::{self, Stand},
    site::{Asked, STILL, Site},
    stream::{self, BAD, Op},
    until,
};

fn cx() -> CallContext {
    CallContext::new()
}

/// Starts an agent once more and compares. Then deletes everything, and looks again.
pub(crate) async fn whole(mut site: Site) {
    let mut life = site.begin("").await;
    life.serves().await.unwrap();
    let far = life.far.clone();
    stream::ask_again(&mut site, &far).await;
    let jobs = all_have_ended(&far).await;
    answers_are_kept(&site, &jobs);
    let stands = model::stands(&jobs);
    let paused = phases_are(&far, &stands).await;
    settled(&far, &stands).await;
    host_is(&site, &far, &stands).await;
    for bundle in paused {
        let request = ResumeBundleRequest { bundle, reason: None };
        far.resume_bundle(&cx(), &request).await.unwrap();
    }
    let stands = model::stands(&all_have_ended(&far).await);
    settled(&far, &stands).await;
    host_is(&site, &far, &stands).await;
    let (instance, data) = (site.instance.to_string(), site.path().join("data"));
    same("units and helpers that do not run", &BTreeSet::new(), async || site.place.idle(&instance, &data))
        .await;
    never_touched(&site);
    for bundle in stands.keys() {
        // One that has gone already is not found.
        far.delete_bundle(&cx(), &DeleteBundleRequest::new(bundle.clone())).await.ok();
    }
    all_have_ended(&far).await;
    until("deletions", async || bundles(&far).await.is_empty().then_some(())).await;
    for kept in ["host", "data/units", "data/labels"] {
        assert_eq!(names(&site.path().join(kept)), BTreeSet::new(), "{kept}");
    }
    life.kill().await;
    let left = journal::left(&instance, &site.path().join("data/units"));
    assert_eq!(left, Vec::<i32>::new(), "processes that nobody knows of");
    let left = [site.place.running(&instance), site.place.idle(&instance, &data)];
    assert_eq!(left, [BTreeSet::new(), BTreeSet::new()], "what the runtime has of it");
    hooks_ran(site.path());
    let live: Vec<_> = journal::read(site.path()).into_iter().filter(journal::Incarnation::lives).collect();
    assert_eq!(live, []);
}

/// All jobs, the oldest first, when each has ended: with one terminal record, its last, and nothing missing before it.
async fn all_have_ended(far: &Remote) -> Vec<Job> {
    let open = ListJobsRequest { states: vec![JobState::Pending, JobState::Running], ..Default::default() };
    until("all jobs to end", async || {
        far.list_jobs(&cx(), &open).await.unwrap().jobs.is_empty().then_some(())
    })
    .await;
    let mut jobs = Vec::new();
    let mut request = ListJobsRequest { limit: Some(1_000), ..Default::default() };
    loop {
        let page = far.list_jobs(&cx(), &request).await.unwrap();
        jobs.extend(page.jobs);
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    for job in &jobs {
        let request = GetJobRequest { job: job.id, after: 0, limit: Some(1_000) };
        model::ended_once(job, &far.get_job(&cx(), &request).await.unwrap().records);
    }
    jobs.reverse();
    jobs
}

/// What was answered is there, ended as it may, and what was refused left nothing.
fn answers_are_kept(site: &Site, jobs: &[Job]) {
    let by_id: BTreeMap<JobId, &Job> = jobs.iter().map(|job| (job.id, job)).collect();
    let mut requests = BTreeSet::new();
    for job in jobs {
        assert!(requests.insert(job.request.clone()), "a request made two jobs: {job:?}");
    }
    let cancelled: BTreeSet<JobId> = site
        .asked
        .iter()
        .filter_map(|asked| match asked.op {
            Op::Cancel(job) => Some(job),
            _ => None,
        })
        .collect();
    for Asked { request, op, answer } in &site.asked {
        match answer.as_ref().unwrap() {
            Ok(Some(job)) => {
                let found =
                    by_id.get(job).unwrap_or_else(|| panic!("{op:?} was accepted, and {job} is lost"));
                assert!(found.state.is_terminal(), "{found:?}");
            }
            Ok(None) => panic!("{op:?} was answered without a job"),
            Err(error) => {
                assert!(!requests.contains(&Some(request.clone())), "{op:?} was refused: {error:?}")
            }
        }
    }
    let mut left = jobs.iter();
    while let Some(job) = left.next() {
        match job.state {
            JobState::Done => assert!(job.errors.is_empty(), "{job:?}"),
            JobState::Failed => {
                let expected = job.errors.keys().all(|workload| workload.ends_with(BAD));
                assert!(site.injected || (expected && !job.errors.is_empty()), "{job:?}");
            }
            JobState::Cancelled => assert!(cancelled.contains(&job.id), "nobody asked for it: {job:?}"),
            JobState::Superseded => {
                assert!(left.clone().any(|newer| newer.bundle == job.bundle), "by nothing: {job:?}");
            }
            _ => panic!("{job:?}"),
        }
    }
}

/// Every bundle that the jobs leave is there, and no other; returns those that are paused.
async fn phases_are(far: &Remote, stands: &BTreeMap<Name, Stand>) -> Vec<Name> {
    let listed = bundles(far).await;
    for (bundle, phase) in &listed {
        let stand = stands.get(bundle).cloned().unwrap_or_default();
        let expected = if stand.paused { BundlePhase::Paused } else { BundlePhase::Active };
        // One whose deletion failed is still on its way.
        assert!(
            *phase == expected || (stand.version.is_none() && *phase == BundlePhase::Deleting),
            "{bundle} {phase}, {stand:?}"
        );
    }
    let there: BTreeSet<&Name> = listed.keys().collect();
    for (bundle, _) in stands.iter().filter(|(_, stand)| stand.version.is_some()) {
        assert!(there.contains(bundle), "{bundle} is lost");
    }
    stands.iter().filter(|(_, stand)| stand.paused).map(|(bundle, _)| bundle.clone()).collect()
}

/// All workloads are as they are to be, retries included, but for those that cannot be.
async fn settled(far: &Remote, stands: &BTreeMap<Name, Stand>) {
    for (bundle, stand) in stands {
        let request = BundleStatusRequest { bundle: bundle.clone(), after: None, limit: None };
        until(&format!("bundle {bundle} to settle as {stand:?}"), async || {
            let status = far.bundle_status(&cx(), &request).await.unwrap();
            let is_good = |workload: &WorkloadStatus| match workload.result.state {
                ResultState::Error => !stand.paused && workload.id.as_str().ends_with(BAD),
                // Also what failed before: it begins when it is resumed.
                ResultState::Paused => stand.paused,
                ResultState::Ok => !stand.paused,
                _ => false,
            };
            if status.workloads.iter().all(is_good) { Ok(()) } else { Err(status) }
        })
        .await;
    }
}

/// The host bears what was accepted last, and nothing else.
async fn host_is(site: &Site, far: &Remote, stands: &BTreeMap<Name, Stand>) {
    let mut files: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut units: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut left_open = BTreeSet::new();
    for (bundle, stand) in stands {
        let Some(version) = stand.version else { continue };
        let request = GetBundleRequest { bundle: bundle.clone(), version: Some(version) };
        let content = far.get_bundle(&cx(), &request).await.unwrap().content;
        let content = String::from_utf8(content.to_vec()).unwrap();
        if stand.paused {
            // What it adds begins when it is resumed; what it has stays, but for units.
            left_open.insert(format!("{bundle}-"));
        } else {
            expect(&content, &mut files, &mut units);
        }
    }
    let known = |name: &String| !left_open.iter().any(|bundle| name.starts_with(bundle));
    same("files of the host", &files, async || {
        let mut found = on_host(&site.host());
        found.retain(|name, _| known(name));
        found
    })
    .await;
    same("units", &units, async || {
        let mut running = BTreeMap::new();
        for unit in journal::read(site.path()).into_iter().filter(journal::Incarnation::lives) {
            *running.entry((unit.app, unit.tag)).or_default() += 1;
        }
        running
    })
    .await;
    let instance = site.instance.to_string();
    let listed = async || -> BTreeSet<String> {
        let live = journal::read(site.path()).into_iter().filter(journal::Incarnation::lives);
        live.map(|unit| unit.unit).collect()
    };
    same("units that have a process", &listed().await, async || site.place.running(&instance)).await;
    let live = journal::read(site.path()).into_iter().filter(journal::Incarnation::lives);
    let hooked: BTreeSet<String> =
        live.filter(|unit| journal::has_hooks(&unit.app)).map(|unit| unit.unit).collect();
    // A start is over when the hook after it is.
    same("units with hooks that came to the end of their start", &hooked, async || {
        let hooks = journal::hooks(site.path());
        let is_over = |unit: &&String| {
            hooks.get(*unit).and_then(|hooks| hooks.last()).is_some_and(|last| last == "postStart")
        };
        hooked.iter().filter(is_over).cloned().collect()
    })
    .await;
}

/// Whatever has run was prepared, and tidied up after.
fn hooks_ran(dir: &Path) {
    let hooks = journal::hooks(dir);
    for unit in journal::read(dir).into_iter().filter(|unit| journal::has_hooks(&unit.app)) {
        let ran = hooks.get(&unit.unit).map(Vec::as_slice).unwrap_or_default();
        assert!(ran.first().is_some_and(|first| first == "preStart"), "{unit:?} {ran:?}");
        assert!(ran.iter().any(|hook| hook == "postStop"), "{unit:?} {ran:?}");
    }
}

/// What was put once was started once: agents came and went, and it ran on.
fn never_touched(site: &Site) {
    let all = journal::read(site.path());
    let still: Vec<_> = all.iter().filter(|unit| unit.app == STILL).collect();
    assert!(still.len() == 2 && still.iter().all(|unit| unit.lives()), "{still:?}");
    assert_eq!(site.place.runs(&site.instance.to_string(), STILL), site.still);
}

/// The files, with their content, and the numbers of units that a content asks for; a directory has no content.
fn expect(
    content: &str,
    files: &mut BTreeMap<String, Option<String>>,
    units: &mut BTreeMap<(String, String), usize>,
) {
    let between = |text: &str, start: &str, end: &str| -> Option<String> {
        Some(text.split_once(start)?.1.split(end).next()?.to_owned())
    };
    for document in content.split("---\n").filter(|document| !document.is_empty()) {
        let name = between(document, "name: ", "}").unwrap();
        if document.contains("kind: Directory") {
            files.insert(format!("{name}.d"), None);
        } else if name.ends_with(BAD) {
            assert!(document.contains("/missing/"));
        } else if document.contains("kind: File") {
            files.insert(format!("{name}.f"), between(document, "content: \"", "\""));
        } else {
            let tag = between(document, &format!(", {name}, "), "]").unwrap();
            let count = between(document, "units: ", "\n").unwrap().parse().unwrap();
            units.insert((name, tag), count);
        }
    }
}

fn on_host(dir: &Path) -> BTreeMap<String, Option<String>> {
    let read = |name: &String| fs::read_to_string(dir.join(name)).ok();
    names(dir).into_iter().map(|name| (name.clone(), read(&name))).collect()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

async fn bundles(far: &Remote) -> BTreeMap<Name, BundlePhase> {
    let listed = far.list_bundles(&cx(), &ListBundlesRequest::default()).await.unwrap().bundles;
    listed.into_iter().map(|bundle| (bundle.name, bundle.phase)).collect()
}

/// Waits until `look` finds `expected`. A unit writes a little later than it is started.
async fn same<T: PartialEq + Debug>(what: &str, expected: &T, look: impl AsyncFn() -> T) {
    let said = format!("{what} to be {expected:?}");
    until(&said, async || {
        let found = look().await;
        if found == *expected { Ok(()) } else { Err(found) }
    })
    .await;
}
