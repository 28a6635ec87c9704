//! Jobs that are taken back, or have their place taken: what holds afterwards.

use super::*;

impl Rig {
    fn row(&self) -> rows::BundleRow {
        self.engine.state().bundles[&shop()].row.clone()
    }

    pub(super) async fn until(&self, what: impl Fn(&State) -> bool) {
        for _ in 0..2_000 {
            if what(&self.engine.state()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not come to that");
    }

    pub(super) async fn runs(&self, put: &PutBundleResponse) {
        let id = put.job.unwrap();
        self.until(|state| state.jobs.get(&id).is_some_and(|open| open.job.state == JobState::Running)).await;
    }
}

#[tokio::test]
async fn a_version_taken_back_leaves_the_one_before_it() {
    let rig = Rig::new().await;
    // It fails in part, so it was never carried out without an error, and is what is to hold all the same.
    rig.script.failing.lock().unwrap().push("b");
    rig.done("shop", &[thing("a", ""), thing("b", "")].concat()).await;
    rig.script.turns.forget_permits(PLENTY);
    let second = rig.put("shop", &[thing("a", "size: 2"), thing("b", ""), thing("c", "")].concat()).await;
    let second = second.unwrap();
    rig.runs(&second).await;
    rig.engine.cancel(&caller(), second.job.unwrap(), None).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&second).await.state, JobState::Cancelled);
    assert_eq!((rig.row().target, rig.row().void), (1, true));
    let there: Vec<String> = rig.states("shop").await.into_keys().collect();
    assert_eq!(there, ["a", "b"]);
}

#[tokio::test]
async fn a_version_taken_back_takes_its_order_and_its_room_with_it() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("a", "size: 1"), thing("b", "")].concat()).await;
    let rows = |rig: &Rig| rig.engine.state().bundles[&shop()].workloads.clone();
    let before = rows(&rig);
    rig.script.turns.forget_permits(PLENTY);
    let second = [thing("c", ""), thing("b", ""), thing("a", "size: 9, dependsOn: [Thing/c]")].concat();
    let second = rig.put("shop", &second).await.unwrap();
    rig.runs(&second).await;
    rig.engine.cancel(&caller(), second.job.unwrap(), None).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&second).await.state, JobState::Cancelled);
    assert_eq!(rows(&rig), before);
    let rig = rig.reopened("boot").await;
    assert_eq!(rows(&rig), before);
}

#[tokio::test]
async fn taking_the_first_version_back_leaves_nothing() {
    let rig = Rig::new().await;
    rig.script.turns.forget_permits(PLENTY);
    let put = rig.put("shop", &thing("a", "")).await.unwrap();
    rig.runs(&put).await;
    rig.engine.cancel(&caller(), put.job.unwrap(), None).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&put).await.state, JobState::Cancelled);
    assert_eq!((rig.row().target, rig.states("shop").await.len()), (0, 0));
    let retry = rig.engine.operation(&caller(), JobKind::Retry, shop(), None, Vec::new()).await.unwrap();
    let retried = rig.ended(&PutBundleResponse { job: Some(retry.job), ..put }).await;
    assert_eq!((retried.state, rig.row().applied), (JobState::Done, None));
}

#[tokio::test]
async fn a_deletion_taken_back_leaves_the_bundle_paused_as_it_was() {
    let rig = Rig::new().await;
    let put = rig.put("shop", &thing("a", "")).await.unwrap();
    rig.ended(&put).await;
    let ended = async |job| rig.ended(&PutBundleResponse { job: Some(job), ..put.clone() }).await;
    let pause = rig.engine.operation(&caller(), JobKind::Pause, shop(), None, Vec::new()).await.unwrap();
    ended(pause.job).await;
    rig.script.turns.forget_permits(PLENTY);
    let delete = rig.engine.delete(&caller(), deletion()).await.unwrap().job.unwrap();
    rig.works_on("remove Thing/a").await;
    rig.engine.cancel(&caller(), delete, None).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(ended(delete).await.state, JobState::Cancelled);
    assert_eq!(rig.row().phase, BundlePhase::Paused);
    assert_eq!(rig.states("shop").await.into_values().collect::<Vec<_>>(), [ResultState::Paused]);
    assert_eq!(rig.took(), ["add a", "pause a", "remove a", "add a", "pause a"]);
}

