//! The named points: the agent is killed at each, fails wherever something can fail, and stalls.

use std::{fs, os::unix::process::ExitStatusExt as _, path::Path, sync::Arc, time::Duration};

use tokio::time::timeout;
use towline_agent::failpoints::{ALL, Failpoint};
use towline_bus::{CallContext, Platform as _};
use towline_protocol::{
    bundle::{ListBundlesRequest, PutBundleRequest},
    job::{GetJobRequest, JobState},
    session::HealthState,
};

use crate::{
    bus::Bus,
    check,
    place::{Place, Processes},
    random::Random,
    site::{Life, Site},
    stream::{self, Op},
    until,
};

/// How long a stream may take to come by a point. It does so within a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether an agent with this log came by an armed point, and had happen there what was said.
fn came_by(log: &Path, point: &str) -> bool {
    let said = fs::read_to_string(log).unwrap_or_default();
    let name = format!("name=\"{point}\"");
    said.lines().any(|line| line.contains("a test has it happen here") && line.contains(&name))
}

/// Drives an agent until it ends by itself, as a point says that is armed.
async fn killed(site: &mut Site, mut life: Life, random: &mut Random) {
    let lived = async {
        // The first point may be on the way to serve.
        if life.serves().await.is_err() {
            return;
        }
        let far = life.far.clone();
        tokio::select! {
            () = async {
                stream::ask_again(site, &far).await;
                stream::drive(site, &far, random).await;
            } => {}
            _ = life.child.wait() => {}
        }
    };
    timeout(PATIENCE, lived).await.unwrap();
    assert_eq!(life.child.wait().await.unwrap().signal(), Some(9));
    life.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_point_nothing_accepted_is_lost() {
    killed_at_each_point(&processes(), &["kill", "kill@3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_at_each_point_that_can_nothing_accepted_is_lost() {
    failing_at_each_point(&processes()).await;
}

fn processes() -> Arc<dyn Place> {
    Arc::new(Processes)
}

/// Whether a point is to be tried.
fn is_asked_for(point: &Failpoint) -> bool {
    std::env::var("TOWLINE_POINT").ok().is_none_or(|name| name == point.name)
}

/// At each point, a site whose agents are killed there, one after the other, as `kills` says.
#[expect(clippy::print_stderr, reason = "shown when it fails: which point it was")]
pub(crate) async fn killed_at_each_point(place: &Arc<dyn Place>, kills: &[&str]) {
    let bus = Arc::new(Bus::start().await);
    for (seed, point) in (100..).zip(ALL).filter(|(_, point)| is_asked_for(point)) {
        let (mut site, mut random) = (Site::new(&bus, place).await, Random::new(seed));
        for what in kills {
            eprintln!("{}={what}", point.name);
            let life = site.begin(&format!("{}={what}", point.name)).await;
            killed(&mut site, life, &mut random).await;
            assert!(came_by(&site.log_path(), point.name));
        }
        check::whole(site).await;
    }
}

/// At each point where something can fail, a site whose agent fails there.
#[expect(clippy::print_stderr, reason = "shown when it fails: which point it was")]
pub(crate) async fn failing_at_each_point(place: &Arc<dyn Place>) {
    let bus = Arc::new(Bus::start().await);
    let can_fail = ALL.into_iter().filter(|point| point.can_fail);
    for (seed, point) in (500..).zip(can_fail).filter(|(_, point)| is_asked_for(point)) {
        eprintln!("{}=error", point.name);
        let (mut site, mut random) = (Site::new(&bus, place).await, Random::new(seed));
        site.injected = true;
        let mut life = site.begin(&format!("{}=error@3", point.name)).await;
        life.serves().await.unwrap();
        let far = life.far.clone();
        let mut more = 5;
        let asking = async {
            while more > 0 {
                let op = stream::next(&site, &mut random);
                stream::ask(&mut site, &far, op).await;
                more -= u32::from(came_by(&site.log_path(), point.name));
            }
        };
        timeout(PATIENCE, asking).await.unwrap();
        life.kill().await;
        check::whole(site).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_stalls_is_told_and_holds_up_no_other() {
    let bus = Arc::new(Bus::start().await);
    let mut site = Site::new(&bus, &processes()).await;
    let mut life = site.begin("op.announced=stall@1").await;
    life.serves().await.unwrap();
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    let content = site.app("a-0", "v0", 1);
    stream::ask(&mut site, &life.far.clone(), Op::Put(a, content)).await;
    until("the lane to stall", async || came_by(&site.log_path(), "op.announced").then_some(())).await;
    let job = life
        .far
        .put_bundle(&CallContext::new(), &PutBundleRequest::new(b, site.app("b-0", "v0", 1)))
        .await
        .unwrap()
        .job;
    until("another bundle's job", async || {
        let request = GetJobRequest { job: job.unwrap(), after: 0, limit: None };
        let job = life.far.get_job(&CallContext::new(), &request).await.unwrap().job;
        if job.state == JobState::Done { Ok(()) } else { Err(job) }
    })
    .await;
    until("the hub to hear of it", async || {
        let health = life.hub.instance(&site.instance).unwrap().health;
        let told = health.detail.as_deref().is_some_and(|detail| {
            detail.starts_with("bundle a has not come on for") && detail.ends_with("add App/a-0")
        });
        if health.state == HealthState::Stalled && told { Ok(()) } else { Err(health) }
    })
    .await;
    life.kill().await;
    check::whole(site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stalls_accepts_nothing_and_loses_nothing() {
    let bus = Arc::new(Bus::start().await);
    let mut site = Site::new(&bus, &processes()).await;
    // The first is on the way to serve.
    let mut life = site.begin("store.before-commit=stall@4").await;
    life.serves().await.unwrap();
    let far = life.far.clone();
    let mut random = Random::new(900);
    let log = site.log_path();
    tokio::select! {
        () = stream::drive(&mut site, &far, &mut random) => {}
        () = until("the store to stall", async || came_by(&log, "store.before-commit").then_some(())) => {}
    }
    // One that nothing before it stands in the way of.
    let (c, content) = ("c".parse().unwrap(), site.app("c-0", "v0", 1));
    let asked = stream::ask(&mut site, &far, Op::Put(c, content));
    timeout(Duration::from_secs(1), asked).await.expect_err("what is not stored is not answered");
    // Who only looks is answered.
    far.list_bundles(&CallContext::new(), &ListBundlesRequest::default()).await.unwrap();
    life.kill().await;
    check::whole(site).await;
}
