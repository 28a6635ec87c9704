//! The engine as a whole, over managers that do what a test says, and a disk that does so, too.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Semaphore;
use towline_protocol::{
    Code, Effect, ItemError, RequestId, WorkloadId,
    bundle::{
        BundlePhase, BundleStatusRequest, DeleteBundleRequest, PutBundleRequest, PutBundleResponse,
        PutOutcome, ResultState,
    },
    job::{GetJobRequest, Job},
    platform::ServiceStatus,
};

use super::{
    manager::{Known, Manager, Mend, Seen, Traits, Work},
    pipeline::{Step, Stop, Verdict},
    *,
};
use crate::{
    manifest::{Complaint, read_kind},
    runtime::process::Changes,
    store::faults::Faults,
};

mod cases;
mod panics;
mod passed_over;
mod simulation;
mod taken_back;
mod upkeep;

/// What the managers of a test do, and did.
#[derive(Clone)]
struct Script {
    done: Arc<Mutex<Vec<String>>>,
    /// The sizes of what was added and updated, where they have one.
    sizes: Arc<Mutex<Vec<u32>>>,
    /// Names whose operation fails.
    failing: Arc<Mutex<Vec<&'static str>>>,
    /// Names whose operation panics before it has steps.
    panicking: Arc<Mutex<Vec<&'static str>>>,
    /// Managers panic where nobody expects it.
    falls: Arc<AtomicBool>,
    /// Each operation takes one; there are plenty unless a test takes them away.
    turns: Arc<Semaphore>,
    /// What is seen of everything; all is well if none.
    seen: Arc<Mutex<Option<Seen>>>,
    /// Each look takes one, and gives it back.
    looking: Arc<Semaphore>,
    /// How often something was looked at.
    looks: Arc<AtomicUsize>,
    /// Why the managers are not ready, if they are not.
    unready: Arc<Mutex<Option<&'static str>>>,
    /// What leftovers were compared with last.
    known: Arc<Mutex<Option<Arc<Known>>>>,
    changes: Changes,
}

impl Script {
    fn new() -> Self {
        Self {
            done: Arc::default(),
            sizes: Arc::default(),
            looking: Arc::new(Semaphore::new(PLENTY)),
            failing: Arc::default(),
            panicking: Arc::default(),
            falls: Arc::default(),
            turns: Arc::new(Semaphore::new(PLENTY)),
            seen: Arc::default(),
            looks: Arc::default(),
            unready: Arc::default(),
            known: Arc::default(),
            changes: Changes::default(),
        }
    }
}

struct Fake {
    kind: &'static str,
    script: Script,
}

impl Fake {
    fn step(&self, verb: &'static str, work: Work) -> Vec<Step> {
        // Outside of the lock, which would be poisoned.
        let panics = self.script.panicking.lock().unwrap().iter().any(|name| *name == work.id.name());
        assert!(!panics, "a test says so");
        let script = self.script.clone();
        vec![Step::new(verb).forward(move |_| async move {
            script.turns.acquire().await.unwrap().forget();
            let name = work.id.name().to_owned();
            script.done.lock().unwrap().push(format!("{verb} {name}"));
            let text = String::from_utf8_lossy(&work.definition).into_owned();
            let size: Option<u32> =
                text.split_once("size: ").and_then(|(_, size)| size.split('}').next()?.parse().ok());
            script.sizes.lock().unwrap().extend(size);
            if script.failing.lock().unwrap().iter().any(|failing| *failing == name) {
                return Err(Stop::new(Verdict::Failed, Code::Cluster, format!("{name} fails")));
            }
            Ok(json!({"by": verb}))
        })]
    }
}

#[async_trait]
impl Manager for Fake {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn read(&self, document: &[u8]) -> Result<Traits, Vec<Complaint>> {
        let traits = read_kind(document, self.kind, |fields| {
            let mut number = |name| fields.get(name).number(0..=u32::MAX).unwrap_or(0);
            let needs = Room { disk: u64::from(number("size")), ..Room::default() };
            Some(Traits { needs, turn: Duration::from_secs(number("turn").into()), ..Traits::default() })
        });
        traits.map(|(_, traits)| traits)
    }

