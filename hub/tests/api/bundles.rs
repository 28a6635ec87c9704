//! Bundles and jobs over HTTP: what HTTP adds to the calls. That the calls themselves arrive equal, the battery shows.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use towline_bus::platform::{MockPlatform, Seen};
use towline_hub::api::types::{BundleContent, BundlePut, JobAccepted, JobRecordInfo, JobWithRecords};
use towline_protocol::bundle::{PutBundleRequest, PutOutcome};
use towline_protocol::job::{JobKind, JobState};
use towline_protocol::version::CallSetVersion;
use towline_protocol::{Code, Effect, Method as Call, StoreId};
use uuid::Uuid;

use crate::support::{SseReader, TestHub, expect, refused};

const SHOP: &str = "/v1/instances/default/shop/bundles/shop";
const JOBS: &str = "/v1/instances/default/shop/jobs";

fn put(hub: &TestHub, query: &str, content: &'static str) -> RequestBuilder {
    let put = hub.request(Method::PUT, &format!("{SHOP}{query}"));
    put.header("content-type", "application/yaml").body(content)
}

#[tokio::test]
async fn z_u1_a_put_replaces_the_version_that_its_caller_saw() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    let refusal = refused(put(&hub, "", "one").header("if-match", "\"1\""), 409).await;
    assert!(refusal.detail.contains("there is no bundle `shop`"), "{}", refusal.detail);
    let response = put(&hub, "?direct=true", "one").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["etag"].to_str().unwrap()), (202, "\"1\""));
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let first: BundlePut = response.json().await.unwrap();
    assert_eq!(location, format!("{JOBS}/{}", first.job.unwrap()));
    let _: JobWithRecords = expect(hub.get(&location), 200).await;

    let next: BundlePut = expect(put(&hub, "", "two").header("if-match", "\"1\""), 202).await;
    assert_eq!(next.version, 2);
    // An attempt whose answer was lost is made again, with another key or with the same one.
    let again: BundlePut = expect(put(&hub, "", "two").header("if-match", "\"1\""), 200).await;
    assert_eq!((again.outcome, again.version, again.job), (PutOutcome::Unchanged, 2, next.job));
    let same: BundlePut = expect(put(&hub, "", "two").header("if-match", "\"2\""), 200).await;
    assert_eq!((same.outcome, same.version), (PutOutcome::Unchanged, 2), "no change, no version");

    let _ = mock.take_seen();
    let refusal = refused(put(&hub, "", "three").header("if-match", "\"1\""), 409).await;
    assert_eq!((refusal.code.as_str(), &refusal.effect), ("conflict", &Effect::None));
    assert!(refusal.detail.contains("at version 2, and `If-Match` says 1"), "{}", refusal.detail);
    let skipped = put(&hub, "?version=4", "three").header("if-match", "\"2\"");
    assert_eq!(refused(skipped, 409).await.code, "conflict");
    let is_put = |seen: &Seen| matches!(seen, Seen::PutBundle { .. });
    assert!(!mock.take_seen().iter().any(is_put), "what is refused at the API does not reach the agent");

    let any: BundlePut = expect(put(&hub, "", "three").header("if-match", "*"), 202).await;
    let higher: BundlePut = expect(put(&hub, "?version=9", "four"), 202).await;
    assert_eq!((any.version, higher.version), (3, 9), "without the header, any higher version is taken");
    let lower = refused(put(&hub, "?version=5", "five"), 409).await;
    assert!(lower.detail.contains("not above 9"), "{}", lower.detail);
    let _: Value = expect(hub.request(Method::DELETE, SHOP), 202).await;
    let gone = refused(put(&hub, "", "five").header("if-match", "\"9\""), 409).await;
    assert!(gone.detail.contains("there is no bundle"), "{}", gone.detail);
    hub.stop().await;
}

#[tokio::test]
async fn a_bundle_comes_back_as_it_was_put() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    let text = "# größer\nkind: App\n---\n";
    let planned: BundlePut = expect(put(&hub, "?dry_run=true&force=true&adopt=true", text), 200).await;
    assert_eq!((planned.outcome, planned.version, planned.job), (PutOutcome::Planned, 1, None));
    refused(hub.get(SHOP), 404).await;
    let _: BundlePut = expect(put(&hub, "", text), 202).await;
    let seen = mock.take_seen();
    let wanted = |dry_run| PutBundleRequest {
        bundle: "shop".parse().unwrap(),
        version: None,
        content: text.into(),
        dry_run,
        force: dry_run,
        adopt: dry_run,
        envelope: None,
    };
    for request in [wanted(true), wanted(false)] {
        assert!(seen.contains(&Seen::PutBundle { request }), "{seen:?}");
    }
    let held: BundleContent = expect(hub.get(SHOP), 200).await;
    assert_eq!((held.content.0.as_ref(), held.version), (text.as_bytes(), 1));
    let yaml = hub.get(SHOP).header("accept", "text/html, application/yaml;q=0.9").send().await.unwrap();
    assert_eq!(yaml.headers()["content-type"], "application/yaml");
    assert_eq!(yaml.headers()["etag"], "\"1\"");
    assert_eq!(yaml.text().await.unwrap(), text);
    let raw: Value = expect(hub.get(SHOP), 200).await;
    assert_eq!(raw["bundle"]["phase"], "active");
    assert!(raw["bundle"]["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{raw}");
    hub.stop().await;
}

