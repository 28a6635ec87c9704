//! Calls: apply, sync, export, services, logs.

use std::collections::BTreeSet;

use bytes::Bytes;
use prometheus::Registry;
use towline_agent::Agent;
use towline_bus::CallContext;
use towline_protocol::{
    Code, Effect, StoreId,
    platform::{Definition, LogsRequest, ServiceStatus, SyncAction, UnitStatus},
};

use crate::bench::*;

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

/// Two that wait for each other come up, in whichever order they are sent, and what comes of it is the same. Of a bundle, and of
/// the actions of a sync, the order counts.
#[tokio::test]
async fn f_d15_what_is_applied_directly_waits_for_nothing_of_its_own_call() {
    let mut exports = Vec::new();
    for reversed in [false, true] {
        let bench = Bench::new().await;
        let meets = |own: &str, other: &str| {
            let path = |name: &str| bench.dir.path().join(name).display().to_string();
            let spec = format!(
                "  command: [sh, -c, \"touch $OWN; exec sleep 1000\"]\n  env: {{OWN: {}}}\n  \
                 health: {{exec: {{command: [test, -e, {}]}}, interval: 100ms, retries: 100}}\n",
                path(own),
                path(other)
            );
            definition(own, &spec)
        };
        let mut definitions = vec![
            meets("one", "two"),
            meets("two", "one"),
            definition("odd", &broken()),
            definition("bad", &broken()),
        ];
        if reversed {
            definitions.reverse();
        }
        let error = bench.platform.apply(&CallContext::new(), &definitions).await.unwrap_err();
        let failed: Vec<&str> = error.errors.keys().map(String::as_str).collect();
        assert_eq!(failed, ["default/App/bad", "default/App/odd"], "{error:?}");
        for name in ["one", "two"] {
            assert_eq!(bench.service(name).await.status, ServiceStatus::Ready);
        }
        let exported = bench.platform.export(&CallContext::new()).await.unwrap();
        let text = String::from_utf8(exported.to_vec()).unwrap();
        exports.push(text.replace(&bench.dir.path().display().to_string(), ""));
        let refused = bench.apply("late", &sleeper("  dependsOn: [App/one]\n")).await.unwrap_err();
        let why = &refused.errors["default/App/late"].message;
        assert!(why.contains("spec.dependsOn") && why.contains("unsupported outside a bundle"), "{why}");
        bench.end().await;
    }
    assert_eq!(exports[0], exports[1]);
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
