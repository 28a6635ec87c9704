//! Calls through the whole chain: HTTP, hub, bus, agent.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use towline_bus::platform::{ItemSink, ItemStream, MockPlatform, Seen};
use towline_bus::{CallContext, Platform};
use towline_hub::api::types::{
    ActionInfo, Apply, DefinitionInfo, Done, LogLineInfo, Pong, Problem, ServiceList, Sync, Version,
};
use towline_protocol::platform::{
    Definition, LogLine, LogSource, LogsRequest, Service, ServiceStatus, Unit, UnitStatus,
};
use towline_protocol::{CallError, Code, Effect, ItemError, Method as Call, ResourceId, StoreId};
use uuid::Uuid;

use crate::support::{SseReader, TestHub, eventually, expect, refused};

const SHOP: &str = "/v1/instances/default/shop";

fn id(text: &str) -> ResourceId {
    text.parse().expect("the test's id is one")
}

fn services() -> Vec<Service> {
    let unit = Unit {
        id: "web-1".to_owned(),
        status: UnitStatus::Started,
        reason: Some("größer ☃".to_owned()),
        since_unix_ms: Some(1_700_000_000_123),
        pid: Some(4_242),
        restarts: 3,
        ports: BTreeMap::from([("http".to_owned(), 8_080)]),
        image: Some("web:1".to_owned()),
        host: None,
    };
    let full = Service {
        id: id("default/App/web"),
        address: Some("127.0.0.1:8080".to_owned()),
        metadata: BTreeMap::from([("a".to_owned(), String::new())]),
        status: ServiceStatus::Ready,
        units: vec![unit],
        excuse: None,
    };
    let empty = Service {
        id: id("default/App/none"),
        address: None,
        metadata: BTreeMap::new(),
        status: ServiceStatus::Unknown,
        units: Vec::new(),
        excuse: Some("the runtime did not answer".to_owned()),
    };
    vec![full, empty]
}

#[tokio::test]
async fn x_b1_b2_b3_b5_reading_calls_arrive_equal() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    mock.set_services(services());
    let _: Pong = expect(hub.get(&format!("{SHOP}/ping")), 200).await;
    let version: Version = expect(hub.get(&format!("{SHOP}/version?timeout=5s")), 200).await;
    assert_eq!(version.version, "1.2.3");
    let path = format!("{SHOP}/services?namespace=default&ignore=a,b&ignore=default/App/c");
    let found: ServiceList = expect(hub.get(&path), 200).await;
    let found: Vec<Service> = found.services.into_iter().map(Into::into).collect();
    assert_eq!(found, services());
    let lookup = json!({"ids": ["default/App/web", "größer"]});
    let _: ServiceList = expect(hub.post(&format!("{SHOP}/services:lookup"), &lookup), 200).await;
    let _: ServiceList = expect(hub.post(&format!("{SHOP}/services:lookup"), &json!({"ids": []})), 200).await;
    let ignored = ["a", "b", "default/App/c"].map(id).into();
    let seen = mock.take_seen();
    assert!(seen.contains(&Seen::AllServices { namespace: Some("default".to_owned()), ignored }), "{seen:?}");
    assert!(seen.contains(&Seen::SomeServices { ids: vec![id("default/App/web"), id("größer")] }));
    assert!(seen.contains(&Seen::SomeServices { ids: Vec::new() }));
    hub.stop().await;
}

#[tokio::test]
async fn x_b7_b9_mutating_calls_arrive_equal() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    let definitions: Vec<_> = [&b"kind: App\n"[..], b"", b"\xff\x00\xfe", "größer".as_bytes()]
        .into_iter()
        .enumerate()
        .map(|(number, bytes)| DefinitionInfo {
            id: id(&format!("default/App/{number}")),
            definition: Bytes::from_static(bytes).into(),
            is_async: number == 1,
        })
        .collect();
    let apply = Apply { definitions: definitions.clone() };
    let done: Done =
        expect(hub.post(&format!("{SHOP}/apply"), &apply).header("idempotency-key", "k-1"), 200).await;
    assert_eq!(done.request_id, "k-1");
    let actions = vec![
        ActionInfo { id: id("a"), delete: Some(Bytes::from_static(b"x").into()), apply: None },
        ActionInfo { id: id("b"), delete: None, apply: Some(Bytes::new().into()) },
    ];
    let _: Done = expect(hub.post(&format!("{SHOP}/sync"), &Sync { actions }), 200).await;
    let seen = mock.take_seen();
    let Some(Seen::Apply { definitions: found }) = seen.first() else { panic!("{seen:?}") };
    for (found, sent) in found.iter().zip(&definitions) {
        assert_eq!(
            (&found.id, &found.definition, found.is_async),
            (&sent.id, &sent.definition.0, sent.is_async)
        );
    }
    let Some(Seen::Sync { actions: found }) = seen.get(1) else { panic!("{seen:?}") };
    assert_eq!((&found[0].delete, &found[0].apply), (&Some(Bytes::from_static(b"x")), &None));
    assert_eq!((&found[1].delete, &found[1].apply), (&None, &Some(Bytes::new())));
    hub.stop().await;
}

