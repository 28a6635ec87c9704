//! Events as a watcher sees them.

use towline_hub::api::types::{Event, Gap};

use crate::support::{SseReader, TestHub};

#[tokio::test]
async fn a_watch_has_history_goes_on_and_is_resumed() {
    let (hub, _dir) = TestHub::start().await;
    let mut watch = SseReader::open(hub.get("/v1/events")).await;
    let (agent, _mock) = hub.agent("acme/shop").await;
    let first = watch.next().await.unwrap();
    assert_eq!((first.name.as_str(), first.id), ("connected", Some(1)));
    let event: Event = serde_json::from_str(&first.data).unwrap();
    assert_eq!((event.sequence, event.instance.as_str(), event.kind.as_str()), (1, "acme/shop", "connected"));
    agent.leave().await;
    let second = watch.next().await.unwrap();
    assert_eq!(second.id, Some(2));
    drop(watch);

    let resumed = hub.get("/v1/events?follow=false").header("last-event-id", "1");
    let rest = SseReader::open(resumed).await.rest().await;
    assert_eq!(rest.iter().map(|event| event.id).collect::<Vec<_>>(), [Some(2)]);
    let all = SseReader::open(hub.get("/v1/events?follow=false")).await.rest().await;
    assert_eq!(all, [first, second]);
    hub.stop().await;
}

#[tokio::test]
async fn a_watch_is_filtered() {
    let (hub, _dir) = TestHub::start().await;
    let (_shop, _) = hub.agent("acme/shop").await;
    let (_depot, _) = hub.agent("acme/depot").await;
    let mut all = SseReader::open(hub.get("/v1/events?kind=connected")).await;
    all.next().await.unwrap();
    all.next().await.unwrap();
    for (query, count) in [
        ("instance=acme/depot", 1),
        ("instance=acme/other", 0),
        ("kind=kicked,left", 0),
        ("kind=kicked&kind=connected", 2),
        ("since=1h", 2),
        ("since=2999-01-01T00:00:00Z", 0),
    ] {
        let path = format!("/v1/events?follow=false&{query}");
        let found = SseReader::open(hub.get(&path)).await.rest().await;
        assert_eq!(found.len(), count, "{query}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_watcher_from_another_log_is_told_of_the_gap() {
    let (hub, _dir) = TestHub::start().await;
    let watch = hub.get("/v1/events?follow=false").header("last-event-id", "77");
    let told = SseReader::open(watch).await.rest().await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].name, "gap");
    assert_eq!(serde_json::from_str::<Gap>(&told[0].data).unwrap(), Gap { after: 77 });
    hub.stop().await;
}

#[tokio::test]
async fn a_watch_ends_when_the_hub_stops() {
    let (hub, _dir) = TestHub::start().await;
    let mut watch = SseReader::open(hub.get("/v1/events")).await;
    hub.begin_stop();
    assert_eq!(watch.next().await, None);
    hub.stop().await;
}
