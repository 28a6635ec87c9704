//! The ancestor's cases of record and queries that need an engine as a whole.

use towline_protocol::{
    JobId,
    bundle::{BundleChangesRequest, ChangeRecord, GetBundleRequest, WorkloadStatus},
};

use super::*;

impl Rig {
    async fn changes(&self, bundle: &str) -> Vec<ChangeRecord> {
        let request = BundleChangesRequest { bundle: bundle.parse().unwrap(), after: 0, limit: None };
        self.engine.changes(&request).await.unwrap().changes
    }

    /// `name state` of each record, oldest first.
    async fn told(&self, bundle: &str) -> Vec<String> {
        let told = |record: &ChangeRecord| {
            let name = record.workload.as_ref().map_or("bundle", WorkloadId::name);
            format!("{name} {}", record.state)
        };
        self.changes(bundle).await.iter().map(told).collect()
    }

    pub(super) async fn workloads(&self, bundle: &str) -> Vec<WorkloadStatus> {
        let request = BundleStatusRequest { bundle: bundle.parse().unwrap(), after: None, limit: None };
        self.engine.status(&request).await.unwrap().workloads
    }

    /// Has the lane of a bundle taken until it is given back: what is accepted waits.
    pub(super) fn take_lane(&self) {
        let mut state = self.engine.state();
        state.lanes.submit(&shop(), Item::Retry);
        state.lanes.begin().unwrap();
    }

    pub(super) fn give_lane_back(&self) {
        self.engine.state().lanes.end(&shop());
        self.engine.kick();
    }

    pub(super) async fn job_ended(&self, job: JobId) -> Job {
        let put = PutBundleResponse {
            outcome: PutOutcome::Accepted,
            version: 1,
            digest: towline_protocol::ContentDigest::of(b""),
            job: Some(job),
            changes: Vec::new(),
        };
        self.ended(&put).await
    }
}

#[tokio::test]
async fn z_s1_workloads_begin_in_the_record_and_the_same_again_is_the_same_job() {
    let rig = Rig::new().await;
    let content = [thing("a", ""), thing("b", "")].concat();
    let first = rig.put("shop", &content).await.unwrap();
    rig.ended(&first).await;
    assert_eq!(rig.told("shop").await, ["a init", "b init", "a ok", "b ok"]);
    let records = rig.changes("shop").await;
    assert!(records.iter().all(|record| record.job == first.job && record.version == 1), "{records:?}");
    let again = rig.put("shop", &content).await.unwrap();
    assert_eq!((again.outcome, again.version, again.job), (PutOutcome::Unchanged, 1, first.job));
    assert_eq!((rig.changes("shop").await, rig.took().len()), (records, 2));
}

#[tokio::test]
async fn z_s3_what_was_removed_can_be_added_again_and_what_is_unknown_is_not_found() {
    let rig = Rig::new().await;
    let (one, both) = (thing("a", ""), [thing("a", ""), thing("b", "")].concat());
    for content in [&both, &one, &both] {
        assert_eq!(rig.done("shop", content).await.state, JobState::Done);
    }
    assert_eq!(rig.took(), ["add a", "add b", "remove b", "add b"]);
    assert_eq!(
        rig.told("shop").await,
        ["a init", "b init", "a ok", "b ok", "b deleted", "b init", "b ok"],
        "the record goes on"
    );
    let other: Name = "other".parse().unwrap();
    let status = BundleStatusRequest { bundle: other.clone(), after: None, limit: None };
    let changes = BundleChangesRequest { bundle: other.clone(), after: 0, limit: None };
    let delete = DeleteBundleRequest { bundle: other.clone(), ..deletion() };
    let pause = rig.engine.operation(&caller(), JobKind::Pause, other.clone(), None, Vec::new()).await;
    let codes = [
        rig.engine.status(&status).await.unwrap_err().code,
        rig.engine.changes(&changes).await.unwrap_err().code,
        rig.engine.delete(&caller(), delete).await.unwrap_err().code,
        pause.unwrap_err().code,
    ];
    assert_eq!(codes, [const { Code::NotFound }; 4]);
}

