//! The baseline: raw NATS requests that carry the same bytes as pings and their answers, subjects included.

use std::time::Duration;

use bytes::Bytes;
use towline_protocol::call::CallBody;
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::platform::{PingRequest, PingResponse, Service, ServicesResponse};
use towline_protocol::subject::Root;
use towline_protocol::{AttemptId, Epoch, Method, Name, ReplicaId, RequestId, wire};
use towline_tests::chain::instance;
use towline_tests::nats::NatsServer;
use uuid::Uuid;

use super::calls::load;
use super::children::{Owned, spawn};

/// First token of its subjects, as long as that of the calls.
const ROOT: &str = "rw";

/// What ends an inbox of async-nats: twice a dot and 22 characters.
const INBOX_TAIL: usize = 2 * 23;

/// A requester, and a responder in a process of its own.
pub(crate) struct Raw {
    client: async_nats::Client,
    subject: String,
    payload: Bytes,
    pub(crate) responder: Owned,
}

impl Raw {
    pub(crate) async fn start(server: &NatsServer) -> Self {
        let (request_bytes, reply_bytes) = ping_bytes();
        let (subject, reply) = subjects();
        let responder = spawn(&["raw", &server.url(), &subject, &reply_bytes.to_string()]);
        let options = async_nats::ConnectOptions::new().custom_inbox_prefix(inbox_prefix(&reply));
        let client = options.connect(server.url()).await.unwrap();
        let payload = Bytes::from(vec![7; request_bytes]);
        let raw = Self { client, subject, payload, responder };
        // The responder may not have subscribed yet.
        while raw.client.request(raw.subject.clone(), raw.payload.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        raw
    }

    /// Requests from so many tasks at once, for a while; the rate and the latencies.
    pub(crate) async fn requests(&self, at_once: usize) -> (f64, Vec<Duration>) {
        let (client, subject, payload) = (self.client.clone(), self.subject.clone(), self.payload.clone());
        load(at_once, move || {
            let (client, subject, payload) = (client.clone(), subject.clone(), payload.clone());
            async move { drop(client.request(subject, payload).await.unwrap()) }
        })
        .await
    }
}

/// The same for a large answer: the list as the library encodes and reads it, without compression or anything of ours.
pub(crate) struct RawServices {
    client: async_nats::Client,
    _responder: Owned,
}

impl RawServices {
    const SUBJECT: &str = "rw.services";

    pub(crate) async fn start(server: &NatsServer) -> Self {
        let responder = spawn(&["raw-services", &server.url(), Self::SUBJECT]);
        let client = async_nats::connect(server.url()).await.unwrap();
        while client.request(Self::SUBJECT, Bytes::new()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { client, _responder: responder }
    }

    pub(crate) async fn ask(&self) -> Vec<Service> {
        let answer = self.client.request(Self::SUBJECT, Bytes::new()).await.unwrap();
        rmp_serde::from_slice::<ServicesResponse>(&answer.payload).unwrap().services
    }
}

/// What a ping and its answer take on the wire, subjects aside.
fn ping_bytes() -> (usize, usize) {
    let header = |kind| Header::new(kind, Encoding::MessagePack);
    let frame = |kind, body: Vec<u8>| Frame { header: header(kind), body: body.into() }.encode().len();
    let call = CallBody { id: RequestId::from_uuid(Uuid::new_v4()), store: None, args: PingRequest {} };
    (frame(Kind::Call, wire::encode(&call)), frame(Kind::Reply, wire::encode(&PingResponse {})))
}

/// The subjects of a ping and its answer, but for the root.
fn subjects() -> (String, String) {
    let (root, instance): (Root, _) = (ROOT.parse::<Name>().unwrap().into(), instance("call-0"));
    let (epoch, replica) = (Epoch::new(1).unwrap(), ReplicaId::new(Uuid::new_v4()));
    (root.call(&instance, epoch, Method::Ping), root.reply(&instance, replica, AttemptId(u64::MAX)))
}

/// A prefix that makes inboxes as long as `reply`, and of as many tokens.
fn inbox_prefix(reply: &str) -> String {
    let length = reply.len() - INBOX_TAIL;
    let tokens = reply.split('.').count() - 2;
    let prefix = reply.split('.').take(tokens).collect::<Vec<_>>().join(".");
    if prefix.len() > length { prefix[..length].to_owned() } else { format!("{prefix:x<length$}") }
}
