//! The battery over the whole chain: HTTP API → hub → bus → agent, with the mock at its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Method as Verb, RequestBuilder};
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::{BATTERY, CallContext, Ends, MockPlatform};
use towline_bus::session::EndReason;
use towline_bus::transport::{LinkState, Subscription};
use towline_bus::{Platform as _, Transport, subscribe};
use towline_hub::api::types::Problem;
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::subject::{Root, Subject};
use towline_protocol::{AttemptId, CallError, Code, Effect, Method, ReplicaId, wire};
use towline_tests::chain::{HubChain, Wire, instance, mock_config, nats_link};
use towline_tests::wait::{PATIENCE, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b1_to_b18_over_the_whole_chain() {
    battery_over(HubChain::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b1_to_b18_over_the_whole_chain_on_nats() {
    battery_over(HubChain::start_over(Wire::nats().await).await).await;
}

async fn battery_over(hub: HubChain) {
    let (mock, subscription) = hub.mock("battery").await;
    let near = hub.platform("battery");
    for case in BATTERY {
        case.run(Ends { near: &near, far: &mock }).await;
    }
    subscription.leave().await;
    hub.stop().await;
}

#[tokio::test]
async fn x_b13_a_fatal_error_over_the_whole_chain() {
    fatal_error_over(HubChain::start().await).await;
}

#[tokio::test]
async fn x_b13_a_fatal_error_over_the_whole_chain_on_nats() {
    fatal_error_over(HubChain::start_over(Wire::nats().await).await).await;
}

async fn fatal_error_over(hub: HubChain) {
    let (mock, mut subscription) = hub.mock("a").await;
    let fatal = CallError::new(Code::Fatal, "the runtime is gone");
    mock.fail(Method::Ping, Some(fatal.clone()));
    let error = hub.platform("a").ping(&CallContext::new()).await.unwrap_err();
    assert!(error.is_fatal(), "the caller sees that it was fatal: {error:?}");
    let reason = tokio::time::timeout(PATIENCE, subscription.ended()).await.unwrap();
    assert_eq!(reason, EndReason::Fatal(fatal));
    hub.stop().await;
}

#[tokio::test]
async fn x_b14_an_application_error_over_the_whole_chain() {
    application_error_over(HubChain::start().await).await;
}

#[tokio::test]
async fn x_b14_an_application_error_over_the_whole_chain_on_nats() {
    application_error_over(HubChain::start_over(Wire::nats().await).await).await;
}

async fn application_error_over(hub: HubChain) {
    let (mock, subscription) = hub.mock("a").await;
    let problem = CallError::new(Code::Cluster, "ping problem");
    mock.fail(Method::Ping, Some(problem.clone()));
    for _ in 0..3 {
        assert_eq!(hub.platform("a").ping(&CallContext::new()).await, Err(problem.clone()));
    }
    mock.fail(Method::Ping, None);
    hub.platform("a").ping(&CallContext::new()).await.unwrap();
    subscription.leave().await;
    hub.stop().await;
}

#[tokio::test]
async fn x_a1_absence_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let begun = tokio::time::Instant::now();
    let error = hub.platform("nobody").ping(&CallContext::new()).await.unwrap_err();
    assert!(matches!(error.code, Code::Unavailable | Code::NotFound), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    let (_, subscription) = hub.mock("a").await;
    subscription.leave().await;
    until("goodbye is believed", || async {
        (!hub.bus.connect(&"a".parse().unwrap()).is_connected()).then_some(())
    })
    .await;
    let error = hub.platform("a").ping(&CallContext::new()).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_a3_a_burst_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let (mock, subscription) = hub.mock("a").await;
    mock.set_version("1");
    let mut calls = tokio::task::JoinSet::new();
    let near = hub.platform("a");
    for _ in 0..1_000 {
        let platform = near.clone();
        calls.spawn(async move { platform.version(&CallContext::new()).await });
    }
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().as_deref(), Ok("1"));
    }
    subscription.leave().await;
    hub.stop().await;
}

/// A request at the API's door, with the token.
fn at_the_door(hub: &HubChain, verb: Verb, path: &str) -> RequestBuilder {
    Client::new().request(verb, format!("{}{path}", hub.url)).bearer_auth(&hub.token)
}

/// Sends, and returns the problem that is answered, at once.
async fn refused(request: RequestBuilder) -> Problem {
    let response = tokio::time::timeout(Duration::from_secs(5), request.send()).await.unwrap().unwrap();
    let status = response.status().as_u16();
    let problem: Problem = response.json().await.unwrap();
    assert!(problem.status == status && problem.effect == Effect::None, "{status}: {problem:?}");
    problem
}

async fn errors_told(hub: &HubChain, code: &str) -> f64 {
    hub.metric(&format!("towline_hub_api_errors_total{{code=\"{code}\"}}")).await.unwrap_or_default()
}

#[tokio::test]
async fn x_b16_an_unknown_route_or_method_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let (mock, subscription) = hub.mock("a").await;
    for (verb, path, status, code) in [
        (Verb::POST, "/v1/instances/default/a/self_destruct", 404, "not_found"),
        (Verb::GET, "/v9/instances/default/a/ping", 404, "not_found"),
        (Verb::DELETE, "/v1/instances/default/a/ping", 405, "method_not_allowed"),
        (Verb::from_bytes(b"FROBNICATE").unwrap(), "/v1/instances", 405, "method_not_allowed"),
    ] {
        let before = errors_told(&hub, code).await;
        let problem = refused(at_the_door(&hub, verb, path)).await;
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{path}");
        assert!(problem.help.is_some(), "{path}");
        assert_eq!(errors_told(&hub, code).await, before + 1.0, "{path}");
    }
    assert!(mock.take_seen().is_empty());
    hub.platform("a").ping(&CallContext::new()).await.unwrap();
    subscription.leave().await;
    hub.stop().await;
}