#[tokio::test]
async fn x_b8_b10_b15_errors_survive_every_hop() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    let item = ItemError::new(Code::Invalid, "spec.units is -1").with_help("0 to 1000 is allowed");
    let failed = CallError::cluster(BTreeMap::from([("default/App/web".to_owned(), item)]), Effect::Partial);
    mock.fail(Call::Apply, Some(failed.clone()));
    let apply = hub.post(&format!("{SHOP}/apply"), &json!({"definitions": []}));
    assert_eq!(refused(apply, 502).await.into_call_error(), failed);
    for (code, status) in [(Code::UpgradeNeeded, 501), (Code::NotFound, 404), (Code::Busy, 429)] {
        let failed = CallError::new(code, "the mock says no");
        mock.fail(Call::Export, Some(failed.clone()));
        let problem: Problem = refused(hub.get(&format!("{SHOP}/export")), status).await;
        assert_eq!(problem.into_call_error(), failed);
    }
    let response = hub.get(&format!("{SHOP}/export")).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    hub.stop().await;
}

#[tokio::test]
async fn x_b12_export_is_identical() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    for size in [0, 1, 1 << 20, 16 << 20, 64 << 20] {
        let config: Bytes = (0..size).map(|number: usize| (number.wrapping_mul(31) >> 3) as u8).collect();
        mock.set_config(config.clone());
        let response = hub.get(&format!("{SHOP}/export")).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/octet-stream");
        assert_eq!(response.headers()["content-length"], size.to_string());
        assert!(response.bytes().await.unwrap() == config, "{size} bytes differ");
    }
    hub.stop().await;
}

#[tokio::test]
async fn logs_are_a_stream_with_an_end() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    let lines: Vec<_> = (0..3)
        .map(|number| LogLine {
            unit: "web-1".to_owned(),
            at_unix_ns: 1_700_000_000_123_456_789 + number,
            source: LogSource::Stderr,
            text: format!("line {number}\twith a tab"),
            partial: number == 1,
        })
        .collect();
    mock.set_lines(lines.clone());
    let path = format!("{SHOP}/logs?app=default/App/web&tail=3&unit=web-1");
    let mut told = SseReader::open(hub.get(&path)).await.rest().await;
    assert_eq!(told.pop().unwrap().name, "end");
    let found: Vec<LogLine> =
        told.iter().map(|event| serde_json::from_str::<LogLineInfo>(&event.data).unwrap().into()).collect();
    assert_eq!(found, lines);
    hub.stop().await;
}

/// An app that writes nothing, and goes on.
struct Quiet(
    #[expect(dead_code, reason = "held, so that the stream goes on")] ItemSink<LogLine>,
    Mutex<Option<ItemStream<LogLine>>>,
);

#[async_trait::async_trait]
impl Platform for Quiet {
    async fn logs(&self, _: &CallContext, _: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        Ok(self.1.lock().expect("nobody panics with it").take().expect("it is asked once"))
    }
}

#[tokio::test]
async fn a_stream_of_logs_lasts_as_long_as_it_was_told() {
    let (hub, _dir) = TestHub::start().await;
    let (sink, stream) = ItemStream::channel();
    let platform = Quiet(sink, Mutex::new(Some(stream)));
    let _agent = hub.agent_with("shop", StoreId::new(Uuid::new_v4()), platform).await;
    let path = format!("{SHOP}/logs?app=default/App/web&follow=true&timeout=200ms");
    let told = SseReader::open(hub.get(&path)).await.rest().await;
    let [end] = told.as_slice() else { panic!("{told:?}") };
    let problem: Problem = serde_json::from_str(&end.data).unwrap();
    assert_eq!((end.name.as_str(), problem.code.as_str()), ("error", "expired"));
    assert_eq!(problem.effect, Effect::None);
    hub.stop().await;
}

#[tokio::test]
async fn x_a1_an_absent_instance_is_unavailable_at_once() {
    let (hub, _dir) = TestHub::start().await;
    let _: Value = expect(hub.get("/v1/instances"), 200).await;
    #[expect(clippy::disallowed_methods, reason = "the test measures")]
    let begun = Instant::now();
    for path in ["ping", "version", "services", "export", "logs?app=a"] {
        let problem = refused(hub.get(&format!("{SHOP}/{path}")), 503).await;
        assert_eq!((problem.code.as_str(), problem.effect), ("unavailable", Effect::None));
        assert!(problem.help.is_some());
    }
    let apply =
        hub.post(&format!("{SHOP}/apply"), &json!({"definitions": []})).header("idempotency-key", "k");
    refused(apply, 503).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    hub.stop().await;
}