#[tokio::test]
async fn a_version_taken_back_lets_a_deletion_go_on() {
    let rig = Rig::new().await;
    let first = rig.put("shop", &[thing("a", ""), thing("b", "")].concat()).await.unwrap();
    rig.ended(&first).await;
    rig.script.failing.lock().unwrap().push("b");
    let delete = rig.engine.delete(&caller(), deletion()).await.unwrap().job;
    let deleted = rig.ended(&PutBundleResponse { job: delete, ..first }).await;
    assert_eq!((deleted.state, rig.row().phase), (JobState::Failed, BundlePhase::Deleting));
    rig.script.turns.forget_permits(PLENTY);
    let second = rig.put("shop", &thing("a", "")).await.unwrap();
    rig.runs(&second).await;
    assert_eq!(rig.row().phase, BundlePhase::Active);
    rig.engine.cancel(&caller(), second.job.unwrap(), None).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&second).await.state, JobState::Cancelled);
    assert_eq!(rig.row().phase, BundlePhase::Deleting);
    rig.script.failing.lock().unwrap().clear();
    rig.engine.operation(&caller(), JobKind::Retry, shop(), None, Vec::new()).await.unwrap();
    rig.until(|state| state.bundles[&shop()].row.phase == BundlePhase::Deleted).await;
    assert_eq!(rig.states("shop").await.len(), 0);
}

/// As it does where it was accepted after the deletion: what was accepted for it since is not refused afterwards.
#[tokio::test]
async fn a_version_taken_back_that_was_accepted_during_a_deletion_leaves_an_empty_bundle() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.script.turns.forget_permits(PLENTY);
    let delete = rig.engine.delete(&caller(), deletion()).await.unwrap().job.unwrap();
    rig.until(|state| state.bundles[&shop()].row.phase == BundlePhase::Deleting).await;
    let put = rig.put("shop", &thing("b", "")).await.unwrap();
    rig.script.turns.add_permits(1);
    assert_eq!(rig.job_ended(delete).await.state, JobState::Done);
    rig.runs(&put).await;
    rig.engine.cancel(&caller(), put.job.unwrap(), None).await.unwrap();
    let pause = rig.engine.operation(&caller(), JobKind::Pause, shop(), None, Vec::new()).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&put).await.state, JobState::Cancelled);
    assert_eq!(rig.job_ended(pause.job).await.state, JobState::Done);
    assert_eq!((rig.row().phase, rig.row().target), (BundlePhase::Paused, 0));
    let resume = rig.engine.operation(&caller(), JobKind::Resume, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(resume.job).await.state, JobState::Done);
    assert_eq!((rig.row().phase, rig.states("shop").await.len()), (BundlePhase::Active, 0));
}

#[tokio::test]
async fn a_version_that_a_deletion_took_the_place_of_can_be_put_again() {
    let rig = Rig::new().await;
    rig.script.turns.forget_permits(PLENTY);
    let first = rig.put("shop", &thing("a", "")).await.unwrap();
    rig.runs(&first).await;
    let second = rig.put("shop", &[thing("a", ""), thing("b", "")].concat()).await.unwrap();
    let delete = rig.engine.delete(&caller(), deletion()).await.unwrap().job.unwrap();
    rig.engine.cancel(&caller(), delete, None).await.unwrap();
    assert_eq!(rig.ended(&second).await.state, JobState::Superseded);
    rig.script.turns.add_permits(PLENTY);
    let again = rig.put("shop", &[thing("a", ""), thing("b", "")].concat()).await.unwrap();
    assert_eq!(
        (again.outcome.clone(), rig.ended(&again).await.state),
        (PutOutcome::Accepted, JobState::Done)
    );
}

#[tokio::test]
async fn deleting_and_cancelling_again_are_answered_as_the_first_time() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    let asked = caller();
    let first = rig.engine.delete(&asked, deletion()).await.unwrap();
    rig.until(|state| state.bundles[&shop()].row.phase == BundlePhase::Deleted).await;
    let again = rig.engine.delete(&asked, deletion()).await.unwrap();
    assert_eq!(again.job, first.job);

    rig.script.turns.forget_permits(PLENTY);
    let put = rig.put("shop", &thing("a", "")).await.unwrap();
    rig.runs(&put).await;
    let asked = caller();
    let first = rig.engine.cancel(&asked, put.job.unwrap(), None).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    rig.ended(&put).await;
    let again = rig.engine.cancel(&asked, put.job.unwrap(), None).await.unwrap();
    assert_eq!(again.job, first.job);
}

