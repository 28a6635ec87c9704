//! Units that are not as their definition says.

use std::{collections::BTreeSet, fs, sync::Arc};

use towline_agent::runtime::RuntimeKind;
use towline_bus::CallContext;
use towline_protocol::{
    platform::{Definition, Service, ServiceStatus},
    session::HealthState,
};

use crate::bench::*;

#[tokio::test]
async fn units_and_definitions_survive_an_agent() {
    let bench = Bench::new().await;
    bench.apply("web", &sleeper("  units: 2\n")).await.unwrap();
    let before = bench.pids("web").await;
    let export = bench.platform.export(&CallContext::new()).await.unwrap();
    let bench = bench.reopened().await;
    bench.until("web", "readiness", |service| service.status == ServiceStatus::Ready).await;
    assert_eq!(bench.pids("web").await, before);
    assert_eq!(bench.platform.export(&CallContext::new()).await.unwrap(), export);
    bench.agent.direct().runtime().stop_all().await.unwrap();
    let bench = bench.reopened().await;
    bench
        .until("web", "new units", |service| {
            service.status == ServiceStatus::Ready && service.units.len() == 2
        })
        .await;
    bench.end().await;
}

#[tokio::test]
async fn lost_units_are_repaired_unless_they_are_only_to_be_reported() {
    let bench = Bench::new().await;
    bench.apply("web", &sleeper("")).await.unwrap();
    bench.apply("quiet", &sleeper("  drift: report\n")).await.unwrap();
    let before = bench.pids("web").await;
    for status in bench.agent.direct().runtime().list() {
        let shim = rustix::process::Pid::from_raw(status.state.shim.unwrap().0).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    }
    bench.until("quiet", "the loss", |service| service.status == ServiceStatus::Degraded).await;
    let lost = |service: &Service| {
        service.status == ServiceStatus::Ready && Some(&service.units[0].pid) != before.values().next()
    };
    bench.until("web", "repair", lost).await;
    let metrics = prometheus::TextEncoder::new().encode_to_string(&bench.registry.gather()).unwrap();
    assert!(metrics.contains("towline_agent_drift_total{kind=\"lost\"} 1\n"), "{metrics}");
    bench.end().await;
}

#[tokio::test]
async fn units_without_a_definition_are_shown_and_can_be_taken_over_or_deleted() {
    let bench = Bench::new().await;
    let runtime = bench.agent.direct().runtime();
    for name in ["one", "two"] {
        // As a call leaves them that was cut short before it stored what it did.
        let manifest =
            towline_agent::manifest::parse(RuntimeKind::Process, "test", &yaml(name, &sleeper("")))
                .unwrap()
                .remove(0);
        let spec = towline_agent::runtime::process::UnitSpec {
            manifest: Arc::new(manifest),
            generation: "g".to_owned(),
        };
        runtime.start(&spec).await.unwrap();
    }
    let service = bench.service("one").await;
    assert_eq!((service.status, service.units.len()), (ServiceStatus::Degraded, 1));
    assert!(service.excuse.unwrap().contains("its definition is not stored"));
    bench.apply("one", &sleeper("")).await.unwrap();
    bench.platform.sync(&CallContext::new(), &[action("two", true, None)]).await.unwrap();
    let all = bench.platform.all_services(&CallContext::new(), None, &BTreeSet::new()).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].status, all[0].units.len(), &all[0].excuse), (&ServiceStatus::Ready, 1, &None));
    bench.end().await;
}

#[tokio::test]
async fn a_repair_that_fails_is_tried_again() {
    let bench = Bench::new().await;
    let program = bench.dir.path().join("program");
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let spec = format!("  command: [{}]\n", program.display());
    bench.apply("web", &spec).await.unwrap();
    let away = bench.dir.path().join("away");
    fs::rename(&program, &away).unwrap();
    let shim = bench.agent.direct().runtime().list()[0].state.shim.unwrap().0;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(shim).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let failed =
        bench.until("web", "a failed repair", |service| service.metadata.contains_key("failure")).await;
    assert!(failed.metadata["failure"].contains("does not exist"), "{failed:?}");
    fs::rename(&away, &program).unwrap();
    let whole = |service: &Service| {
        service.status == ServiceStatus::Ready && !service.metadata.contains_key("failure")
    };
    bench.until("web", "repair", whole).await;
    bench.end().await;
}

#[tokio::test]
async fn what_was_accepted_is_carried_out_by_the_next_agent_whatever_is_said_of_drift() {
    let bench = Bench::new().await;
    let spec = |colour: &str| {
        let script = "trap '' TERM; while :; do sleep 0.1; done";
        let rest = "  strategy: {type: recreate}\n  stop: {gracePeriod: 1s}\n  drift: report\n";
        format!("  command: [sh, -c, \"{script}\"]\n  env: {{COLOUR: {colour}}}\n{rest}")
    };
    bench.apply("web", &spec("red")).await.unwrap();
    let before = bench.pids("web").await;
    let later = Definition { is_async: true, ..definition("web", &spec("blue")) };
    bench.platform.apply(&CallContext::new(), &[later]).await.unwrap();
    // While it waits for the old unit to go.
    let bench = bench.reopened().await;
    let new = |service: &Service| service.units.iter().any(|unit| !before.contains_key(&unit.id));
    bench.until("web", "the new unit", new).await;
    bench.end().await;
}

/// Kills what stands over the unit of an app.
fn lose(bench: &Bench, name: &str) {
    let units = bench.agent.direct().runtime().units_of(id(name).as_str());
    let shim = rustix::process::Pid::from_raw(units.first().unwrap().state.shim.unwrap().0).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c2_a_repair_that_takes_long_holds_up_no_other_and_is_not_stuck() {
    let bench = Bench::new().await;
    let file = |name: &str| bench.dir.path().join(name);
    let (slow, begun, ended) = (file("slow"), file("begun"), file("ended"));
    // Longer than repair may not look.
    let hook = format!(
        "test ! -e {} || {{ touch {}; sleep 15; touch {}; }}",
        slow.display(),
        begun.display(),
        ended.display()
    );
    bench.apply("hangs", &sleeper(&format!("  hooks: {{preStart: [sh, -c, \"{hook}\"]}}\n"))).await.unwrap();
    bench.apply("web", &sleeper("")).await.unwrap();
    let ready = |service: &Service| service.status == ServiceStatus::Ready;
    bench.until("hangs", "readiness", ready).await;
    let before = bench.pids("web").await;
    let mut vitals = bench.agent.direct().vitals();
    fs::write(&slow, "").unwrap();
    lose(&bench, "hangs");
    bench.until("hangs", "its repair to begin", |_| begun.exists()).await;
    lose(&bench, "web");
    bench
        .until("web", "repair", |service| {
            ready(service) && before.values().all(|pid| *pid != service.units[0].pid)
        })
        .await;
    assert!(!ended.exists(), "the other is still at it");
    let mut seen = Vec::new();
    let watching = async {
        loop {
            seen.push(vitals.borrow_and_update().health.clone());
            vitals.changed().await.unwrap();
        }
    };
    tokio::select! {
        _ = bench.until("hangs", "its repair", ready) => {}
        () = watching => {}
    }
    assert!(ended.exists(), "it took as long as it takes");
    assert!(seen.iter().all(|health| health.state == HealthState::Healthy), "{seen:?}");
    bench.end().await;
}
