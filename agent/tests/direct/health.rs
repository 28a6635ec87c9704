//! Definitions with a health check: what is not known to work replaces nothing.

use std::{fs, path::Path, time::Duration};

use towline_bus::CallContext;
use towline_protocol::{
    Code, Effect,
    platform::{Definition, Service, ServiceStatus, UnitStatus},
};

use crate::bench::*;

/// A sleeper that works while `flag` exists.
fn checked(flag: &Path, colour: &str, more: &str) -> String {
    let flag = flag.display();
    sleeper(&format!(
        "  env: {{COLOUR: {colour}}}\n  health: {{exec: {{command: [/bin/sh, -c, \"test -e {flag} || {{ echo no flag; exit \
         9; }}\"]}}, interval: 100ms, retries: 2}}\n{more}"
    ))
}

fn ready(service: &Service) -> bool {
    service.status == ServiceStatus::Ready
}

#[tokio::test]
async fn apply_returns_when_every_unit_works() {
    let bench = Bench::new().await;
    let flag = bench.dir.path().join("flag");
    let slow = "  health: {exec: {command: [/bin/sh, -c, \"test -e here\"]}, startPeriod: 1h}\n";
    let spec =
        format!("  command: [/bin/sh, -c, \"sleep 0.5; touch here; exec sleep 1000\"]\n{slow}  units: 2\n");
    bench.apply("web", &spec).await.unwrap();
    let service = bench.service("web").await;
    assert_eq!((&service.status, service.units.len()), (&ServiceStatus::Ready, 2), "{service:?}");
    // What works makes no difference to what is only started.
    fs::write(&flag, "").unwrap();
    bench.apply("other", &checked(&flag, "red", "")).await.unwrap();
    assert_eq!(bench.service("other").await.status, ServiceStatus::Ready);
    bench.end().await;
}

#[tokio::test]
async fn a_first_version_that_never_works_is_refused_and_leaves_nothing() {
    let bench = Bench::new().await;
    let error = bench.apply("web", &checked(Path::new("/no/flag"), "red", "")).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::None));
    let message = &error.errors["default/App/web"].message;
    assert!(
        message.contains(" did not become healthy: unhealthy: `/bin/sh` exited with status 9: no flag"),
        "{message}"
    );
    assert!(bench.agent.direct().runtime().list().is_empty());
    bench.end().await;
}

#[tokio::test]
async fn a_version_that_never_works_does_not_replace_one_that_does() {
    let bench = Bench::new().await;
    let flag = bench.dir.path().join("flag");
    fs::write(&flag, "").unwrap();
    for strategy in ["{type: rolling}", "{type: recreate}", "{maxSurge: 0, maxUnavailable: 1}"] {
        let more = format!("  units: 2\n  strategy: {strategy}\n");
        bench.apply("web", &checked(&flag, "red", &more)).await.unwrap();
        let before = bench.pids("web").await;
        let error = bench.apply("web", &checked(Path::new("/no/flag"), "blue", &more)).await.unwrap_err();
        assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::None), "{strategy}: {error}");
        assert!(error.to_string().contains("did not become healthy"), "{error}");
        if strategy.contains("rolling") {
            assert_eq!(bench.pids("web").await, before);
        }
        let service = bench.until("web", "the old version", ready).await;
        assert_eq!(service.units.len(), 2, "{strategy}");
        for pid in bench.pids("web").await.into_values().flatten() {
            let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
            assert!(environment.contains("COLOUR=red"), "{strategy}");
        }
    }
    bench.apply("web", &checked(&flag, "blue", "  units: 2\n")).await.unwrap();
    let service = bench.service("web").await;
    assert_eq!((&service.status, service.units.len()), (&ServiceStatus::Ready, 2));
    bench.end().await;
}