#[tokio::test]
async fn x_b17_an_undecodable_body_over_the_whole_chain() {
    let hub = HubChain::start().await;
    let (mock, subscription) = hub.mock("a").await;
    let mut sent = 0.0;
    for route in ["apply", "sync", "services:lookup", "services:search"] {
        for body in [&b""[..], b"{", b"null", b"\"a string\"", b"\xc1\xff\0", b"{\"nothing\": \"of ours\"}"] {
            let request = at_the_door(&hub, Verb::POST, &format!("/v1/instances/default/a/{route}"));
            let request = request.header("content-type", "application/json").body(body);
            let problem = refused(request).await;
            assert_eq!((problem.status, problem.code.as_str()), (400, "malformed"), "{route} {body:?}");
            sent += 1.0;
        }
    }
    assert_eq!(errors_told(&hub, "malformed").await, sent);
    assert!(mock.take_seen().is_empty());
    hub.platform("a").ping(&CallContext::new()).await.unwrap();
    subscription.leave().await;
    hub.stop().await;
}

/// Publishes a payload on a subject of the agent's, as a hub would, and returns what is answered.
async fn ask_raw(link: &dyn Transport, replies: &mut Subscription, to: String, payload: Bytes) -> CallError {
    let replica = ReplicaId::new(uuid::Uuid::new_v4());
    // Of one that was there before it would be a double.
    let attempt = AttemptId(uuid::Uuid::new_v4().as_u64_pair().0);
    let reply = Subject::Reply { instance: instance("a"), replica, attempt };
    let reply = Root::default().subject(&reply);
    link.publish(to, Some(reply.clone()), payload).await.unwrap();
    loop {
        let message = tokio::time::timeout(PATIENCE, replies.next()).await.unwrap().unwrap();
        if *message.subject == *reply {
            let frame = Frame::decode(&message.payload).unwrap();
            assert_eq!(frame.header.kind, Kind::Failure);
            return wire::decode(&frame.body).unwrap();
        }
    }
}

