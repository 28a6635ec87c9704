//! What becomes of jobs, lanes and the engine when something panics.

use super::*;

impl Engine {
    /// Has one of its tasks panic.
    pub(crate) fn falls(&self) {
        self.inner.tasks.spawn("a task of a test", async { panic!("a test says so") });
    }
}

#[tokio::test]
async fn z_e4_a_manager_that_panics_fails_one_workload() {
    let rig = Rig::new().await;
    rig.script.panicking.lock().unwrap().push("a");
    let job = rig
        .done("shop", &[thing("a", ""), thing("b", ""), thing("c", "dependsOn: [Thing/a]")].concat())
        .await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.errors["Thing/a"].message.contains("panicked"), "{job:?}");
    assert_eq!(job.errors["Thing/c"].message, "dependency failed: Thing/a");
    assert_eq!(rig.states("shop").await["b"], ResultState::Ok);
    rig.script.panicking.lock().unwrap().clear();
    let retry = rig.engine.operation(&caller(), JobKind::Retry, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(retry.job).await.state, JobState::Done);
}

#[tokio::test]
async fn z_e12_a_pass_that_panics_ends_its_job_and_frees_its_lane() {
    let rig = Rig::new().await;
    rig.script.falls.store(true, Ordering::SeqCst);
    let job = rig.done("shop", &thing("a", "")).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.errors["shop"].message.contains("panicked in the middle of it"), "{job:?}");
    // Nor does a deletion by force forget what nobody tried to remove.
    let delete = DeleteBundleRequest { force: true, ..deletion() };
    let delete = rig.engine.delete(&caller(), delete).await.unwrap().job.unwrap();
    assert_eq!(rig.job_ended(delete).await.state, JobState::Failed);
    rig.until(|state| state.lanes.is_idle(&shop())).await;
    let wait = rig.engine.state().bundles[&shop()].due.unwrap().since(towline_bus::clock::now());
    assert!(wait > Duration::from_secs(30), "not over and over again: {wait:?}");
    rig.script.falls.store(false, Ordering::SeqCst);
    assert_eq!(rig.done("shop", &thing("a", "size: 2")).await.state, JobState::Done);
    assert_eq!(rig.states("shop").await["a"], ResultState::Ok);
    assert_eq!(rig.engine.stalled(towline_bus::clock::now()), None);
}

#[tokio::test]
async fn z_e12_an_engine_that_stopped_says_so_and_accepts_nothing() {
    let rig = Rig::new().await;
    rig.engine.falls();
    tokio::time::timeout(Duration::from_secs(30), rig.engine.stopped().cancelled()).await.unwrap();
    let told = rig.engine.stalled(towline_bus::clock::now()).unwrap();
    assert!(told.starts_with("the engine has stopped"), "{told}");
    let refused = rig.put("shop", &thing("a", "")).await.unwrap_err();
    assert_eq!((refused.code, refused.effect), (Code::Unavailable, Effect::None));
    let rig = rig.reopened("boot").await;
    assert_eq!(rig.done("shop", &thing("a", "")).await.version, Some(1), "the refused one left no trace");
}
