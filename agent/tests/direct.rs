//! The agent as a platform: apply, sync, export, services, logs, over the process runtime.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prometheus::Registry;
use tempfile::TempDir;
use towline_agent::{Agent, AgentConfig};
use towline_bus::{CallContext, Platform};
use towline_protocol::{
    CallError, Code, Effect, ResourceId, StoreId,
    platform::{Definition, LogsRequest, Service, ServiceStatus, SyncAction, UnitStatus},
};

struct Bench {
    dir: TempDir,
    agent: Agent,
    registry: Registry,
    platform: Arc<dyn Platform>,
}

impl Bench {
    async fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap()).await
    }

    async fn over(dir: TempDir) -> Self {
        let registry = Registry::new();
        let agent = Agent::open(config(dir.path()), registry.clone()).await.unwrap();
        let platform = agent.platform();
        Self { dir, agent, registry, platform }
    }

    /// The same data directory under a new agent.
    async fn reopened(self) -> Self {
        let Self { dir, agent, platform, .. } = self;
        drop(platform);
        agent.close().await;
        Self::over(dir).await
    }

    async fn apply(&self, name: &str, spec: &str) -> Result<(), CallError> {
        self.platform.apply(&CallContext::new(), &[definition(name, spec)]).await
    }

    async fn service(&self, name: &str) -> Service {
        self.platform.some_services(&CallContext::new(), &[id(name)]).await.unwrap().remove(0)
    }

    /// Pids of the units of `name`, by unit.
    async fn pids(&self, name: &str) -> BTreeMap<String, Option<u32>> {
        let found = self.platform.some_services(&CallContext::new(), &[id(name)]).await.unwrap();
        found.into_iter().flat_map(|service| service.units).map(|unit| (unit.id, unit.pid)).collect()
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Service) -> bool) -> Service {
        let begun = tokio::time::Instant::now();
        loop {
            let service = self.service(name).await;
            if holds(&service) {
                return service;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain for {what}: {service:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.agent.remove_units().await.unwrap();
        assert_eq!(fs::read_dir(self.dir.path().join("units")).unwrap().count(), 0);
        drop(self.platform);
        self.agent.close().await;
    }
}

fn config(dir: &Path) -> AgentConfig {
    let name = dir.file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "t");
    let mut config = AgentConfig::new(name.parse().unwrap(), dir);
    config.shim = vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()];
    config
}

fn id(name: &str) -> ResourceId {
    format!("default/App/{name}").parse().unwrap()
}

fn yaml(name: &str, spec: &str) -> Bytes {
    format!("# as written\napiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}, labels: {{tier: front}}}}\nspec:\n{spec}").into()
}

fn definition(name: &str, spec: &str) -> Definition {
    Definition { id: id(name), definition: yaml(name, spec), is_async: false }
}

fn sleeper(more: &str) -> String {
    format!("  command: [sleep, \"1000\"]\n{more}")
}

fn broken() -> String {
    "  command: [no-such-program]\n".to_owned()
}