#[tokio::test]
async fn a_job_is_watched_from_where_its_watcher_was() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    let accepted: BundlePut = expect(put(&hub, "", "one"), 202).await;
    let paused: JobAccepted =
        expect(hub.request(Method::POST, &format!("{SHOP}/pause?reason=so%20be%20it")), 202).await;
    let job: JobWithRecords = expect(hub.get(&format!("{JOBS}/{}", paused.job)), 200).await;
    assert_eq!((&job.job.kind, job.job.reason.as_deref()), (&JobKind::Pause, Some("so be it")));
    assert_eq!(job.job.request.unwrap().as_str(), paused.request_id);

    let events = format!("{JOBS}/{}/events", accepted.job.unwrap());
    let all = SseReader::open(hub.get(&events)).await.rest().await;
    let names: Vec<_> = all.iter().map(|event| (event.name.as_str(), event.id)).collect();
    assert_eq!(names, [("record", Some(1)), ("record", Some(2)), ("end", None)]);
    let last: JobRecordInfo = serde_json::from_str(&all[1].data).unwrap();
    assert_eq!(last.state, JobState::Done);
    let rest = SseReader::open(hub.get(&events).header("last-event-id", 1)).await.rest().await;
    assert_eq!(rest.len(), 2);
    refused(hub.get(&events).header("last-event-id", "x"), 400).await;
    let gone = mock.take_seen();
    assert!(!gone.is_empty());
    hub.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_bundle_request_is_told_at_the_door() {
    let (hub, _dir) = TestHub::start().await;
    let (_agent, mock) = hub.agent("shop").await;
    let wrong = [
        (hub.get("/v1/instances/default/shop/bundles/Shop!"), "`Shop!` is not a name"),
        (hub.get(&format!("{JOBS}/7")), "`7` is not a job id"),
        (hub.get(&format!("{JOBS}?state=asleep")), "the states are pending, running"),
        (hub.get(&format!("{JOBS}?limit=0")), "from 1 to 10000"),
        (hub.get(&format!("{SHOP}/status?after=web")), "`Kind/name`"),
        (put(&hub, "?version=0", ""), "from 1 to 2^53"),
        (put(&hub, "?dryrun=true", ""), "no parameter `dryrun`"),
        (put(&hub, "", "").header("if-match", "3"), "`If-Match` is neither"),
        (hub.request(Method::POST, &format!("{SHOP}/retry?workload=web")), "parameter `workload`"),
        (hub.request(Method::DELETE, &format!("{SHOP}?reason={}", "x".repeat(1_025))), "1024 are allowed"),
    ];
    for (request, says) in wrong {
        let problem = refused(request, 400).await;
        assert!(problem.detail.contains(says), "{}", problem.detail);
    }
    let json = hub.request(Method::PUT, SHOP).json(&serde_json::json!({}));
    assert!(refused(json, 415).await.detail.contains("application/yaml"));
    let large = hub.request(Method::PUT, SHOP).body(vec![b'#'; (64 << 20) + 1]);
    assert_eq!(refused(large, 413).await.code, Code::TooLarge.as_str());
    assert_eq!(mock.take_seen(), []);
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_older_than_bundles_is_to_be_upgraded() {
    let (hub, _dir) = TestHub::start().await;
    let old = Call::ALL.iter().filter(|call| call.since() <= CallSetVersion::V5);
    let calls = old.map(|call| call.name().to_owned()).collect();
    let mock = MockPlatform::new();
    let _agent = hub.agent_of("shop", StoreId::new(Uuid::new_v4()), calls, mock.clone()).await;
    let _: Value = expect(hub.get("/v1/instances/default/shop/ping"), 200).await;
    let _ = mock.take_seen();
    for request in
        [put(&hub, "", "one"), hub.get(SHOP), hub.get(JOBS), put(&hub, "", "").header("if-match", "*")]
    {
        let problem = refused(request, 501).await;
        assert_eq!((problem.code.as_str(), &problem.effect), ("upgrade_needed", &Effect::None));
        assert!(problem.detail.contains("V6") && problem.help.is_some(), "{problem:?}");
    }
    assert_eq!(mock.take_seen(), [], "nothing was sent");
    hub.stop().await;
}
