//! Hostile bytes on every subject: each is refused, counted, and ends no loop.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::CallContext;
use towline_bus::transport::Subscription;
use towline_bus::{Platform as _, Transport};
use towline_protocol::frame::{Encoding, Frame, Header, Kind, Total};

use towline_protocol::session::{Claim, ClaimMode, Leaving, Renewal};
use towline_protocol::subject::{Root, Subject, Verb};
use towline_protocol::{
    AttemptId, BootId, CallError, Code, Epoch, InstanceId, Method, ReplicaId, StoreId, limits, wire,
};
use uuid::Uuid;

use super::fixture::{Agent, Hub, PATIENCE, eventually, id};

fn refusals(metrics: &BusMetrics, reason: &str) -> u64 {
    metrics.refusals.with_label_values(&[reason]).get()
}

/// Somebody with a hub's permissions, who says whatever he likes.
struct Caller {
    transport: Arc<dyn Transport>,
    replies: Subscription,
    replica: ReplicaId,
    last: u64,
}

impl Caller {
    async fn new(hub: &Hub) -> Self {
        let transport: Arc<dyn Transport> = hub.broker.connect();
        let replies = transport.subscribe("tl.r.>".to_owned(), None).await.unwrap();
        Self { transport, replies, replica: ReplicaId::new(Uuid::new_v4()), last: 0 }
    }

    /// Sends a payload to a call subject and returns what is answered.
    async fn ask(&mut self, subject: &str, payload: Bytes) -> CallError {
        self.last += 1;
        let reply =
            Subject::Reply { instance: id("a"), replica: self.replica, attempt: AttemptId(self.last) };
        let reply = Root::default().subject(&reply);
        self.transport.publish(subject.to_owned(), Some(reply.clone()), payload).await.unwrap();
        loop {
            let message = tokio::time::timeout(limits::STREAM_SILENCE_MAX + PATIENCE, self.replies.next())
                .await
                .unwrap()
                .unwrap();
            assert!(!message.no_responders, "nobody hears {subject}");
            if *message.subject != *reply {
                continue;
            }
            let frame = Frame::decode(&message.payload).unwrap();
            if frame.header.kind == Kind::Failure {
                return wire::decode(&frame.body).unwrap();
            }
        }
    }

    async fn call(&mut self, epoch: Epoch, method: &str, body: Vec<u8>) -> CallError {
        self.ask(&format!("tl.c.default.a.{epoch}.{method}"), call_frame(epoch, body.into()).encode()).await
    }
}

fn call_frame(epoch: Epoch, body: Bytes) -> Frame {
    let mut header = Header::new(Kind::Call, Encoding::MessagePack);
    header.epoch = Some(epoch);
    Frame { header, body }
}

fn epoch_of(agent: &Agent) -> Epoch {
    agent.subscription.serving().borrow().unwrap()
}

#[tokio::test]
async fn x_b16_an_unknown_method_is_refused_at_once() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let mut caller = Caller::new(&hub).await;
    let error = caller.call(epoch_of(&agent), "self_destruct", Vec::new()).await;
    assert_eq!(error.code, Code::UpgradeNeeded);
    assert!(error.message.contains("self_destruct"), "{error}");
    assert_eq!(refusals(&agent.metrics, "unknown_method"), 1);
    hub.bus.ping(&id("a")).await.unwrap();
}

#[tokio::test]
async fn x_b17_an_undecodable_request_is_refused_and_counted() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let epoch = epoch_of(&agent);
    let mut caller = Caller::new(&hub).await;
    let mut undecodable = 0;
    for method in Method::ALL {
        for body in [vec![], vec![0xc1], vec![0xff; 40], vec![0x91; 5_000], wire::encode(&"a string")] {
            let error = caller.call(epoch, method.name(), body).await;
            assert_eq!(error.code, Code::Invalid, "{method}: {error}");
            undecodable += 1;
        }
    }
    assert_eq!(refusals(&agent.metrics, "malformed_body"), undecodable);
    for payload in [&b""[..], b"\0", b"\x01\x01", &[1; 29], b"GET / HTTP/1.1\r\n\r\n"] {
        let subject = format!("tl.c.default.a.{epoch}.ping");
        let error = caller.ask(&subject, Bytes::copy_from_slice(payload)).await;
        assert_eq!(error.code, Code::Invalid, "{payload:?}: {error}");
    }
    assert_eq!(refusals(&agent.metrics, "malformed_frame"), 5);
    assert!(agent.mock.take_seen().is_empty());
    hub.bus.ping(&id("a")).await.unwrap();
}