fn action(name: &str, delete: bool, apply: Option<&str>) -> SyncAction {
    let delete =
        delete.then(|| format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\n").into());
    SyncAction { id: id(name), delete, apply: apply.map(|spec| yaml(name, spec)) }
}

#[tokio::test]
async fn apply_starts_and_shows_a_service() {
    let bench = Bench::new().await;
    bench.platform.ping(&CallContext::new()).await.unwrap();
    assert_eq!(bench.platform.version(&CallContext::new()).await.unwrap(), towline_agent::VERSION);
    bench.apply("web", &sleeper("  units: 2\n  ports: [{name: http, port: 80}]\n")).await.unwrap();
    let all = bench.platform.all_services(&CallContext::new(), None, &BTreeSet::new()).await.unwrap();
    assert_eq!(all.len(), 1);
    let service = &all[0];
    assert_eq!((service.id.as_str(), &service.status), ("default/App/web", &ServiceStatus::Ready));
    assert!(service.address.as_ref().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(service.metadata["label.tier"], "front");
    assert_eq!(service.units.len(), 2);
    assert!(
        service
            .units
            .iter()
            .all(|unit| unit.status == UnitStatus::Started && unit.pid.is_some() && unit.ports["http"] > 0)
    );
    for (namespace, ignored, expected) in
        [(Some("default"), None, 1), (Some("other"), None, 0), (None, Some("web"), 0)]
    {
        let ignored = ignored.map(id).into_iter().collect();
        let found = bench.platform.all_services(&CallContext::new(), namespace, &ignored).await.unwrap();
        assert_eq!(found.len(), expected);
    }
    let some =
        bench.platform.some_services(&CallContext::new(), &[id("none"), id("web"), id("web")]).await.unwrap();
    assert_eq!(some.len(), 1);
    assert!(bench.platform.some_services(&CallContext::new(), &[]).await.unwrap().is_empty());
    let metrics = prometheus::TextEncoder::new().encode_to_string(&bench.registry.gather()).unwrap();
    assert!(metrics.contains("towline_agent_units{state=\"started\"} 2"), "{metrics}");
    assert!(
        metrics.contains("towline_platform_call_duration_seconds_count{method=\"apply\",outcome=\"ok\"} 1")
    );
    bench.end().await;
}

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
    bench.apply("web", &sleeper("  units: 2\n")).await.unwrap();
    let (before, export) =
        (bench.pids("web").await, bench.platform.export(&CallContext::new()).await.unwrap());
    for (spec, expected) in [
        (format!("{}  units: 2\n", broken()), "command `no-such-program` not found in PATH"),
        (
            "  command: [sh, -c, echo I cannot; exit 7]\n  units: 2\n".to_owned(),
            "did not stay up: exited with status 7; its last words: I cannot",
        ),
    ] {
        let error = bench.apply("web", &spec).await.unwrap_err();
        assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::None));
        assert!(error.errors["default/App/web"].message.contains(expected), "{error}");
        assert_eq!(bench.pids("web").await, before, "{error}");
        assert_eq!(bench.platform.export(&CallContext::new()).await.unwrap(), export);
        assert_eq!(bench.service("web").await.status, ServiceStatus::Ready);
    }
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
async fn x_b8_errors_come_by_id_and_the_rest_is_done() {
    let bench = Bench::new().await;
    let mut wrong_id = definition("other", &sleeper(""));
    wrong_id.id = id("wrong");
    let two = Definition {
        definition: [yaml("two", &sleeper("")), yaml("three", &sleeper(""))].join(&b"\n---\n"[..]).into(),
        ..definition("two", "")
    };
    let definitions = [
        definition("good", &sleeper("")),
        definition("bad", &broken()),
        wrong_id,
        definition("odd", "  units: x\n"),
        two,
    ];
    let error = bench.platform.apply(&CallContext::new(), &definitions).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::Partial));
    let codes: Vec<(&str, &Code)> =
        error.errors.iter().map(|(id, error)| (id.as_str(), &error.code)).collect();
    assert_eq!(
        codes,
        [
            ("default/App/bad", &Code::Cluster),
            ("default/App/odd", &Code::Invalid),
            ("default/App/two", &Code::Invalid),
            ("default/App/wrong", &Code::Invalid),
        ]
    );
    assert!(
        error.errors["default/App/odd"].message.contains("document 1: spec.units: found a text"),
        "{error}"
    );
    assert_eq!(bench.service("good").await.status, ServiceStatus::Ready);
    bench.end().await;
}

#[tokio::test]
async fn x_b11_delete_comes_first_and_its_failure_skips_only_its_own_apply() {
    let bench = Bench::new().await;
    bench.apply("one", &sleeper("")).await.unwrap();
    bench.apply("two", &sleeper("")).await.unwrap();
    let (one, two) = (bench.pids("one").await, bench.pids("two").await);
    let mut bad_delete = action("two", true, Some(&sleeper("  units: 2\n")));
    bad_delete.delete = Some(Bytes::from_static(b"kind: [\n"));
    let actions = [
        action("one", true, Some(&sleeper(""))),
        bad_delete,
        action("three", false, Some(&sleeper(""))),
        action("absent", true, None),
        SyncAction { id: id("empty"), delete: Some(Bytes::new()), apply: None },
        SyncAction { id: id("nothing"), delete: None, apply: None },
    ];
    let error = bench.platform.sync(&CallContext::new(), &actions).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::Partial));
    assert_eq!(error.errors.keys().collect::<Vec<_>>(), ["default/App/empty", "default/App/two"]);
    assert_ne!(bench.pids("one").await, one, "it was deleted and started anew");
    assert_eq!(bench.pids("two").await, two, "it was not touched");
    assert_eq!(bench.pids("three").await.len(), 1);
    bench
        .platform
        .sync(&CallContext::new(), &[action("one", true, None), action("three", true, None)])
        .await
        .unwrap();
    let left = bench.platform.all_services(&CallContext::new(), None, &BTreeSet::new()).await.unwrap();
    assert_eq!(left.len(), 1);
    bench.end().await;
}

#[tokio::test]
async fn export_can_be_applied_again() {
    let bench = Bench::new().await;
    let (one, two) =
        (yaml("one", "  command: [sleep, \"1000\"]"), yaml("two", &sleeper("  units: 0\n...\n")));
    let definitions = [("one", &one), ("two", &two)].map(|(name, bytes)| Definition {
        id: id(name),
        definition: bytes.clone(),
        is_async: false,
    });
    bench.platform.apply(&CallContext::new(), &definitions).await.unwrap();
    let export = bench.platform.export(&CallContext::new()).await.unwrap();
    let found = towline_agent::manifest::identify("export", &export).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found[0].1.starts_with(&one) && found[1].1 == two, "verbatim but for a last line end");
    let before = bench.pids("one").await;
    let again: Vec<Definition> = found
        .into_iter()
        .map(|(id, definition)| Definition { id: id.parse().unwrap(), definition, is_async: false })
        .collect();
    bench.platform.apply(&CallContext::new(), &again).await.unwrap();
    assert_eq!(bench.pids("one").await, before);
    assert_eq!(bench.service("two").await.status, ServiceStatus::Stopped);
    bench.end().await;
}