#[tokio::test]
async fn z_s2_what_a_waiting_version_adds_stays_its_own_while_others_work() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.script.turns.forget_permits(PLENTY);
    let workload = "Thing/a".parse().unwrap();
    rig.engine.state().lanes.submit(&shop(), Item::Repair { workload });
    rig.engine.kick();
    let second = rig.put("shop", &[thing("a", ""), thing("b", "")].concat()).await.unwrap();
    rig.script.turns.add_permits(1);
    rig.runs(&second).await;
    let error = rig.put("other", &thing("b", "")).await.unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    rig.script.turns.add_permits(PLENTY);
    rig.ended(&second).await;
}

#[tokio::test]
async fn a_cancel_that_comes_too_late_undoes_nothing_and_says_so() {
    let rig = Rig::new().await;
    rig.script.turns.forget_permits(PLENTY);
    let put = rig.put("shop", &thing("a", "")).await.unwrap();
    rig.runs(&put).await;
    // All is done, and only the end is to be stored.
    let gate = rig.engine.inner.gates.pass(&shop()).await;
    rig.script.turns.add_permits(PLENTY);
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.engine.state().jobs[&put.job.unwrap()].cancelled.cancel();
    drop(gate);
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
    assert_eq!(rig.took(), ["add a"]);
}

#[tokio::test]
async fn z_e8_what_a_slow_disk_takes_in_the_end_is_accepted_though_its_caller_left() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.took();
    rig.disk.set_stall(Duration::from_millis(1_000));
    let content = thing("a", "size: 2");
    let put = rig.put("shop", &content);
    tokio::time::timeout(Duration::from_millis(100), put).await.unwrap_err();
    rig.until(|state| state.bundles[&shop()].row.applied == Some(2)).await;
    rig.disk.set_stall(Duration::ZERO);
    assert_eq!(rig.took(), ["update a"]);
}

#[tokio::test]
async fn z_e6_a_reboot_that_was_cut_short_is_begun_again() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.script.turns.forget_permits(PLENTY);
    let rig = rig.reopened("another boot").await;
    rig.until(|state| !state.at_work.is_empty()).await;
    rig.took();
    let rig = rig.reopened("another boot").await;
    rig.script.turns.add_permits(PLENTY);
    rig.until(|state| state.at_work.is_empty()).await;
    assert_eq!(rig.took(), ["add a"]);
    let rig = rig.reopened("another boot").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.took(), Vec::<String>::new());
}

#[tokio::test]
async fn z_e8_work_waits_for_a_store_that_cannot_be_read() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    // Its lane is taken, so that what is accepted waits.
    rig.engine.state().lanes.submit(&shop(), Item::Retry);
    rig.engine.state().lanes.begin().unwrap();
    let put = rig.put("shop", &thing("a", "size: 2")).await.unwrap();
    // After a change that was not written the store is opened anew, and cannot be while the disk is full.
    rig.disk.set_full(true);
    rig.put("other", &thing("b", "")).await.unwrap_err();
    rig.engine.state().lanes.end(&shop());
    rig.engine.kick();
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.disk.set_full(false);
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
}

#[tokio::test]
async fn z_s7_a_retry_behind_a_deletion_finds_nothing_to_do() {
    let rig = Rig::new().await;
    let put = rig.put("shop", &thing("a", "")).await.unwrap();
    rig.ended(&put).await;
    rig.script.turns.forget_permits(PLENTY);
    rig.engine.delete(&caller(), deletion()).await.unwrap();
    rig.until(|state| state.bundles[&shop()].row.phase == BundlePhase::Deleting).await;
    let retry = rig.engine.operation(&caller(), JobKind::Retry, shop(), None, Vec::new()).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    let retried = rig.ended(&PutBundleResponse { job: Some(retry.job), ..put }).await;
    assert_eq!((retried.state, retried.errors.len()), (JobState::Done, 0));
    assert_eq!(rig.row().phase, BundlePhase::Deleted);
    assert_eq!(rig.took(), ["add a", "remove a"]);
}

type Held = Vec<Option<towline_protocol::ContentDigest>>;