#[tokio::test]
async fn z_s5_what_holds_is_the_last_result_that_changed_something_and_the_record_has_all() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.script.failing.lock().unwrap().push("a");
    let job = rig.done("shop", &thing("a", "size: 2")).await;
    assert_eq!(job.state, JobState::Failed);
    let records = rig.changes("shop").await;
    assert_eq!(rig.told("shop").await, ["a init", "a ok", "a unchanged"]);
    let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(records[2].message.as_deref(), Some("a fails"));
    let a = &rig.workloads("shop").await[0];
    assert_eq!((&a.result.state, a.version), (&ResultState::Ok, 1), "the version before holds");
    // The record survives the agent as it is.
    let rig = rig.reopened("boot").await;
    assert_eq!(rig.changes("shop").await[..3], records);
}

#[tokio::test]
async fn z_s6_without_its_content_every_workload_of_a_bundle_is_an_error_that_says_so() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("a", ""), thing("b", "")].concat()).await;
    rig.take_lane();
    let put = rig.put("shop", &[thing("a", "size: 2"), thing("c", "")].concat()).await.unwrap();
    let lose = |transaction: &redb::WriteTransaction| rows::drop_contents(transaction, &shop(), None);
    rig.engine.inner.store.write_out(lose).await.unwrap();
    rig.give_lane_back();
    assert_eq!(rig.ended(&put).await.state, JobState::Failed);
    let text = "the content of version 2 is not kept any more";
    let workloads = rig.workloads("shop").await;
    let names: Vec<&str> = workloads.iter().map(|workload| workload.id.name()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for workload in &workloads {
        assert_eq!(workload.result.state, ResultState::Error);
        assert_eq!(workload.result.message.as_deref(), Some(text));
        assert!(workload.retry.is_some(), "{workload:?}");
    }
    let told = rig.told("shop").await;
    assert!(["a error", "b error", "c error"].iter().all(|error| told.contains(&(*error).to_owned())));
    let get = |bundle: &str| GetBundleRequest { bundle: bundle.parse().unwrap(), version: Some(2) };
    for bundle in ["shop", "other"] {
        assert_eq!(rig.engine.get(&get(bundle)).await.unwrap_err().code, Code::NotFound);
    }
    // Put again, all is well.
    let job = rig.done("shop", &[thing("a", ""), thing("c", "")].concat()).await;
    assert_eq!(job.state, JobState::Done, "{:?}", job.errors);
    assert!(rig.states("shop").await.into_values().eq([ResultState::Ok, ResultState::Ok]));
}

#[tokio::test]
async fn z_s9_capacity_counts_what_is_up_or_paused() {
    let rig = Rig::new().await;
    rig.script.failing.lock().unwrap().push("broken");
    for (bundle, name, size) in [("shop", "up", 3), ("halted", "still", 5), ("sick", "broken", 7)] {
        rig.done(bundle, &volume(name, size)).await;
    }
    let halted: Name = "halted".parse().unwrap();
    let pause = rig.engine.operation(&caller(), JobKind::Pause, halted.clone(), None, Vec::new()).await;
    rig.job_ended(pause.unwrap().job).await;
    let found = rig.engine.capacity().unwrap();
    assert_eq!((found.disk_bytes.reserved, found.bundles, found.workloads), (8, 2, 2));
    let others = capacity::promised(&rig.engine.state(), Some(&halted));
    let three = Room { disk: 3, ..Room::default() };
    assert_eq!(capacity::sum(&others), three, "without the bundle that is asked about");
}

