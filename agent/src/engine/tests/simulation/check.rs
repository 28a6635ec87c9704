//! What must hold when all is well again.

use std::collections::BTreeSet;

use towline_protocol::{
    JobId,
    bundle::BundleChangesRequest,
    job::{Job, ListJobsRequest},
};

use super::{
    Asked, Op, Sim, look,
    model::{self, Stand},
    time_passes,
    world::{Made, Stands},
    *,
};

/// Opens the engine once more, lets it settle, and compares; with what is paused first, and then with all of it resumed.
pub(super) async fn whole(sim: &mut Sim) {
    let engine = sim.open().await;
    for index in 0..sim.asked.len() {
        if sim.asked[index].answer.is_none() {
            sim.answer(&engine, index).await;
        }
    }
    settle(&engine).await;
    let jobs = jobs(&engine).await;
    sim.tell(|| format!("{jobs:#?} {:#?}", engine.state().bundles));
    answers_are_kept(&sim.asked, &jobs);
    host_is(sim, &engine, &model::stands(&jobs)).await;
    for (bundle, stand) in model::stands(&jobs) {
        if stand.paused {
            engine.operation(&caller(), JobKind::Resume, bundle.clone(), None, Vec::new()).await.unwrap();
        }
        // What a monitor gave up on comes back when someone asks.
        if stand.version.is_some() {
            engine.operation(&caller(), JobKind::Retry, bundle, None, Vec::new()).await.unwrap();
        }
    }
    settle(&engine).await;
    let stands = model::stands(&self::jobs(&engine).await);
    assert!(stands.values().all(|stand| !stand.paused));
    host_is(sim, &engine, &stands).await;
    records_are_whole(&engine, &stands).await;
    engine.close().await;
}

/// Lets time pass until nothing is left to do.
async fn settle(engine: &Engine) {
    let begun = tokio::time::Instant::now();
    let mut quiet = 0;
    while quiet < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not settle: {:?}", engine.state());
        time_passes(engine);
        look(engine).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let state = engine.state();
        let idle = state.jobs.is_empty() && state.bundles.keys().all(|name| state.lanes.is_idle(name));
        let well = state.bundles.values().all(|bundle| bundle.due.is_none() && bundle.drift.is_empty());
        quiet = if idle && well { quiet + 1 } else { 0 };
    }
}

/// All jobs, the oldest first; each has ended, with one terminal record, its last, and nothing missing before it.
async fn jobs(engine: &Engine) -> Vec<Job> {
    let request = ListJobsRequest { limit: Some(1_000), ..Default::default() };
    let listed = engine.list_jobs(&request).await.unwrap();
    assert_eq!(listed.next, None);
    for job in &listed.jobs {
        let request = GetJobRequest { job: job.id, after: 0, limit: Some(1_000) };
        model::ended_once(job, &engine.job(&request).await.unwrap().records);
    }
    let mut jobs = listed.jobs;
    jobs.reverse();
    jobs
}

/// What was accepted is there, what was refused left nothing, and nothing was taken back that nobody asked for.
fn answers_are_kept(asked: &[Asked], jobs: &[Job]) {
    let ids: BTreeSet<JobId> = jobs.iter().map(|job| job.id).collect();
    // What a monitor asked for bears none.
    let bears: Vec<_> = jobs.iter().map(|job| job.request.clone()).filter(Option::is_some).collect();
    let requests: BTreeSet<_> = bears.iter().cloned().collect();
    assert_eq!(requests.len(), bears.len(), "a request made two jobs");
    let mut cancelled = BTreeSet::new();
    for Asked { request, op, answer } in asked {
        if let Op::Cancel(job) = op {
            cancelled.insert(*job);
        }
        match answer.as_ref().unwrap() {
            Ok(job) => assert!(ids.contains(&job.unwrap()), "{op:?} was accepted, and {job:?} is lost"),
            Err(error) if error.effect == Effect::None => {
                assert!(!requests.contains(&Some(request.clone())), "{op:?} was refused: {error:?}");
            }
            Err(_) => {}
        }
    }
    for (number, job) in jobs.iter().enumerate() {
        match job.state {
            JobState::Done => assert!(job.errors.is_empty(), "{job:?}"),
            JobState::Failed => assert!(!job.errors.is_empty(), "{job:?}"),
            JobState::Cancelled => assert!(cancelled.contains(&job.id), "nobody asked for it: {job:?}"),
            _ => {
                let newer = jobs[number + 1..].iter().any(|newer| newer.bundle == job.bundle);
                assert!(newer, "it gave way to nothing: {job:?}");
            }
        }
    }
}