impl Rig {
    fn held(&self) -> Held {
        self.engine.state().bundles[&shop()].workloads.values().map(|row| row.holds).collect()
    }
}

/// A rig whose second version was begun by an agent that ended in its middle, and waits behind a reboot; and what held
/// before.
async fn half_done() -> (Rig, PutBundleResponse, Held) {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("a", ""), thing("b", "")].concat()).await;
    let before = rig.held();
    rig.script.turns.forget_permits(PLENTY);
    let second = [thing("a", "size: 2"), thing("b", "size: 2"), thing("c", "")].concat();
    let put = rig.put("shop", &second).await.unwrap();
    rig.works_on("update Thing/a").await;
    rig.engine.inner.tasks.stopping().cancel();
    rig.script.turns.add_permits(1);
    rig.until(|state| state.bundles[&shop()].workloads[&"Thing/a".parse().unwrap()].version == 2).await;
    let rig = rig.reopened("another boot").await;
    rig.until(|state| state.at_work.contains_key(&shop()) && state.lanes.depth() > 0).await;
    assert_ne!(rig.held()[..2], before);
    (rig, put, before)
}

#[tokio::test]
async fn z_u7_what_an_earlier_agent_began_is_taken_back_whole() {
    let (rig, put, before) = half_done().await;
    rig.engine.cancel(&caller(), put.job.unwrap(), None).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&put).await.state, JobState::Cancelled);
    rig.until(|state| state.bundles[&shop()].row.applied == Some(1)).await;
    assert_eq!((rig.row().target, rig.held()), (1, before));
}

/// The agent ended before it could store that it was carried out.
#[tokio::test]
async fn z_u7_what_an_earlier_agent_did_and_did_not_record_is_taken_down() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.script.turns.forget_permits(PLENTY);
    let put = rig.put("shop", &[thing("a", ""), thing("b", "")].concat()).await.unwrap();
    rig.works_on("add Thing/b").await;
    rig.disk.set_full(true);
    rig.script.turns.add_permits(1);
    rig.until(|_| rig.script.done.lock().unwrap().last().is_some_and(|done| done == "add b")).await;
    rig.engine.inner.tasks.stopping().cancel();
    rig.until(|state| !state.at_work.contains_key(&shop())).await;
    rig.disk.set_full(false);
    let rig = rig.reopened("boot").await;
    rig.works_on("add Thing/b").await;
    rig.engine.cancel(&caller(), put.job.unwrap(), None).await.unwrap();
    rig.took();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&put).await.state, JobState::Cancelled);
    rig.until(|state| state.bundles[&shop()].row.applied == Some(1)).await;
    assert_eq!(rig.states("shop").await.into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(rig.took().last().map(String::as_str), Some("remove b"));
}

#[tokio::test]
async fn z_u5_what_an_earlier_agent_began_gives_way_to_nothing() {
    let (rig, put, _) = half_done().await;
    let third = rig.put("shop", &thing("a", "size: 3")).await.unwrap();
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
    assert_eq!(rig.ended(&third).await.state, JobState::Done);
    assert_eq!(rig.row().applied, Some(3));
}

impl Rig {
    /// The agent ends in the middle of what it does, once `holds`; another takes up what is left.
    async fn killed(self, holds: impl Fn(&State) -> bool) -> Self {
        self.engine.inner.tasks.stopping().cancel();
        self.script.turns.add_permits(1);
        self.until(holds).await;
        self.until(|state| state.at_work.is_empty()).await;
        self.script.turns.add_permits(PLENTY);
        self.reopened("boot").await
    }

    /// A second version of which nothing is done yet; and what held before.
    async fn second_begins(&self) -> (PutBundleResponse, Held) {
        self.done("shop", &[thing("a", ""), thing("b", "")].concat()).await;
        let before = self.held();
        self.took();
        self.script.turns.forget_permits(PLENTY);
        let second = [thing("a", "size: 2"), thing("b", "size: 2"), thing("c", "")].concat();
        let put = self.put("shop", &second).await.unwrap();
        self.until(|state| state.at_work.get(&shop()).is_some_and(|beat| beat.what == "update Thing/a"))
            .await;
        (put, before)
    }

    async fn takes_back(&self, put: &PutBundleResponse) {
        let reason = Some("not now".to_owned());
        self.engine.cancel(&caller(), put.job.unwrap(), reason).await.unwrap();
    }
}