#[tokio::test]
async fn a_call_is_done_once_per_request_id() {
    let bench = Bench::new().await;
    let cx = CallContext::new();
    let definitions = [definition("good", &sleeper("")), definition("bad", &broken())];
    let first = bench.platform.apply(&cx, &definitions);
    let second = bench.platform.apply(&cx, &definitions);
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first, second);
    let delete = CallContext::new();
    bench.platform.sync(&delete, &[action("good", true, None)]).await.unwrap();
    let bench = bench.reopened().await;
    assert_eq!(
        bench.platform.apply(&cx, &definitions).await,
        first,
        "the outcome is remembered over a restart"
    );
    assert!(bench.pids("good").await.is_empty(), "and nothing is done again");
    let error = bench.platform.apply(&delete, &definitions).await.unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    let elsewhere = CallContext::new().pinned_to(Some(StoreId::new(uuid::Uuid::new_v4())));
    let error = bench.platform.apply(&elsewhere, &definitions).await.unwrap_err();
    assert_eq!((error.code, error.effect), (Code::UnknownOutcome, Effect::Unknown));
    let refused = CallContext::new();
    bench.platform.apply(&refused, &[definition("bad", &broken())]).await.unwrap_err();
    bench.platform.apply(&refused, &[definition("bad", &sleeper(""))]).await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_dropped_caller_does_not_stop_the_work() {
    let bench = Bench::new().await;
    let definitions = [definition("web", &sleeper("  units: 4\n"))];
    let cx = CallContext::new();
    drop(futures::poll!(std::pin::pin!(bench.platform.apply(&cx, &definitions))));
    bench.platform.apply(&cx, &definitions).await.unwrap();
    assert_eq!(bench.pids("web").await.len(), 4);
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

#[tokio::test]
async fn an_async_apply_answers_at_once_and_shows_its_failure() {
    let bench = Bench::new().await;
    let later = |spec: &str| Definition { is_async: true, ..definition("web", spec) };
    bench.platform.apply(&CallContext::new(), &[later(&sleeper("  units: 2\n"))]).await.unwrap();
    bench
        .until("web", "readiness", |service| {
            service.status == ServiceStatus::Ready && service.units.len() == 2
        })
        .await;
    bench.platform.apply(&CallContext::new(), &[later(&broken())]).await.unwrap();
    let failed = bench.until("web", "the failure", |service| service.metadata.contains_key("failure")).await;
    assert!(failed.metadata["failure"].contains("not found in PATH"));
    bench.apply("web", &sleeper("  units: 2\n")).await.unwrap();
    assert_eq!(bench.service("web").await.status, ServiceStatus::Ready);
    bench.end().await;
}

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
    assert!(metrics.contains("towline_agent_drift_total{kind=\"lost\"}"));
    bench.end().await;
}

#[tokio::test]
async fn logs_are_streamed_and_what_is_unknown_is_not_found() {
    let bench = Bench::new().await;
    let spec = "  command: [/bin/sh, -c, \"echo one; echo two >&2; exec sleep 1000\"]\n";
    bench.apply("web", spec).await.unwrap();
    let request = |name: &str, unit: Option<&str>| LogsRequest {
        app: id(name),
        unit: unit.map(str::to_owned),
        follow: true,
        since_unix_ms: None,
        tail: None,
    };
    let mut stream = bench.platform.logs(&CallContext::new(), &request("web", None)).await.unwrap();
    let mut texts = BTreeSet::new();
    for _ in 0..2 {
        texts.insert(stream.next().await.unwrap().unwrap().text);
    }
    assert_eq!(texts.into_iter().collect::<Vec<_>>(), ["one", "two"]);
    for request in [request("none", None), request("web", Some("web-0"))] {
        let error = bench.platform.logs(&CallContext::new(), &request).await.unwrap_err();
        assert_eq!(error.code, Code::NotFound);
    }
    bench.end().await;
}

#[tokio::test]
async fn a_second_agent_on_a_data_directory_is_refused() {
    let bench = Bench::new().await;
    let error = Agent::open(config(bench.dir.path()), Registry::new()).await.unwrap_err().to_string();
    assert!(error.contains("belongs to a running agent (pid "), "{error}");
    bench.end().await;
}

#[tokio::test]
async fn metrics_and_health_are_shown() {
    let bench = Bench::new().await;
    let address = bench.agent.listen_metrics("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let get = async |path: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/metrics").await.contains("towline_agent_units{state=\"error\"} 0"));
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
    let error = bench.agent.listen_metrics(address).await.unwrap_err().to_string();
    assert!(error.contains("choose another --metrics-listen"), "{error}");
    bench.end().await;
}

#[tokio::test]
async fn units_without_a_definition_are_shown_and_can_be_taken_over_or_deleted() {
    let bench = Bench::new().await;
    let runtime = bench.agent.direct().runtime();
    for name in ["one", "two"] {
        // As a call leaves them that was cut short before it stored what it did.
        let manifest = towline_agent::manifest::parse("test", &yaml(name, &sleeper(""))).unwrap().remove(0);
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
