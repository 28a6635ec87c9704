//! Bundles across the ends of agents and of the host.

use towline_protocol::{
    bundle::{BundlePhase, PauseBundleRequest},
    job::{JobKind, JobState},
};

use crate::bench::*;

#[tokio::test]
async fn z_e6_a_restart_touches_nothing_and_a_reboot_brings_up_in_order() {
    let bench = Bench::new().await;
    let content = format!("{}{}", bench.app("web", "  dependsOn: [App/db]\n"), bench.app("db", ""));
    bench.done(content).await;
    let pids = |bench: &Bench| {
        let units = bench.agent.direct().runtime().list();
        units.into_iter().map(|unit| (unit.app, unit.state.pid)).collect::<Vec<_>>()
    };
    let before = pids(&bench);
    let changes = bench.changes().await;
    let bench = bench.reopened().await;
    assert_eq!(pids(&bench), before);
    assert_eq!(
        (bench.states().await, bench.changes().await),
        (vec!["App/db ok".to_owned(), "App/web ok".to_owned()], changes)
    );
    assert_eq!(bench.journal(), ["db", "web"]);
    // The host goes down, and comes up again.
    bench.agent.direct().runtime().stop_all().await.unwrap();
    std::fs::write(bench.dir.path().join("boot"), "second\n").unwrap();
    let bench = bench.reopened().await;
    bench.until("both to run", async || bench.journal().len() == 4).await;
    assert_eq!(bench.journal()[2..], ["db", "web"]);
    bench.end().await;
}

#[tokio::test]
async fn z_e6_what_is_paused_stays_so_after_a_reboot() {
    let bench = Bench::new().await;
    bench.done(bench.app("web", "")).await;
    let pause = PauseBundleRequest { bundle: shop(), reason: None };
    let job = bench.platform.pause_bundle(&cx(), &pause).await.unwrap().job;
    bench.ended(job).await;
    std::fs::write(bench.dir.path().join("boot"), "second\n").unwrap();
    let bench = bench.reopened().await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(bench.status().await.summary.phase, BundlePhase::Paused);
    assert_eq!(
        (bench.states().await, bench.journal()),
        (vec!["App/web paused".to_owned()], vec!["web".to_owned()])
    );
    bench.end().await;
}

#[tokio::test]
async fn z_e5_what_was_accepted_is_done_by_the_next_agent() {
    let bench = Bench::new().await;
    // It ends while the first comes up, and does not begin the second.
    let begun = bench.path("begun");
    let hook = format!("  hooks: {{preStart: [sh, -c, \"touch {}; sleep 5\"]}}\n", begun.display());
    let content = format!("{}{}", bench.app("a", &hook), bench.app("b", "  dependsOn: [App/a]\n"));
    let put = bench.put(content).await.unwrap();
    bench.until("the first to come up", async || begun.exists()).await;
    let bench = bench.reopened().await;
    let (job, records) = bench.ended(put.job.unwrap()).await;
    assert_eq!((job.kind, job.state), (JobKind::Put, JobState::Done), "{:?}", job.errors);
    let begins =
        records.iter().filter(|record| record.workload.is_none() && record.state == JobState::Running);
    assert_eq!(begins.count(), 2, "each of the two agents began it: {records:?}");
    assert_eq!(bench.states().await, ["App/a ok", "App/b ok"]);
    assert_eq!(bench.journal(), ["a", "b"]);
    bench.end().await;
}

#[tokio::test]
async fn z_e6_what_did_not_come_up_after_a_reboot_is_replaced_by_the_next_version() {
    let bench = Bench::new().await;
    std::fs::create_dir(bench.path("work")).unwrap();
    let work = bench.path("work");
    bench.done(bench.app("web", &format!("  workingDir: {}\n", work.display()))).await;
    let generations = |bench: &Bench| {
        let units = bench.agent.direct().runtime().list();
        units.into_iter().map(|unit| unit.generation).collect::<Vec<_>>()
    };
    let before = generations(&bench);
    bench.agent.direct().runtime().stop_all().await.unwrap();
    std::fs::remove_dir(&work).unwrap();
    std::fs::write(bench.dir.path().join("boot"), "second\n").unwrap();
    let bench = bench.reopened().await;
    bench.until("it to fail", async || bench.states().await == ["App/web error"]).await;
    assert_eq!(bench.journal().len(), 1);
    // A definition of its own, so a generation of its own: what is left of the old one is not taken for it.
    assert_eq!(bench.done(bench.app("web", "")).await.state, JobState::Done);
    let after = generations(&bench);
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert_eq!(bench.journal().len(), 2);
    bench.end().await;
}