    fn can_update(&self) -> bool {
        self.kind == "Thing"
    }

    fn takes_turns(&self) -> bool {
        assert!(!self.script.falls.load(Ordering::SeqCst), "a test says so");
        false
    }

    fn provision(&self, work: Work) -> Vec<Step> {
        self.step("add", work)
    }

    fn update(&self, work: Work, _before: Work) -> Vec<Step> {
        self.step("update", work)
    }

    fn deprovision(&self, work: Work) -> Vec<Step> {
        self.step("remove", work)
    }

    async fn initialise(&self) -> Result<(), ItemError> {
        let why = *self.script.unready.lock().unwrap();
        why.map_or(Ok(()), |why| Err(ItemError::new(Code::Cluster, why)))
    }

    /// Only things can be stopped; volumes are marked.
    fn pause(&self, work: Work) -> Option<Vec<Step>> {
        (self.kind == "Thing").then(|| self.step("pause", work))
    }

    fn resume(&self, work: Work) -> Option<Vec<Step>> {
        (self.kind == "Thing").then(|| self.step("resume", work))
    }

    async fn observe(&self, works: Vec<Work>) -> Vec<Seen> {
        self.script.looks.fetch_add(works.len(), Ordering::SeqCst);
        let _look = self.script.looking.acquire().await.unwrap();
        let seen = self.script.seen.lock().unwrap().clone().unwrap_or(Seen {
            status: ServiceStatus::Ready,
            reason: None,
            units: Vec::new(),
            drift: None,
            mend: Mend::Nobody,
        });
        vec![seen; works.len()]
    }

    async fn clean_up(&self, known: Arc<Known>) -> Vec<String> {
        *self.script.known.lock().unwrap() = Some(known);
        Vec::new()
    }
}

struct Rig {
    dir: tempfile::TempDir,
    disk: Faults,
    script: Script,
    engine: Engine,
}

const PLENTY: usize = 100_000;
const KINDS: [&str; 2] = ["Volume", "Thing"];