#[tokio::test]
async fn what_was_accepted_to_be_done_later_replaces_nothing_until_it_works() {
    let bench = Bench::new().await;
    let flag = bench.dir.path().join("flag");
    fs::write(&flag, "").unwrap();
    bench.apply("web", &checked(&flag, "red", "")).await.unwrap();
    let before = bench.pids("web").await;
    let later = bench.dir.path().join("later");
    let blue = checked(&later, "blue", "");
    let definition = Definition { is_async: true, ..definition("web", &blue) };
    bench.platform.apply(&CallContext::new(), &[definition]).await.unwrap();
    let failed = bench.until("web", "the failure", |service| service.metadata.contains_key("failure")).await;
    assert!(failed.metadata["failure"].contains("did not become healthy"), "{failed:?}");
    let both = |service: &Service| {
        let state = |status: UnitStatus| service.units.iter().filter(|unit| unit.status == status).count();
        (state(UnitStatus::Started), state(UnitStatus::Error)) == (1, 1)
    };
    let service = bench.until("web", "both versions", both).await;
    assert!(service.units.iter().any(|unit| before.contains_key(&unit.id)), "{service:?}");
    // Also through a restart of the agent, and some looks of its repair.
    let bench = bench.reopened().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(
        bench
            .until("web", "both versions", both)
            .await
            .units
            .iter()
            .any(|unit| before.contains_key(&unit.id))
    );
    fs::write(&later, "").unwrap();
    let replaced = |service: &Service| {
        service.units.len() == 1 && service.units.iter().all(|unit| !before.contains_key(&unit.id))
    };
    bench.until("web", "the new version alone", replaced).await;
    bench.end().await;
}

#[tokio::test]
async fn what_stops_working_is_shown_and_neither_restarted_nor_taken_for_drift() {
    let bench = Bench::new().await;
    let flag = bench.dir.path().join("flag");
    fs::write(&flag, "").unwrap();
    bench.apply("web", &checked(&flag, "red", "  ports: [{name: http, port: 80}]\n")).await.unwrap();
    let before = bench.pids("web").await;
    fs::remove_file(&flag).unwrap();
    let sick = bench.until("web", "the verdict", |service| service.status == ServiceStatus::Degraded).await;
    let reason = sick.units[0].reason.clone().unwrap();
    assert_eq!((&sick.units[0].status, sick.address), (&UnitStatus::Error, None));
    assert!(reason.starts_with("unhealthy: `/bin/sh` exited with status 9"), "{reason}");
    // The same again, and more of it, is not kept from being done by one that was there before.
    let more = "  ports: [{name: http, port: 80}]\n";
    bench.apply("web", &checked(&flag, "red", more)).await.unwrap();
    assert_eq!(bench.pids("web").await, before);
    fs::write(&flag, "").unwrap();
    let well = bench.until("web", "health", ready).await;
    assert!(well.address.is_some());
    assert_eq!((bench.pids("web").await, well.units[0].restarts), (before, 0));
    let metrics = prometheus::TextEncoder::new().encode_to_string(&bench.registry.gather()).unwrap();
    let drift = metrics.lines().filter(|line| line.starts_with("towline_agent_drift_total{"));
    assert!(drift.clone().all(|line| line.ends_with(" 0")), "{:?}", drift.collect::<Vec<_>>());
    bench.end().await;
}

#[tokio::test]
async fn waiting_for_health_can_be_cancelled() {
    let bench = Bench::new().await;
    let flag = bench.dir.path().join("flag");
    fs::write(&flag, "").unwrap();
    bench.apply("web", &checked(&flag, "red", "")).await.unwrap();
    let before = bench.pids("web").await;
    let cx = CallContext::new();
    let never = sleeper("  health: {exec: {command: [/bin/false]}, startPeriod: 1h}\n");
    let definitions = [definition("web", &never)];
    let apply = bench.platform.apply(&cx, &definitions);
    let cancel = async {
        bench.until("web", "the new unit", |service| service.units.len() == 2).await;
        cx.cancelled.cancel();
    };
    let (done, _) = tokio::join!(apply, cancel);
    let error = done.unwrap_err();
    assert_eq!((&error.errors["default/App/web"].code, &error.effect), (&Code::Cancelled, &Effect::None));
    assert_eq!(bench.pids("web").await, before);
    bench.end().await;
}