#[tokio::test]
async fn x_b16_b17_hostile_calls_on_nats_are_refused_at_once_and_counted() {
    let hub = HubChain::start_over(Wire::nats().await).await;
    let (mock, metrics) = (MockPlatform::new(), BusMetrics::unregistered());
    let config = mock_config("a", metrics.clone());
    let serving = subscribe(hub.wire.agent_link("a").await, config, Arc::new(mock.clone())).await.unwrap();
    hub.bus.await_presence(&instance("a"), PATIENCE).await.unwrap();
    let epoch = hub.bus.instance(&instance("a")).unwrap().epoch.unwrap();
    let link = nats_link(hub.wire.server().url()).await;
    link.link().wait_for(|state| *state == LinkState::Connected).await.unwrap();
    let mut replies = link.subscribe("tl.r.>".to_owned(), None).await.unwrap();
    let mut header = Header::new(Kind::Call, Encoding::MessagePack);
    header.epoch = Some(epoch);
    let frame = |body: &'static [u8]| Frame { header: header.clone(), body: Bytes::from_static(body) };
    for (method, payload, code, reason, count) in [
        ("self_destruct", frame(b"").encode(), Code::UpgradeNeeded, "unknown_method", 1),
        ("apply", frame(&[0xc1]).encode(), Code::Invalid, "malformed_body", 1),
        ("sync", frame(&[0xff; 40]).encode(), Code::Invalid, "malformed_body", 2),
        ("ping", Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n"), Code::Invalid, "malformed_frame", 1),
    ] {
        let error = ask_raw(&*link, &mut replies, format!("tl.c.default.a.{epoch}.{method}"), payload).await;
        assert_eq!(error.code, code, "{method}: {error}");
        assert_eq!(metrics.refusals.with_label_values(&[reason]).get(), count, "{method}: {reason}");
    }
    assert!(mock.take_seen().is_empty());
    hub.platform("a").ping(&CallContext::new()).await.unwrap();
    serving.leave().await;
    link.close().await;
    hub.stop().await;
}

#[tokio::test]
async fn x_a5_a_hub_without_its_bus_says_so_fast() {
    let hub = HubChain::start_over(Wire::nats().await).await;
    let (mock, _subscription) = hub.mock("a").await;
    hub.wire.server().kill();
    until("the loss of the bus is known", || async {
        let begun = tokio::time::Instant::now();
        let error = hub.platform("a").ping(&CallContext::new()).await.err()?;
        (error.code == Code::Busy && begun.elapsed() < Duration::from_secs(1)).then_some(())
    })
    .await;
    let error = hub.platform("a").sync(&CallContext::new(), &[]).await.unwrap_err();
    assert_eq!((error.code, error.effect), (Code::Busy, Effect::None), "nothing was sent");
    assert!(mock.executed().is_empty());
    let ready = refused(at_the_door(&hub, Verb::GET, "/readyz")).await;
    assert_eq!((ready.status, ready.code.as_str()), (503, "not_ready"));
}

/// A mutating call whose caller went away is not cut off: it is done, once, and a retry with the same key learns so.
#[tokio::test]
async fn a_lost_caller_does_not_cut_off_what_changes_things() {
    let hub = HubChain::start().await;
    let (mock, subscription) = hub.mock("a").await;
    mock.delay(Method::Sync, Duration::from_millis(300));
    let platform = hub.platform("a");
    let cx = CallContext::new();
    let lost = tokio::time::timeout(Duration::from_millis(100), platform.sync(&cx, &[])).await;
    assert!(lost.is_err(), "the caller went away before the answer");
    until("the work is done", || async { (!mock.executed().is_empty()).then_some(()) }).await;
    assert_eq!(mock.executed(), [cx.id]);
    subscription.leave().await;
    hub.stop().await;
}
