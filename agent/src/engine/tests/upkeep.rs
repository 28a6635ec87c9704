//! What goes on by itself: looks at what is there, managers that come late, leftovers.

use super::*;

impl Rig {
    fn sees(&self, seen: Seen) {
        *self.script.seen.lock().unwrap() = Some(seen);
    }

    /// Tells that a resource changed, and waits until somebody has looked at it because of that.
    async fn looked_at(&self, resource: &str) {
        let before = self.script.looks.load(Ordering::SeqCst);
        self.script.changes.tell(resource);
        self.until(|_| self.script.looks.load(Ordering::SeqCst) > before).await;
    }
}

fn drifted(mend: Mend) -> Seen {
    let drift = Some("it is gone".to_owned());
    Seen { status: ServiceStatus::Degraded, reason: None, units: Vec::new(), drift, mend }
}

#[tokio::test]
async fn z_c2_from_what_does_not_answer_nothing_follows() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("web", ""), volume("data", 1)].concat()).await;
    rig.took();
    // It has drifted, and is only to be reported.
    rig.sees(drifted(Mend::Nobody));
    rig.looked_at("default/Thing/web").await;
    rig.until(|state| !state.bundles[&shop()].drift.is_empty()).await;
    rig.sees(Seen::unknown("nobody answers".to_owned()));
    rig.looked_at("default/Thing/web").await;
    rig.until(|state| state.lanes.is_idle(&shop())).await;
    let before = rig.workloads("shop").await.remove(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = rig.workloads("shop").await.remove(0);
    let (drift, later) = (before.drift.unwrap(), after.drift.unwrap());
    assert_eq!((drift.message.as_str(), drift.mending), ("it is gone", false), "what was known stays known");
    assert_eq!(later.since_unix_ms, drift.since_unix_ms);
    assert!(later.age_ms > drift.age_ms, "{later:?} after {drift:?}");
    let observed = after.observed.unwrap();
    assert_eq!(
        (observed.status, observed.reason.as_deref()),
        (ServiceStatus::Unknown, Some("nobody answers"))
    );
    assert!(observed.age_ms >= later.age_ms);
    assert_eq!(after.result.state, ResultState::Ok);
    assert_eq!(rig.took(), [] as [&str; 0], "nothing created, updated or removed");
}

#[tokio::test]
async fn what_changes_is_looked_at_and_mended_at_once() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("web", ""), thing("api", "")].concat()).await;
    rig.done("other", &thing("b", "")).await;
    rig.took();
    rig.sees(drifted(Mend::Engine));
    rig.looked_at("default/Thing/web").await;
    rig.until(|_| !rig.script.done.lock().unwrap().is_empty()).await;
    *rig.script.seen.lock().unwrap() = None;
    rig.until(|state| state.lanes.is_idle(&shop())).await;
    assert_eq!(rig.took(), ["add web"], "and nothing else is");
    assert_eq!(rig.workloads("shop").await[1].drift, None, "it was mended");
}

#[tokio::test]
async fn z_e7_a_failure_at_boot_that_passes_turns_nothing_into_an_error() {
    let rig = Rig::new().await;
    rig.done("shop", &[thing("a", ""), thing("b", "")].concat()).await;
    rig.took();
    *rig.script.unready.lock().unwrap() = Some("the runtime is not up yet");
    let rig = rig.reopened("another boot").await;
    rig.until(|state| state.to_come_up.is_empty()).await;
    let workloads = rig.workloads("shop").await;
    for workload in &workloads {
        assert_eq!(workload.result.state, ResultState::Ok);
        let message = workload.result.message.as_deref().unwrap();
        assert_eq!(message, "work on Thing waits until its manager is ready: the runtime is not up yet");
        assert!(workload.retry.is_some());
        assert_eq!(workload.observed.as_ref().unwrap().status, ServiceStatus::Unknown);
    }
    // What is put meanwhile waits as well.
    let error = rig.done("other", &thing("c", "")).await.errors.remove("Thing/c").unwrap();
    assert_eq!((error.code, rig.took()), (Code::Busy, Vec::new()));
    *rig.script.unready.lock().unwrap() = None;
    rig.until(|state| state.bundles.values().all(|bundle| bundle.row.applied.is_some())).await;
    rig.until(|state| {
        let mut rows = state.bundles.values().flat_map(|bundle| bundle.workloads.values());
        rows.all(|row| row.attempts == 0 && row.result.message.is_none())
    })
    .await;
    let mut took = rig.took();
    took.sort();
    assert_eq!(took, ["add c", "update a", "update b"]);
}

/// A pass that ends all open jobs goes on alone: nobody else changes rows or jobs meanwhile.
#[tokio::test]
async fn z_e14_a_monitor_waits_while_all_open_jobs_end() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    let alone = rig.engine.inner.segments.clone().write_owned().await;
    let (bundle, a) = (shop(), "Thing/a".parse().unwrap());
    let mut asked = Box::pin(rig.engine.decommission(&bundle, &a, "it eats"));
    tokio::time::timeout(Duration::from_millis(100), &mut asked).await.unwrap_err();
    drop(alone);
    let job = asked.await.unwrap().unwrap();
    assert_eq!(rig.job_ended(job).await.state, JobState::Done);
}

#[tokio::test]
async fn leftovers_are_what_nobody_has_or_is_about_to_have() {
    let rig = Rig::new().await;
    rig.done("shop", &thing("a", "")).await;
    rig.take_lane();
    rig.put("shop", &[thing("a", ""), thing("b", "")].concat()).await.unwrap();
    rig.engine.sweep().await;
    let known = rig.script.known.lock().unwrap().clone().unwrap();
    let is_known = |name: &str| {
        let resource = format!("default/Thing/{name}").parse().unwrap();
        (known.listed(&resource), known.now(&resource))
    };
    assert_eq!((is_known("a"), is_known("b")), ((true, true), (true, true)));
    assert_eq!(is_known("c"), (false, false));
    // What is accepted while somebody clears away is known to them, too.
    rig.put("other", &thing("c", "")).await.unwrap();
    assert_eq!(is_known("c"), (false, true));
}