#[tokio::test]
async fn z_e2_what_is_accepted_is_shown_as_init_before_its_lane_begins() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.took();
    rig.take_lane();
    let put = rig.put("shop", &[thing("a", "size: 2"), thing("b", "")].concat()).await.unwrap();
    let b = rig.workloads("shop").await.remove(1);
    assert_eq!(
        (b.id.name(), &b.result.state, b.version, b.result.job),
        ("b", &ResultState::Init, 2, put.job)
    );
    assert_eq!(rig.told("shop").await, ["a init", "a ok", "b init"]);
    let page = BundleStatusRequest { bundle: shop(), after: None, limit: Some(1) };
    let first = rig.engine.status(&page).await.unwrap();
    assert_eq!(
        (first.workloads.len(), first.next.map(|next| next.to_string())),
        (1, Some("Thing/a".to_owned()))
    );
    assert_eq!(first.summary.counts[&ResultState::Init], 1);
    assert_eq!(rig.took(), [] as [&str; 0]);
    // Also by the next agent, before it begins.
    rig.script.turns.forget_permits(PLENTY);
    let rig = rig.reopened("boot").await;
    assert_eq!(rig.workloads("shop").await[1].result.state, ResultState::Init);
    rig.script.turns.add_permits(PLENTY);
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
    assert_eq!(rig.told("shop").await, ["a init", "a ok", "b init", "a ok", "b ok"], "once");
}

#[tokio::test]
async fn z_p3_pausing_calls_who_can_and_marks_the_rest() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("web", ""), volume("data", 1)].concat()).await;
    rig.took();
    let data = |rig: &Rig| {
        let state = rig.engine.state();
        state.bundles[&shop()].workloads.values().map(|row| row.data["by"].clone()).collect::<Vec<_>>()
    };
    for (kind, step, state) in
        [(JobKind::Pause, "pause web", ResultState::Paused), (JobKind::Resume, "resume web", ResultState::Ok)]
    {
        let job = rig.engine.operation(&caller(), kind, shop(), None, Vec::new()).await.unwrap().job;
        assert_eq!(rig.job_ended(job).await.state, JobState::Done);
        assert_eq!(rig.took(), [step], "what cannot be paused is only marked");
        assert!(rig.states("shop").await.into_values().all(|found| found == state));
    }
    assert_eq!(data(&rig), ["resume", "add"], "what was only marked keeps its data");
    let work = Work {
        bundle: shop(),
        id: "Thing/web".parse().unwrap(),
        resource: "default/Thing/web".parse().unwrap(),
        definition: thing("web", "").into(),
        data: serde_json::Value::Null,
        adopt: false,
    };
    let refusal = |verb, state| {
        let steps = rig.engine.inner.registry.steps(verb, &state, work.clone(), None);
        steps.unwrap_err().error.message
    };
    let gone = refusal(model::Verb::Pause, ResultState::Deleted);
    assert_eq!(gone, "can only pause workloads that are there");
    assert_eq!(refusal(model::Verb::Resume, ResultState::Ok), "can only resume workloads in paused state");
}

#[tokio::test]
async fn z_p3_what_failed_is_stopped_as_well_and_keeps_saying_why() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("old", ""), thing("sound", "")].concat()).await;
    rig.script.failing.lock().unwrap().extend(["old", "new"]);
    let content = [thing("old", ""), thing("sound", ""), thing("new", "")].concat();
    let again = PutBundleRequest { force: true, ..PutBundleRequest::new(shop(), content) };
    let put = rig.engine.put(&caller(), again).await.unwrap();
    rig.ended(&put).await;
    assert_eq!(rig.states("shop").await["old"], ResultState::Error);
    rig.script.failing.lock().unwrap().clear();
    rig.took();
    let pause = rig.engine.operation(&caller(), JobKind::Pause, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(pause.job).await.state, JobState::Done);
    assert_eq!(rig.took(), ["pause new", "pause sound", "pause old"]);
    let shown = rig.workloads("shop").await;
    assert!(shown.iter().all(|workload| workload.result.state == ResultState::Paused), "{shown:?}");
    let messages: Vec<_> = shown.iter().map(|workload| workload.result.message.as_deref()).collect();
    assert_eq!(messages, [Some("new fails"), Some("old fails"), None]);
    assert_eq!(rig.engine.state().bundles[&shop()].due, None, "until it is resumed");
    let resume = rig.engine.operation(&caller(), JobKind::Resume, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(resume.job).await.state, JobState::Done);
    assert_eq!(rig.took(), ["update old", "resume sound", "add new"], "what failed is brought about anew");
    assert!(rig.workloads("shop").await.iter().all(|workload| workload.result.message.is_none()));
}