/// The host has what was accepted last, and nothing else; and the engine knows it.
async fn host_is(sim: &Sim, engine: &Engine, stands: &BTreeMap<Name, Stand>) {
    let mut expected: BTreeMap<String, Made> = BTreeMap::new();
    let mut open = BTreeSet::new();
    for (name, stand) in stands {
        let row = engine.state().bundles.get(name).map(|bundle| bundle.row.clone());
        let Some(version) = stand.version else {
            let there = engine.state().bundles.get(name).map_or(0, |bundle| bundle.workloads.len());
            assert_eq!(there, 0, "{name} is to be gone: {row:?}");
            assert!(row.as_ref().is_none_or(|row| row.phase != BundlePhase::Deleting), "{row:?}");
            continue;
        };
        let phase = if stand.paused { BundlePhase::Paused } else { BundlePhase::Active };
        let row = row.unwrap();
        assert_eq!((&row.phase, row.target), (&phase, version), "{row:?}");
        let bytes = engine.content_of(name, version).await.unwrap().unwrap();
        let read = content::read(sim.world.managers(), name.clone(), bytes).await.unwrap();
        let ids: BTreeSet<_> = read.ids().into_iter().collect();
        let bundle = engine.state().bundles[name].clone();
        for row in bundle.workloads.values().filter(|row| row.given_up) {
            // Not before someone asks for it.
            open.insert(row.resource.to_string());
        }
        for row in bundle.in_order() {
            // Nor what depends on it, unless that was up before.
            let needs_open =
                |id| bundle.workloads.get(id).is_some_and(|needed| open.contains(needed.resource.as_str()));
            if row.result.message.as_deref().is_some_and(|text| text.starts_with("dependency failed"))
                && row.depends_on.iter().any(needs_open)
            {
                open.insert(row.resource.to_string());
            }
        }
        if stand.paused {
            // What was put since begins when it is resumed.
            open.extend(bundle.workloads.values().map(|row| row.resource.to_string()));
            let left = |row: &&rows::WorkloadRow| !row.given_up && row.result.state != ResultState::Paused;
            assert_eq!(bundle.workloads.values().find(left).map(|row| &row.id), None, "{bundle:?}");
            let made = sim.world.made();
            // Whatever its row says.
            let mut things = bundle.workloads.values().filter(|row| row.id.kind() == "Thing");
            let lives = |row: &&rows::WorkloadRow| {
                let stands = made.get(row.resource.as_str()).map(|made| made.stands);
                matches!(stands, Some(Stands::Up | Stands::Half))
            };
            assert_eq!(things.find(lives).map(|row| &row.id), None, "{bundle:?}");
            continue;
        }
        assert_eq!(bundle.workloads.keys().cloned().collect::<BTreeSet<_>>(), ids, "{bundle:?}");
        for member in read.members {
            let row = &bundle.workloads[&member.id];
            if open.contains(row.resource.as_str()) {
                continue;
            }
            assert_eq!((&row.result.state, row.holds), (&ResultState::Ok, Some(member.digest)), "{row:?}");
            let made = Made { definition: member.bytes, stands: Stands::Up };
            expected.insert(member.resource.to_string(), made);
        }
        if open.is_empty() {
            assert_eq!(bundle.row.applied, Some(version), "{bundle:?}");
        }
    }
    let mut made = sim.world.made();
    made.retain(|resource, _| !open.contains(resource));
    assert_eq!(made, expected, "{jobs:#?}", jobs = jobs(engine).await);
}

/// The record of each bundle has every result once.
async fn records_are_whole(engine: &Engine, stands: &BTreeMap<Name, Stand>) {
    for bundle in stands.keys().filter(|name| engine.state().bundles.contains_key(name)) {
        let request = BundleChangesRequest { bundle: bundle.clone(), after: 0, limit: Some(1_000) };
        let changes = engine.changes(&request).await.unwrap().changes;
        for pair in changes.windows(2) {
            let [first, second] = pair else { continue };
            assert!(first.seq < second.seq);
            let again = towline_protocol::bundle::ChangeRecord { seq: first.seq, ..second.clone() };
            assert_ne!(*first, again, "one result stands there twice");
        }
    }
}
