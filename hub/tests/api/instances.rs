//! Instances: made, shown, deleted; seen, lost, never seen.

use reqwest::{Method, StatusCode};
use serde_json::json;
use towline_bus::transport::memory::MemoryBroker;
use towline_hub::api::types::{Instance, InstanceList};

use crate::support::{TestHub, config, eventually, expect, refused, succeeds};

#[tokio::test]
async fn an_instance_is_created_shown_and_deleted() {
    let (hub, _dir) = TestHub::start().await;
    let create = || hub.post("/v1/instances", &json!({"id": "acme/shop", "labels": {"site": "Zürich"}}));
    let response = create().send().await.unwrap();
    assert_eq!(response.headers()["location"], "/v1/instances/acme/shop");
    assert_eq!(refused(create(), 409).await.code, "conflict");
    let shown: Instance = expect(hub.get("/v1/instances/acme/shop"), 200).await;
    assert_eq!((shown.id.as_str(), shown.origin.as_str()), ("acme/shop", "created"));
    assert_eq!(shown.labels["site"], "Zürich");
    assert_eq!((shown.presence.state.as_str(), shown.health.state.as_str()), ("never_seen", "unknown"));
    assert_eq!(shown.session, None);
    let list: InstanceList = expect(hub.get("/v1/instances?tenant=acme"), 200).await;
    assert_eq!(list.instances.len(), 1);
    assert_eq!(list.bus, "connected");
    let list: InstanceList = expect(hub.get("/v1/instances?tenant=other"), 200).await;
    assert!(list.instances.is_empty());

    succeeds(hub.request(Method::DELETE, "/v1/instances/acme/shop"), StatusCode::NO_CONTENT).await;
    assert_eq!(refused(hub.get("/v1/instances/acme/shop"), 404).await.code, "not_found");
    refused(hub.request(Method::DELETE, "/v1/instances/acme/shop"), 404).await;
    hub.stop().await;
}

#[tokio::test]
async fn labels_are_bounded() {
    let (hub, _dir) = TestHub::start().await;
    let many: std::collections::BTreeMap<_, _> = (0..65).map(|number| (number.to_string(), "")).collect();
    for labels in [json!(many), json!({"": "x"}), json!({"a": "x".repeat(256)}), json!({"a": "line\nbreak"})]
    {
        let problem = refused(hub.post("/v1/instances", &json!({"id": "shop", "labels": labels})), 422).await;
        assert_eq!(problem.code, "invalid");
    }
    refused(hub.post("/v1/instances", &json!({"id": "shop", "lables": {}})), 400).await;
    hub.stop().await;
}

#[tokio::test]
async fn an_instance_that_claims_is_put_on_record_and_its_age_is_told() {
    let (hub, dir) = TestHub::start().await;
    let (agent, _mock) = hub.agent("default/shop").await;
    let shown: Instance = expect(hub.get("/v1/instances/default/shop"), 200).await;
    assert_eq!(shown.presence.state, "connected");
    assert!(shown.presence.last_heard_ms_ago.is_some_and(|ago| ago < 60_000));
    assert_eq!(shown.health.state, "healthy");
    let session = shown.session.unwrap();
    assert_eq!((session.version.as_deref(), session.runtime.as_deref()), (Some("1.2.3"), Some("mock")));
    assert!(session.epoch.unwrap() > 1_600_000_000_000);

    let problem = refused(hub.request(Method::DELETE, "/v1/instances/default/shop"), 409).await;
    assert!(problem.help.unwrap().contains("force=true"));

    agent.leave().await;
    eventually("the goodbye is noticed", async || {
        let shown: Instance = expect(hub.get("/v1/instances/default/shop"), 200).await;
        shown.presence.state == "unreachable"
    })
    .await;
    let shown: Instance = expect(hub.get("/v1/instances/default/shop"), 200).await;
    assert_eq!(shown.health.state, "unknown", "nothing is shown as well from stale data");
    assert_eq!(shown.presence.last_heard_ms_ago, None);
    hub.stop().await;

    // After a restart: still on record, and not connected.
    let hub = TestHub::start_on(&config(dir.path()), MemoryBroker::new()).await;
    let shown: Instance = expect(hub.get("/v1/instances/default/shop"), 200).await;
    assert_eq!((shown.origin.as_str(), shown.presence.state.as_str()), ("first_seen", "unreachable"));
    // And who creates it then, keeps its age.
    let created: Instance =
        expect(hub.post("/v1/instances", &json!({"id": "shop", "labels": {"a": "b"}})), 201).await;
    assert_eq!((created.origin.as_str(), created.created_at), ("created", shown.created_at));
    hub.stop().await;
}