impl Rig {
    async fn new() -> Self {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Faults::default());
        let script = Script::new();
        let engine = open(&dir, &disk, &script, &KINDS, "boot").await;
        Self { dir, disk, script, engine }
    }

    async fn reopened(self, boot: &str) -> Self {
        self.reopened_by(&KINDS, boot).await
    }

    /// By an agent with managers of `kinds`.
    async fn reopened_by(self, kinds: &[&'static str], boot: &str) -> Self {
        let Self { dir, disk, script, engine } = self;
        engine.inner.tasks.stop(Duration::from_millis(50)).await;
        drop(engine);
        let engine = open(&dir, &disk, &script, kinds, boot).await;
        Self { dir, disk, script, engine }
    }

    async fn put(&self, bundle: &str, content: &str) -> Result<PutBundleResponse, CallError> {
        let request = PutBundleRequest::new(bundle.parse().unwrap(), content.to_owned());
        self.engine.put(&caller(), request).await
    }

    async fn ended(&self, put: &PutBundleResponse) -> Job {
        let request = GetJobRequest { job: put.job.unwrap(), after: 0, limit: None };
        for _ in 0..1_000 {
            let job = self.engine.job(&request).await.unwrap().job;
            // In memory, too, which follows the store.
            if job.state.is_terminal() && !self.engine.state().jobs.contains_key(&job.id) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not end");
    }

    async fn done(&self, bundle: &str, content: &str) -> Job {
        let put = self.put(bundle, content).await.unwrap();
        self.ended(&put).await
    }

    /// Waits until the lane of the shop is at this.
    async fn works_on(&self, what: &str) {
        self.until(|state| state.at_work.get(&shop()).is_some_and(|beat| beat.what == what)).await;
    }

    fn took(&self) -> Vec<String> {
        std::mem::take(&mut self.script.done.lock().unwrap())
    }

    async fn states(&self, bundle: &str) -> BTreeMap<String, ResultState> {
        let request = BundleStatusRequest { bundle: bundle.parse().unwrap(), after: None, limit: None };
        let workloads = self.engine.status(&request).await.unwrap().workloads;
        workloads.into_iter().map(|workload| (workload.id.name().to_owned(), workload.result.state)).collect()
    }
}

fn shop() -> Name {
    "shop".parse().unwrap()
}

fn deletion() -> DeleteBundleRequest {
    DeleteBundleRequest::new(shop())
}

fn caller() -> Caller {
    Caller {
        request: RequestId::from_uuid(uuid::Uuid::new_v4()),
        pinned: None,
        cancelled: tokio_util::sync::CancellationToken::new(),
    }
}

async fn open(
    dir: &tempfile::TempDir,
    disk: &Faults,
    script: &Script,
    kinds: &[&'static str],
    boot: &str,
) -> Engine {
    let store = Arc::new(Store::open_with(dir.path(), disk.opener()).unwrap());
    let managers: Vec<Arc<dyn Manager>> = kinds
        .iter()
        .map(|kind| Arc::new(Fake { kind, script: script.clone() }) as Arc<dyn Manager>)
        .collect();
    let parts = Parts {
        registry: Registry::new(managers),
        data_dir: dir.path().to_owned(),
        calls: Calls::new(Arc::clone(&store), Tasks::new()),
        owners: Owners::default(),
        changes: script.changes.watch(),
        is_direct: Box::new(|_| false),
        direct_room: Box::new(Vec::new),
        applied: Box::new(|_, _| {}),
        mark: Mark::open(&dir.path().join("marks"), &"acme/site".parse().unwrap(), store.id(), None).unwrap(),
        durations: crate::metrics::durations(&prometheus::Registry::new()).unwrap(),
        store,
    };
    Engine::open(parts, boot).await.unwrap()
}

fn thing(name: &str, spec: &str) -> String {
    format!("---\napiVersion: towline/v1\nkind: Thing\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn volume(name: &str, size: u32) -> String {
    format!("---\napiVersion: towline/v1\nkind: Volume\nmetadata: {{name: {name}}}\nspec: {{size: {size}}}\n")
}

#[tokio::test]
async fn z_e3_the_larger_volume_comes_first_and_goes_last() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("web", ""), volume("small", 1), volume("large", 9)].concat()).await;
    assert_eq!(rig.took(), ["add large", "add small", "add web"]);
    let job = rig.engine.delete(&caller(), deletion()).await.unwrap().job;
    rig.ended(&PutBundleResponse {
        outcome: PutOutcome::Accepted,
        version: 1,
        digest: towline_protocol::ContentDigest::of(b""),
        job,
        changes: Vec::new(),
    })
    .await;
    assert_eq!(rig.took(), ["remove web", "remove small", "remove large"]);
}

#[tokio::test]
async fn z_u3_an_update_of_what_cannot_be_updated_is_refused_whole() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("web", ""), volume("data", 1)].concat()).await;
    let error = rig.put("shop", &[thing("web", "size: 2"), volume("data", 2)].concat()).await.unwrap_err();
    assert!(
        error.message.contains("Volume/data differs, but a Volume cannot be updated"),
        "{}",
        error.message
    );
    assert_eq!(error.effect, Effect::None);
    rig.took();
    rig.done("shop", &[thing("web", "size: 2"), volume("data", 1)].concat()).await;
    assert_eq!(rig.took(), ["update web"]);
}

#[tokio::test]
async fn z_u5_a_burst_ends_at_the_last_version() {
    let rig = Rig::new().await;
    let mut puts = Vec::new();
    for size in 1..=100 {
        puts.push(rig.put("shop", &thing("web", &format!("size: {size}"))).await.unwrap());
    }
    assert_eq!(rig.ended(puts.last().unwrap()).await.state, JobState::Done);
    // How long that takes, `towline-bench bundles-burst` says.
    let mut states = BTreeMap::new();
    for put in &puts {
        *states.entry(rig.ended(put).await.state).or_insert(0_usize) += 1;
    }
    let [done, superseded] =
        [JobState::Done, JobState::Superseded].map(|state| states.get(&state).copied().unwrap_or(0));
    assert_eq!((done + superseded, states.len() <= 2), (100, true), "{states:?}");
    assert_eq!(puts.last().unwrap().version, 100);
    assert_eq!(rig.engine.state().bundles[&shop()].row.applied, Some(100));
    let taken = rig.script.sizes.lock().unwrap().clone();
    assert_eq!((taken.len(), taken.last()), (done, Some(&100)));
    assert!(taken.is_sorted_by(|one, next| one < next), "never back to an older version: {taken:?}");
}