#[tokio::test]
async fn forged_epochs_and_replies_are_refused() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let epoch = epoch_of(&agent);
    let mut caller = Caller::new(&hub).await;
    // The frame of another epoch on this epoch's subject.
    let other = call_frame(epoch.next().unwrap(), wire::encode(&()).into());
    let error = caller.ask(&format!("tl.c.default.a.{epoch}.apply"), other.encode()).await;
    assert_eq!(error.code, Code::Fenced);
    // A reply subject of another instance: the agent is nobody's deputy.
    let frame = call_frame(epoch, Bytes::new()).encode();
    for reply in ["tl.r.default.b.0.1", "tl.c.default.a.1.apply", "_INBOX.x", "tl.r.default.a.x.1"] {
        let subject = format!("tl.c.default.a.{epoch}.ping");
        caller.transport.publish(subject, Some(reply.to_owned()), frame.clone()).await.unwrap();
    }
    eventually("all four are refused", || refusals(&agent.metrics, "no_reply_subject") == 4).await;
    assert!(agent.mock.take_seen().is_empty());
}

#[tokio::test]
async fn wrong_totals_and_huge_lists_are_refused() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let epoch = epoch_of(&agent);
    let mut caller = Caller::new(&hub).await;
    let subject = format!("tl.c.default.a.{epoch}.some_services");
    for (sent_bytes, full_bytes) in [(u64::MAX, 1), (1, u64::MAX), (1, 1)] {
        let mut frame = call_frame(epoch, Bytes::from_static(b"more than one byte"));
        frame.header.total = Some(Total { sent_bytes, full_bytes, digest: [0; 32] });
        let error = caller.ask(&subject, frame.encode()).await;
        assert!(matches!(error.code, Code::Invalid | Code::Busy), "{error:?}");
    }
    let ids = (0..=limits::IDS_MAX).map(|n| format!("{n}").parse().unwrap()).collect::<Vec<_>>();
    let error = hub.connect("a").some_services(&CallContext::new(), &ids).await.unwrap_err();
    assert_eq!(error.code, Code::TooLarge, "refused before anything is sent");
    assert!(agent.mock.take_seen().is_empty());
    hub.bus.ping(&id("a")).await.unwrap();
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let epoch = epoch_of(&agent);
    let mut caller = Caller::new(&hub).await;
    let mut frame = call_frame(epoch, Bytes::from_static(b"the first part"));
    frame.header.total = Some(Total { sent_bytes: 1 << 20, full_bytes: 1 << 20, digest: [0; 32] });
    // The memory that was set aside for it is free again, and nothing was executed.
    let error = caller.ask(&format!("tl.c.default.a.{epoch}.apply"), frame.encode()).await;
    assert_eq!(error.code, Code::Expired);
    assert!(agent.mock.executed().is_empty());
}