/// As an agent does: refuses what is pinned to another store, and does the rest.
struct Store {
    id: StoreId,
    done: MockPlatform,
}

#[async_trait::async_trait]
impl Platform for Store {
    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        match cx.store {
            Some(pinned) if pinned != self.id => {
                Err(CallError::unknown_outcome("another store saw it first"))
            }
            _ => self.done.apply(cx, definitions).await,
        }
    }
}

#[tokio::test]
async fn a_retry_is_pinned_to_the_store_of_its_first_attempt() {
    let (hub, _dir) = TestHub::start().await;
    let shop = "shop".parse().unwrap();
    let serve = async |done: &MockPlatform| {
        let id = StoreId::new(Uuid::new_v4());
        hub.agent_with("shop", id, Store { id, done: done.clone() }).await
    };
    let apply = |key: &str| {
        hub.post(&format!("{SHOP}/apply"), &json!({"definitions": []})).header("idempotency-key", key)
    };
    let (first, second) = (MockPlatform::new(), MockPlatform::new());
    let agent = serve(&first).await;
    let _: Done = expect(apply("once"), 200).await;
    let _: Done = expect(apply("once"), 200).await;
    agent.leave().await;
    eventually("the first agent is gone", async || hub.bus.ping(&shop).await.is_err()).await;

    let _agent = serve(&second).await;
    let problem = refused(apply("once"), 504).await;
    assert_eq!((problem.code.as_str(), problem.effect), ("unknown_outcome", Effect::Unknown));
    assert!(second.executed().is_empty(), "another store would have done it again");
    let _: Done = expect(apply("another"), 200).await;
    assert_eq!(second.executed().len(), 1);
    hub.stop().await;
}

#[tokio::test]
async fn an_attempt_that_did_nothing_pins_nothing() {
    let (hub, _dir) = TestHub::start().await;
    let shop = "shop".parse().unwrap();
    let apply = || {
        let apply = hub.post(&format!("{SHOP}/apply"), &json!({"definitions": []}));
        apply.header("idempotency-key", "again")
    };
    refused(apply(), 503).await;
    let (first, second) = (MockPlatform::new(), MockPlatform::new());
    let store = StoreId::new(Uuid::new_v4());
    let agent = hub.agent_with("shop", store, Store { id: store, done: first.clone() }).await;
    first.fail(Call::Apply, Some(CallError::new(Code::Busy, "the agent has no room")));
    assert_eq!(refused(apply(), 429).await.effect, Effect::None);
    agent.leave().await;
    eventually("the first agent is gone", async || hub.bus.ping(&shop).await.is_err()).await;

    // The host was replaced: the retry is welcome at its new store.
    let store = StoreId::new(Uuid::new_v4());
    let _agent = hub.agent_with("shop", store, Store { id: store, done: second.clone() }).await;
    let _: Done = expect(apply(), 200).await;
    assert_eq!(second.executed().len(), 1);
    hub.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_mutating_work_along() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    mock.delay(Call::Apply, Duration::from_millis(500));
    let apply = hub.post(&format!("{SHOP}/apply"), &json!({"definitions": []}));
    assert!(apply.timeout(Duration::from_millis(150)).send().await.is_err(), "the caller gave up");
    // The hub drains what is under way, so the outcome is there when it has stopped.
    hub.stop().await;
    assert_eq!(mock.executed().len(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_reading_call_back() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    mock.delay(Call::Export, Duration::from_secs(3_600));
    let export = hub.get(&format!("{SHOP}/export"));
    assert!(export.timeout(Duration::from_millis(150)).send().await.is_err(), "the caller gave up");
    eventually("no call is under way", async || {
        hub.metrics().await.contains("towline_bus_in_flight_requests 0\n")
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_slow_change_does_not_delay_a_ping() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    mock.delay(Call::Apply, Duration::from_secs(3));
    let apply = hub.post(&format!("{SHOP}/apply"), &json!({"definitions": []}));
    let pings = async {
        eventually("the change is under way", async || {
            hub.metrics().await.contains("towline_bus_in_flight_requests 1\n")
        })
        .await;
        let pong: Pong = expect(hub.get(&format!("{SHOP}/ping?timeout=1s")), 200).await;
        assert!(pong.round_trip_us < 1_000_000);
    };
    let (done, ()) = tokio::join!(expect::<Done>(apply, 200), pings);
    assert!(!done.request_id.is_empty());
    hub.stop().await;
}