#[tokio::test]
async fn z_e8_on_a_full_disk_nothing_is_half_accepted() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("web", "")).await;
    rig.took();
    rig.disk.set_full(true);
    let error = rig.put("shop", &thing("web", "size: 2")).await.unwrap_err();
    assert_eq!((error.code, error.effect), (Code::Cluster, Effect::None));
    rig.disk.set_full(false);
    let accepted = rig.put("shop", &thing("web", "size: 2")).await.unwrap();
    assert_eq!(accepted.version, 2, "the refused one left no trace");
    rig.ended(&accepted).await;
    assert_eq!(rig.took(), ["update web"]);
}

#[tokio::test]
async fn work_waits_until_it_can_be_stored() {
    let rig = Rig::new().await;
    rig.script.turns.forget_permits(PLENTY);
    let put = rig.put("shop", &thing("web", "")).await.unwrap();
    rig.works_on("add Thing/web").await;
    rig.disk.set_full(true);
    rig.script.turns.add_permits(PLENTY);
    rig.until(|_| !rig.script.done.lock().unwrap().is_empty()).await;
    // Whatever is to be stored after it is refused.
    rig.put("other", &thing("b", "")).await.unwrap_err();
    assert_eq!(rig.engine.state().jobs.len(), 1, "it is done, but not recorded, so it has not ended");
    rig.disk.set_full(false);
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
    assert_eq!(rig.took(), ["add web"]);
}

#[tokio::test]
async fn z_e5_a_pass_that_was_cut_short_is_begun_again() {
    let rig = Rig::new().await;
    rig.script.turns.forget_permits(PLENTY);
    let put = rig.put("shop", &[thing("a", ""), thing("b", "")].concat()).await.unwrap();
    rig.works_on("add Thing/a").await;
    // The agent ends while the first is under way.
    rig.engine.inner.tasks.stopping().cancel();
    rig.script.turns.add_permits(PLENTY);
    rig.until(|state| state.at_work.is_empty()).await;
    assert_eq!(rig.took(), ["add a"]);
    let rig = rig.reopened("boot").await;
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
    assert_eq!(rig.took(), ["add b"]);
    assert_eq!(rig.states("shop").await["b"], ResultState::Ok);
}

#[tokio::test]
async fn z_e6_a_reboot_brings_up_what_was_up_and_no_other() {
    let rig = Rig::new().await;
    rig.script.failing.lock().unwrap().push("b");
    rig.done("shop", &[thing("a", ""), thing("b", ""), thing("c", "")].concat()).await;
    rig.took();
    let rig = rig.reopened("boot").await;
    // All that an agent begins with waits in its lanes when it is open.
    rig.until(|state| state.lanes.is_idle(&shop())).await;
    assert!(!rig.took().iter().any(|done| done.ends_with('a')), "a restart touches nothing");
    rig.script.failing.lock().unwrap().clear();
    let rig = rig.reopened("another boot").await;
    rig.until(|state| state.to_come_up.is_empty()).await;
    let took = rig.took();
    assert_eq!(took.iter().filter(|done| *done != "add b").collect::<Vec<_>>(), ["add a", "add c"]);
}

#[tokio::test]
async fn z_e12_a_lane_that_does_not_come_on_is_told() {
    let rig = Rig::new().await;
    rig.script.turns.forget_permits(PLENTY);
    rig.put("shop", &thing("web", "")).await.unwrap();
    rig.works_on("add Thing/web").await;
    let now = towline_bus::clock::now();
    assert_eq!(rig.engine.stalled(now), None);
    let late = rig.engine.stalled(now + drive::STALLED + Duration::from_secs(1)).unwrap();
    assert!(late.starts_with("bundle shop has not come on for") && late.ends_with("add Thing/web"), "{late}");
}