fn has_second(name: &str, state: &State) -> bool {
    let id = format!("Thing/{name}").parse().unwrap();
    state.bundles[&shop()].workloads.get(&id).is_some_and(|row| row.version == 2)
}

#[tokio::test]
async fn z_u7_what_was_told_to_be_taken_back_is_by_the_next_agent() {
    let rig = Rig::new().await;
    let (put, before) = rig.second_begins().await;
    rig.takes_back(&put).await;
    let rig = rig.killed(|state| has_second("a", state)).await;
    let job = rig.ended(&put).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!(job.message.as_deref(), Some("taken back (not now); what was done of it is undone next"));
    rig.until(|state| state.bundles[&shop()].row.applied == Some(1)).await;
    assert_eq!((rig.row().target, rig.held()), (1, before));
    assert_eq!(rig.took(), ["update a", "update a"], "nothing more of it was done");
    assert_eq!(rig.engine.inner.store.read(|look| crate::store::jobs::notes(look, job.id)).unwrap(), None);
}

#[tokio::test]
async fn z_u7_a_taking_back_that_is_cut_short_is_gone_on_with() {
    let rig = Rig::new().await;
    let (put, before) = rig.second_begins().await;
    rig.script.turns.add_permits(2);
    rig.works_on("add Thing/c").await;
    rig.takes_back(&put).await;
    rig.script.turns.add_permits(1);
    rig.works_on("remove Thing/c").await;
    let rig = rig.killed(|state| state.bundles[&shop()].workloads.len() == 2).await;
    assert_eq!(rig.ended(&put).await.state, JobState::Cancelled);
    rig.until(|state| state.bundles[&shop()].row.applied == Some(1)).await;
    assert_eq!((rig.row().target, rig.held()), (1, before));
    assert_eq!(rig.took(), ["update a", "update b", "add c", "remove c", "update a", "update b"]);
}

#[tokio::test]
async fn z_u7_what_was_done_and_not_recorded_is_undone_as_well() {
    let rig = Rig::new().await;
    let (put, before) = rig.second_begins().await;
    rig.takes_back(&put).await;
    rig.disk.set_full(true);
    let done = Arc::clone(&rig.script.done);
    rig.script.turns.add_permits(1);
    rig.until(|_| !done.lock().unwrap().is_empty()).await;
    rig.engine.inner.tasks.stopping().cancel();
    rig.until(|state| state.at_work.is_empty()).await;
    rig.script.turns.add_permits(PLENTY);
    rig.disk.set_full(false);
    assert_eq!(rig.held()[..2], before, "the row knows nothing of it");
    let rig = rig.reopened("boot").await;
    assert_eq!(rig.ended(&put).await.state, JobState::Cancelled);
    rig.until(|state| state.bundles[&shop()].row.applied == Some(1)).await;
    assert_eq!(rig.took(), ["update a", "update a"]);
}

#[tokio::test]
async fn z_e9_force_is_of_the_job_that_it_was_asked_with() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("a", ""), thing("b", "")].concat()).await;
    rig.script.failing.lock().unwrap().push("b");
    rig.script.turns.forget_permits(PLENTY);
    let delete = rig.engine.delete(&caller(), deletion()).await.unwrap().job.unwrap();
    rig.works_on("remove Thing/b").await;
    let by_force = PutBundleRequest { force: true, ..PutBundleRequest::new(shop(), thing("a", "")) };
    let put = rig.engine.put(&caller(), by_force).await.unwrap();
    let fails = |state: &State| {
        state.bundles[&shop()].workloads[&"Thing/b".parse().unwrap()].result.state == ResultState::Error
    };
    let rig = rig.killed(fails).await;
    assert_eq!(rig.job_ended(delete).await.state, JobState::Failed);
    rig.ended(&put).await;
    // Nobody asked to forget it.
    assert_eq!(rig.states("shop").await["b"], ResultState::Error);
    let by_force = DeleteBundleRequest { force: true, ..deletion() };
    let delete = rig.engine.delete(&caller(), by_force).await.unwrap().job.unwrap();
    assert_eq!(rig.job_ended(delete).await.state, JobState::Failed);
    assert_eq!((rig.row().phase, rig.states("shop").await.len()), (BundlePhase::Deleted, 0));
}
