//! What the engine does not answer, or not for one container.

use towline_agent::{
    manifest,
    runtime::{RuntimeError, UnitSpec},
    shim::Status,
};

use super::*;
use crate::proxy::Fate;

/// The engine starts what ended, but is not heard to: what runs by then is not taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c2_what_was_not_heard_to_start_is_not_replaced() {
    let (bench, proxy) = Bench::through_proxy("unheard-start").await;
    bench.apply(&sleeper("")).await.unwrap();
    bench.until("readiness", is_ready).await;
    let before = bench.containers();
    let is_start = |request: &str| request.starts_with("POST") && request.ends_with("/start");
    proxy.rule(move |request| if is_start(request) { Fate::Unanswered } else { Fate::Passes });
    bench.engine.docker(&["stop", "--time", "0", &before[0]]);
    let given_up = |service: &Service| service.metadata.contains_key("failure");
    let failed = bench.until("the repair to be given up", given_up).await;
    assert!(failed.metadata["failure"].contains("does not answer"), "{failed:?}");
    assert_eq!(bench.containers(), before);
    proxy.release();
    let is_well = |service: &Service| is_ready(service) && !given_up(service);
    bench.until("what holds to be seen", is_well).await;
    assert_eq!(bench.containers(), before, "nothing was made, and nothing removed");
    assert_eq!(proxy.count("DELETE /containers/", ""), 0);
    bench.end().await;
}

fn spec(app: &str) -> UnitSpec {
    let yaml =
        format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {app}}}\nspec:\n{}", sleeper(""));
    let manifest = manifest::parse(RuntimeKind::Docker, "lost", yaml.as_bytes()).unwrap().remove(0);
    UnitSpec { manifest: Arc::new(manifest), generation: "g".to_owned() }
}

/// One container that the engine says nothing of, or nothing good: all others are as they were.
async fn one_that_cannot_be_looked_at(name: &str, fate: Fate, why: &str) {
    let _among_others = GATE.read().await;
    let (dir, proxy) = (tempfile::tempdir().unwrap(), Proxy::before(&Engine::shared()));
    let open = async || {
        let config = DockerConfig::unnamed(format!("test/{name}"), &proxy.socket, crate::mark(dir.path()));
        DockerRuntime::open(config).await
    };
    let runtime = open().await;
    let (bad, good) =
        (runtime.start(&spec("bad")).await.unwrap(), runtime.start(&spec("good")).await.unwrap());
    let id = Engine::shared().docker(&["inspect", "--format", "{{.Id}}", &bad.unit]);
    let look = format!("GET /containers/{id}/json");
    proxy.rule(move |request| if request == look { fate } else { Fate::Passes });
    let is_as = async |runtime: &DockerRuntime, what: &str, status: Status| {
        let begun = Instant::now();
        loop {
            let shown = runtime.units_of(&bad.app).into_iter().map(|unit| (unit.unit, unit.state));
            let shown: Vec<_> = shown.collect();
            if let [(unit, state)] = shown.as_slice()
                && *unit == bad.unit
                && state.status == status
            {
                return state.reason.clone().unwrap_or_default();
            }
            assert!(begun.elapsed() < Duration::from_secs(100), "waited in vain for {what}: {shown:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let check = async |runtime: &DockerRuntime| {
        let reason = is_as(runtime, "one unit to be unknown", Status::Unknown).await;
        assert!(reason.contains(&id[..12]) && reason.contains(why), "{reason}");
        let seen = runtime.observe(&good.app, None).await.unwrap();
        let stand: Vec<Status> = seen.iter().map(|unit| unit.state.status).collect();
        assert_eq!(stand, [Status::Started]);
        let error = runtime.observe(&bad.app, None).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Unknown { .. }), "nobody plans from that: {error}");
        assert_eq!(runtime.trouble(&good.app, None), None);
    };
    // Known, and stirred.
    Engine::shared().docker(&["restart", "--time", "0", &bad.unit]);
    check(&runtime).await;
    runtime.close().await;
    // Not known to whoever comes next but from the list.
    let runtime = open().await;
    check(&runtime).await;
    proxy.release();
    is_as(&runtime, "it to be seen again", Status::Started).await;
    runtime.delete_all().await.unwrap();
    runtime.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c2_what_the_engine_says_of_one_container_is_about_that_one() {
    let fate = Fate::Refused(500, "its file is damaged");
    one_that_cannot_be_looked_at("damaged", fate, "its file is damaged").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c2_one_container_that_the_engine_hangs_over_holds_up_no_other() {
    one_that_cannot_be_looked_at("hanging", Fate::Held, "no answer within").await;
}

/// The engine says not found; what it was is shown until another has its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c1_what_the_engine_does_not_find_any_more_is_gone() {
    let bench = Bench::new("gone").await;
    bench.apply(&sleeper("  drift: report\n")).await.unwrap();
    let unit = bench.until("readiness", is_ready).await.units.remove(0).id;
    bench.engine.docker(&["rm", "--force", &bench.containers()[0]]);
    let is_gone = |service: &Service| {
        let shown: Vec<_> = service.units.iter().map(|unit| (unit.id.as_str(), &unit.status)).collect();
        shown == [(unit.as_str(), &UnitStatus::Gone)]
    };
    let service = bench.until("it to be gone", is_gone).await;
    assert_eq!(service.status, ServiceStatus::Degraded);
    assert!(service.units[0].reason.is_some() && service.units[0].pid.is_none(), "{service:?}");
    // It stays so until somebody acts.
    bench.apply(&sleeper("  drift: report\n")).await.unwrap();
    let is_back = |service: &Service| is_ready(service) && service.units.iter().all(|now| now.id != unit);
    assert_eq!(bench.until("another in its place", is_back).await.units.len(), 1);
    // What is removed here is not gone but away, and what is mended is gone no longer.
    bench.apply(&sleeper("  units: 2\n")).await.unwrap();
    let lost = bench.containers().remove(0);
    bench.engine.docker(&["rm", "--force", &lost]);
    let two = |service: &Service| is_ready(service) && service.units.len() == 2;
    bench.until("repair", |service| two(service) && bench.containers().len() == 2).await;
    assert!(!bench.containers().contains(&lost));
    bench.apply(&sleeper("")).await.unwrap();
    let one = |service: &Service| is_ready(service) && service.units.len() == 1;
    bench.until("one unit alone", one).await;
    bench.end().await;
}