#[tokio::test]
async fn hostile_bytes_at_the_hub_end_no_loop() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let epoch = epoch_of(&agent);
    let hostile = hub.broker.connect();
    let garbage =
        [&b""[..], b"\0", &[0xff; 100], &[1; 30], b"\x01\x0a\0\x01garbage with a long tail of bytes beyond"];
    let subjects = [
        "tl.q.default.a.claim",
        "tl.q.default.a.ready",
        "tl.q.default.a.stand-down",
        "tl.q.default.a.goodbye",
        "tl.q.default.a.nonsense",
        "tl.q.*.a.claim",
        "tl.q.default.UPPER.claim",
        "tl.e.default.a.heartbeat",
        "tl.e.default.>.heartbeat",
    ];
    let mut sent = 0;
    for subject in subjects {
        for payload in garbage {
            // What is no subject at all, the transport refuses by itself.
            let taken = hostile.publish(subject.to_owned(), None, Bytes::copy_from_slice(payload)).await;
            sent += u64::from(taken.is_ok());
        }
    }
    let all = |metrics: &BusMetrics| {
        ["malformed_subject", "malformed_frame", "malformed_body"]
            .iter()
            .map(|why| refusals(metrics, why))
            .sum::<u64>()
    };
    eventually("each is counted", || all(&hub.metrics) == sent).await;
    // Well formed, and still none of theirs: another boot's renewal, stand-down, goodbye.
    let stranger = BootId::new(Uuid::new_v4());
    let leaving = wire::encode(&Leaving { boot: stranger, epoch });
    let renewal =
        wire::encode(&Renewal { boot: stranger, epoch, applied: Bytes::new(), health: Default::default() });
    let frame =
        |kind, body: Vec<u8>| Frame { header: Header::new(kind, Encoding::MessagePack), body: body.into() };
    for (subject, frame) in [
        ("tl.q.default.a.goodbye", frame(Kind::Ask, leaving.clone())),
        ("tl.q.default.a.stand-down", frame(Kind::Ask, leaving)),
        ("tl.e.default.a.heartbeat", frame(Kind::Heartbeat, renewal)),
    ] {
        hostile.publish(subject.to_owned(), None, frame.encode()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    hub.bus.ping(&id("a")).await.unwrap();
    assert_eq!(hub.bus.instances().len(), 1, "strangers are not remembered");
}

#[tokio::test]
async fn oversized_claims_are_refused() {
    let hub = Hub::start().await;
    let hostile = hub.broker.connect();
    let claim = |version: String, calls: usize| Claim {
        boot: BootId::new(Uuid::new_v4()),
        nonce: 1,
        store: StoreId::new(Uuid::new_v4()),
        mode: ClaimMode::Fresh,
        last_epoch: None,
        held: None,
        version,
        runtime: String::new(),
        calls: vec!["x".to_owned(); calls],
    };
    for claim in [claim("v".repeat(10_000), 1), claim("v".to_owned(), 10_000)] {
        let frame = Frame {
            header: Header::new(Kind::Ask, Encoding::MessagePack),
            body: wire::encode(&claim).into(),
        };
        let subject = Root::default().subject(&Subject::Ask { instance: id("a"), verb: Verb::Claim });
        hostile.publish(subject, None, frame.encode()).await.unwrap();
    }
    eventually("both are refused", || refusals(&hub.metrics, "oversized_claim") == 2).await;
    assert!(hub.bus.instances().is_empty());
}

#[tokio::test]
async fn hostile_replies_do_not_reach_another_instances_call() {
    let hub = Hub::start().await;
    let agent = hub.serving("a").await;
    let _other = hub.serving("b").await;
    agent.mock.delay(Method::Version, Duration::from_secs(1));
    agent.mock.set_version("true");
    let remote = hub.connect("a");
    let call = tokio::spawn(async move { remote.version(&CallContext::new()).await });
    // The spy sees the reply subject on the wire and tries to answer as somebody else.
    let spy = hub.broker.connect();
    let mut calls = spy.subscribe("tl.c.>".to_owned(), None).await.unwrap();
    let call = match tokio::time::timeout(Duration::from_millis(200), calls.next()).await {
        Ok(Some(message)) => {
            let reply = message.reply.unwrap();
            let forged = reply.replace(".default.a.", ".default.b.");
            let mut header = Header::new(Kind::Reply, Encoding::MessagePack);
            header.epoch = Frame::decode(&message.payload).unwrap().header.epoch;
            let frame = Frame { header, body: wire::encode(&"forged").into() };
            spy.publish(forged, None, frame.encode()).await.unwrap();
            eventually("it is refused", || refusals(&hub.metrics, "forged_reply") == 1).await;
            call
        }
        // The call was faster than the spy; its answer is true all the same.
        _ => call,
    };
    assert_eq!(call.await.unwrap().as_deref(), Ok("true"));
}

#[tokio::test]
async fn x_a6_hostile_instance_ids_do_not_pass_the_bus() {
    let hub = Hub::start().await;
    for bad in ["*", ">", "a.b", "", &"a".repeat(64), "é"] {
        assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
    }
    // Subjects that carry them are refused by the transport, or by the hub.
    let hostile = hub.broker.connect();
    let frame = Frame { header: Header::new(Kind::Heartbeat, Encoding::MessagePack), body: Bytes::new() };
    let mut taken = 0;
    for tenant in ["*", ">", "é", "UPPER"] {
        let sent = hostile.publish(format!("tl.e.{tenant}.x.heartbeat"), None, frame.encode()).await;
        taken += u64::from(sent.is_ok());
    }
    assert!(taken >= 2);
    eventually("each is counted", || refusals(&hub.metrics, "malformed_subject") == taken).await;
}
