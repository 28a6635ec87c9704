//! Definitions that change.

use std::{collections::BTreeSet, fs, time::Duration};

use towline_bus::CallContext;
use towline_protocol::{Code, Effect, platform::ServiceStatus};

use crate::bench::*;

#[tokio::test]
async fn the_same_definition_again_touches_nothing() {
    let bench = Bench::new().await;
    bench.apply("web", &sleeper("  units: 3\n")).await.unwrap();
    let before = bench.pids("web").await;
    let vitals = bench.agent.direct().vitals().borrow().clone();
    bench.apply("web", &sleeper("  units: 3\n")).await.unwrap();
    assert_eq!(bench.pids("web").await, before);
    assert_eq!(*bench.agent.direct().vitals().borrow(), vitals);
    bench.apply("web", &sleeper("  units: 5 # only scaled\n")).await.unwrap();
    let more = bench.pids("web").await;
    assert!(more.len() == 5 && before.iter().all(|(unit, pid)| more.get(unit) == Some(pid)));
    assert_ne!(*bench.agent.direct().vitals().borrow(), vitals);
    bench.apply("web", &sleeper("  units: 1\n")).await.unwrap();
    let less = bench.pids("web").await;
    assert!(less.len() == 1 && less.iter().all(|(unit, pid)| before.get(unit) == Some(pid)));
    bench.end().await;
}

#[tokio::test]
async fn a_changed_definition_replaces_every_unit() {
    let bench = Bench::new().await;
    for strategy in ["{type: rolling}", "{type: recreate}", "{maxSurge: 0, maxUnavailable: 1}"] {
        let spec = |colour: &str| {
            sleeper(&format!("  units: 3\n  env: {{COLOUR: {colour}}}\n  strategy: {strategy}\n"))
        };
        bench.apply("web", &spec("red")).await.unwrap();
        let before = bench.pids("web").await;
        bench.apply("web", &spec("blue")).await.unwrap();
        let after = bench.pids("web").await;
        assert!(after.len() == 3 && after.keys().all(|unit| !before.contains_key(unit)), "{strategy}");
        for pid in after.values().flatten() {
            let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
            assert!(environment.contains("COLOUR=blue"));
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn a_failing_update_leaves_the_old_version_running() {
    let bench = Bench::new().await;
    for strategy in ["{type: rolling}", "{type: recreate}", "{maxSurge: 0, maxUnavailable: 1}"] {
        let more = format!("  strategy: {strategy}\n");
        bench.apply("web", &sleeper(&more)).await.unwrap();
        let (before, export) =
            (bench.pids("web").await, bench.platform.export(&CallContext::new()).await.unwrap());
        for (spec, expected) in [
            (broken(), "command `no-such-program` not found in PATH"),
            (
                "  command: [sh, -c, echo I cannot; exit 7]\n".to_owned(),
                "did not stay up: exited with status 7; its last words: I cannot",
            ),
        ] {
            let error = bench.apply("web", &format!("{spec}{more}")).await.unwrap_err();
            assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::None), "{strategy}");
            assert!(error.errors["default/App/web"].message.contains(expected), "{error}");
            if strategy.contains("rolling") {
                assert_eq!(bench.pids("web").await, before, "{error}");
            }
            assert_eq!(bench.platform.export(&CallContext::new()).await.unwrap(), export);
            let service = bench.service("web").await;
            assert_eq!((&service.status, service.units.len()), (&ServiceStatus::Ready, 1), "{strategy}");
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn a_failing_update_leaves_the_files_of_the_old_version() {
    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("conf");
    let files = |content: &str| format!("  files: [{{path: {}, content: {content}}}]\n", path.display());
    bench.apply("web", &sleeper(&files("v1"))).await.unwrap();
    let bad = format!("  command: [sh, -c, exit 7]\n{}", files("v2"));
    let error = bench.apply("web", &bad).await.unwrap_err();
    assert_eq!(error.effect, Effect::None);
    assert_eq!(fs::read_to_string(&path).unwrap(), "v1");
    // Where they cannot be brought back, nobody claims that nothing has happened.
    bench.apply("web", &sleeper(&files("v1"))).await.unwrap();
    let spoil =
        format!("  command: [sh, -c, \"rm {0}; mkdir -p {0}/x; exit 7\"]\n{1}", path.display(), files("v2"));
    let error = bench.apply("web", &spoil).await.unwrap_err();
    assert_eq!(error.effect, Effect::Partial, "{error}");
    fs::remove_dir_all(&path).unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_failing_first_apply_leaves_nothing() {
    let bench = Bench::new().await;
    let error = bench.apply("web", &broken()).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::None));
    assert!(
        bench.platform.all_services(&CallContext::new(), None, &BTreeSet::new()).await.unwrap().is_empty()
    );
    assert!(bench.platform.export(&CallContext::new()).await.unwrap().is_empty());
    bench.end().await;
}

#[tokio::test]
async fn an_explicit_cancel_undoes() {
    let bench = Bench::new().await;
    bench.apply("web", &sleeper("  units: 2\n")).await.unwrap();
    let before = bench.pids("web").await;
    let cx = CallContext::new();
    let definitions = [definition("web", &sleeper("  units: 2\n  env: {A: b}\n"))];
    let apply = bench.platform.apply(&cx, &definitions);
    let cancel = async {
        // In the middle: one new unit is there, and the old ones still are.
        while bench.pids("web").await.len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cx.cancelled.cancel();
    };
    let (done, ()) = tokio::join!(apply, cancel);
    let error = done.unwrap_err();
    assert_eq!((&error.errors["default/App/web"].code, &error.effect), (&Code::Cancelled, &Effect::None));
    let after = bench.pids("web").await;
    assert_eq!(after.len(), 2);
    assert!(before.iter().any(|(unit, pid)| after.get(unit) == Some(pid)));
    bench.end().await;
}