#[tokio::test]
async fn z_e12_what_declares_to_take_long_does_not_stall_until_then() {
    let rig = Rig::new().await;
    rig.script.turns.forget_permits(PLENTY);
    rig.put("shop", &thing("web", "turn: 600")).await.unwrap();
    rig.works_on("add Thing/web").await;
    let later = |turn| towline_bus::clock::now() + drive::STALLED + Duration::from_secs(turn);
    assert_eq!(rig.engine.stalled(later(500)), None);
    assert!(rig.engine.stalled(later(601)).is_some());
}

#[tokio::test]
async fn z_e13_a_listener_that_panics_or_sleeps_holds_up_nobody() {
    let rig = Rig::new().await;
    let seen: Arc<Mutex<Vec<BundleEvent>>> = Arc::default();
    let told = Arc::clone(&seen);
    rig.engine.on_change(move |event| told.lock().unwrap().push(event));
    rig.engine.on_change(|_| panic!("oops"));
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    rig.engine.on_change(move |_| drop(held.lock().map(|held| held.recv())));
    rig.done("shop", &thing("web", "")).await;
    rig.script.failing.lock().unwrap().push("web");
    rig.done("shop", &thing("web", "size: 2")).await;
    rig.until(|_| seen.lock().unwrap().len() == 2).await;
    let events: Vec<(BundleChange, bool)> =
        seen.lock().unwrap().iter().map(|event| (event.change, event.failed)).collect();
    assert_eq!(events, [(BundleChange::Created, false), (BundleChange::Updated, true)]);
    drop(release);
}

#[tokio::test]
async fn z_p2_a_kind_that_nobody_knows_is_refused() {
    let rig = Rig::new().await;
    let error = rig
        .put("shop", "apiVersion: towline/v1\nkind: App\nmetadata: {name: a}\nspec: {}\n")
        .await
        .unwrap_err();
    assert!(
        error.message.contains("found \"App\", allowed in a bundle of this agent are Bundle, Volume, Thing"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn z_p2_what_only_another_agent_knows_is_an_error_of_that_workload_alone() {
    let rig = Rig::new().await;
    rig.take_lane();
    let needy = thing("needy", "dependsOn: [Volume/data]");
    let put = rig.put("shop", &[volume("data", 1), thing("web", ""), needy].concat()).await.unwrap();
    let rig = rig.reopened_by(&["Thing"], "boot").await;
    let job = rig.ended(&put).await;
    assert_eq!((job.state, job.errors.len()), (JobState::Failed, 2));
    assert_eq!(job.errors["Volume/data"].code, Code::Unsupported);
    assert_eq!(job.errors["Thing/needy"].message, "dependency failed: Volume/data");
    assert_eq!(
        (rig.took(), rig.states("shop").await["web"].clone()),
        (vec!["add web".to_owned()], ResultState::Ok)
    );
    // What was up is left alone, and the rest of the bundle goes on.
    let rig = rig.reopened_by(&KINDS, "boot").await;
    let retry = rig.engine.operation(&caller(), JobKind::Retry, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(retry.job).await.state, JobState::Done);
    let rig = rig.reopened_by(&["Thing"], "boot").await;
    let retry = rig.engine.operation(&caller(), JobKind::Retry, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(retry.job).await.state, JobState::Done);
    assert!(rig.states("shop").await.into_values().all(|state| state == ResultState::Ok));
    assert_eq!(rig.took(), ["add data", "add needy"]);
}

#[tokio::test]
async fn z_s7_a_bundle_that_is_gone_can_be_put_again() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("web", "")).await;
    rig.engine.delete(&caller(), deletion()).await.unwrap();
    rig.until(|state| state.bundles[&shop()].row.phase == BundlePhase::Deleted).await;
    let error = rig.engine.delete(&caller(), deletion()).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    let shop: Name = "shop".parse().unwrap();
    assert_eq!(rig.engine.content_of(&shop, 1).await.unwrap(), None, "what it held may have been secret");
    let rig = rig.reopened("boot").await;
    let job = rig.done("shop", &thing("web", "")).await;
    assert_eq!((job.state, job.version), (JobState::Done, Some(2)));
    assert_eq!(rig.took(), ["add web", "remove web", "add web"]);
}