#[tokio::test]
async fn z_p3_what_cannot_be_stopped_is_tried_again_until_it_is() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.took();
    rig.script.failing.lock().unwrap().push("a");
    let pause = rig.engine.operation(&caller(), JobKind::Pause, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(pause.job).await.state, JobState::Failed);
    rig.script.failing.lock().unwrap().clear();
    rig.until(|state| state.bundles[&shop()].due.is_none() && state.lanes.is_idle(&shop())).await;
    assert_eq!(rig.took(), ["pause a", "pause a"]);
    assert_eq!(rig.states("shop").await["a"], ResultState::Paused);
}

#[tokio::test]
async fn z_e14_a_monitor_gives_up_in_the_lane_of_the_bundle_and_once() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.took();
    let a: WorkloadId = "Thing/a".parse().unwrap();
    rig.take_lane();
    let job = rig.engine.decommission(&shop(), &a, "it eats: the host").await.unwrap().unwrap();
    assert_eq!(rig.engine.decommission(&shop(), &a, "again").await.unwrap(), Some(job), "it waits already");
    let put = rig.put("shop", &thing("a", "size: 2")).await.unwrap();
    assert_eq!(rig.took(), [] as [&str; 0], "not past what is at work");
    // The agent ends before either began.
    let rig = rig.reopened("boot").await;
    let given_up = rig.job_ended(job).await;
    assert_eq!((given_up.kind, given_up.state), (JobKind::Decommission, JobState::Done));
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
    assert_eq!(rig.took(), ["remove a", "add a"], "in the order they were accepted");

    let job = rig.engine.decommission(&shop(), &a, "it eats: the host").await.unwrap().unwrap();
    rig.job_ended(job).await;
    let shown = rig.workloads("shop").await.remove(0);
    assert_eq!(
        (shown.result.state, shown.result.message.as_deref()),
        (ResultState::Error, Some("it eats: the host"))
    );
    assert_eq!(rig.engine.decommission(&shop(), &a, "again").await.unwrap(), None, "it is an error already");
    let unknown = rig.engine.decommission(&shop(), &"Thing/b".parse().unwrap(), "").await;
    assert_eq!(unknown.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn z_e10_what_depends_on_what_was_given_up_is_not_tried_again_until_someone_asks() {
    let rig = Rig::new().await;
    rig.script.failing.lock().unwrap().push("b");
    rig.done("shop", &[thing("a", ""), thing("b", "dependsOn: [Thing/a]")].concat()).await;
    let job = rig.engine.decommission(&shop(), &"Thing/a".parse().unwrap(), "it eats").await.unwrap();
    rig.job_ended(job.unwrap()).await;
    rig.script.failing.lock().unwrap().clear();
    rig.took();
    // As when its wait is over.
    rig.engine.state().lanes.submit(&shop(), Item::Retry);
    rig.engine.kick();
    rig.until(|state| state.lanes.is_idle(&shop())).await;
    assert_eq!(rig.took(), [] as [&str; 0]);
    let b = rig.workloads("shop").await.remove(1);
    assert_eq!((b.result.message.as_deref(), b.retry), (Some("dependency failed: Thing/a"), None));
    assert_eq!(rig.engine.state().bundles[&shop()].due, None);
    let retry = rig.engine.operation(&caller(), JobKind::Retry, shop(), None, Vec::new()).await.unwrap();
    assert_eq!(rig.job_ended(retry.job).await.state, JobState::Done);
    assert_eq!(rig.took(), ["add a", "add b"]);
}

#[tokio::test]
async fn z_e6_what_was_deleted_stays_gone_after_a_reboot() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.done("other", &thing("b", "")).await;
    let job = rig.engine.delete(&caller(), deletion()).await.unwrap().job.unwrap();
    rig.job_ended(job).await;
    rig.took();
    let rig = rig.reopened("another boot").await;
    rig.until(|state| state.to_come_up.is_empty()).await;
    assert_eq!(rig.took(), ["add b"]);
    assert_eq!(rig.engine.state().bundles[&shop()].row.phase, BundlePhase::Deleted);
}
