//! The hub's side of calls.

mod attempt;
mod pending;
mod room;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures::FutureExt as _;
use towline_protocol::call::{CallBody, Request};
use towline_protocol::frame::{Frame, Kind};
use towline_protocol::subject::{Pattern, Root};
use towline_protocol::{CallError, Code, Epoch, InstanceId, ReplicaId, StoreId, limits, wire};

use self::attempt::Attempt;
use self::pending::{Arrival, PendingCalls};
use self::room::Room;
use super::compress;
use super::transfer::Outgoing;
use crate::metrics::BusMetrics;
use crate::platform::{CallContext, ItemStream};
use crate::task::Tasks;
use crate::transport::{LinkState, Message, PublishError, SubscribeError, Transport};

/// Where a call goes.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The instance.
    pub instance: InstanceId,
    /// Its active epoch.
    pub epoch: Epoch,
}

/// Makes calls, and takes their answers apart. Clones are the same caller.
#[derive(Debug, Clone)]
pub struct Caller {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    root: Root,
    replica: ReplicaId,
    metrics: BusMetrics,
    tasks: Tasks,
    pending: PendingCalls,
    last_attempt: AtomicU64,
    room: Arc<Room>,
    heard: Box<Heard>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// Told of every valid reply frame.
type Heard = dyn Fn(&InstanceId, Epoch) + Send + Sync;

impl Caller {
    /// Begins to hear replies. `heard` is told of every valid reply frame: a sign of life of that session.
    ///
    /// # Errors
    /// When the transport does not take the subscription.
    pub async fn start(
        transport: Arc<dyn Transport>,
        root: Root,
        replica: ReplicaId,
        metrics: BusMetrics,
        tasks: Tasks,
        heard: impl Fn(&InstanceId, Epoch) + Send + Sync + 'static,
    ) -> Result<Self, SubscribeError> {
        let mut replies = transport.subscribe(root.pattern(&Pattern::Replies { replica }), None).await?;
        let mut link = transport.link();
        let inner = Arc::new(Inner {
            transport,
            root,
            replica,
            metrics,
            tasks: tasks.clone(),
            pending: PendingCalls::default(),
            last_attempt: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().0),
            room: Room::new(),
            heard: Box::new(heard),
        });
        let (dispatcher, watcher) = (inner.clone(), inner.clone());
        let stopping = tasks.stopping().clone();
        tasks.spawn("bus replies", async move {
            while let Some(Some(message)) = stopping.run_until_cancelled(replies.next()).await {
                dispatcher.dispatch(&message);
                // What has come meanwhile, without listening for the end before each.
                while let Some(Some(message)) = replies.next().now_or_never() {
                    dispatcher.dispatch(&message);
                }
            }
        });
        let stopping = tasks.stopping().clone();
        tasks.spawn("bus link of the caller", async move {
            while let Some(Ok(())) = stopping.run_until_cancelled(link.changed()).await {
                if *link.borrow_and_update() == LinkState::Disconnected {
                    watcher.pending.lose_link();
                }
            }
        });
        Ok(Self { inner })
    }

    /// What is counted here.
    pub(crate) fn metrics(&self) -> &BusMetrics {
        &self.inner.metrics
    }

    /// Makes a call and waits for its answer.
    ///
    /// # Errors
    /// Whatever the platform answered; else `unavailable` when nobody heard it, `unknown_outcome` when it was sent and
    /// then lost, `too_large` and `busy` before anything was sent.
    ///
    /// Dropping the future of a reading call takes the call back; mutating work goes on.
    pub async fn call<R: Request>(
        &self,
        to: &Destination,
        cx: &CallContext,
        args: &R,
    ) -> Result<R::Response, CallError> {
        let mut attempt = self.begin(to, cx, args).await?;
        let (kind, body) = attempt.message(cx).await?;
        if kind == Kind::Failure {
            return Err(decode::<CallError>(&body)?);
        }
        decode(&body)
    }

    /// Makes a call that answers with a stream, and waits until the platform has opened it.
    ///
    /// # Errors
    /// As [`Caller::call`]. Later errors end the stream. Dropping the stream takes the call back.
    pub async fn open<R: Request>(
        &self,
        to: &Destination,
        cx: &CallContext,
        args: &R,
    ) -> Result<ItemStream<R::Response>, CallError> {
        let mut attempt = self.begin(to, cx, args).await?;
        let first = attempt.next(cx).await?;
        if first.header.kind == Kind::Failure {
            return Err(decode::<CallError>(&attempt.join(first, cx).await?)?);
        }
        let (sink, stream) = ItemStream::channel();
        let pump = attempt.pump(first, sink, cx.clone(), limits::STREAM_READER_MAX);
        self.inner.tasks.spawn_isolated("bus stream", pump);
        Ok(stream)
    }

    async fn begin<R: Request>(
        &self,
        to: &Destination,
        cx: &CallContext,
        args: &R,
    ) -> Result<Box<Attempt>, CallError> {
        let inner = &self.inner;
        let body = encode_call(cx, args, &*inner.transport).await?;
        let time = cx.time.unwrap_or_else(|| R::METHOD.default_time()).min(limits::CALL_TIME_MAX);
        let (mut attempt, reply) = Attempt::register(inner.clone(), to.clone(), R::METHOD, time, body)?;
        attempt.send(reply, cx).await?;
        Ok(attempt)
    }
}

async fn encode_call<R: Request>(
    cx: &CallContext,
    args: &R,
    transport: &dyn Transport,
) -> Result<Outgoing, CallError> {
    #[derive(serde::Serialize)]
    struct Borrowed<'a, R> {
        id: &'a towline_protocol::RequestId,
        #[serde(skip_serializing_if = "Option::is_none")]
        store: Option<StoreId>,
        args: &'a R,
    }
    // The same fields as `CallBody`, without copying the arguments.
    let _same: fn(CallBody<R>) = |CallBody { id: _, store: _, args: _ }| ();
    let body = wire::encode(&Borrowed { id: &cx.id, store: cx.store, args });
    Ok(compress(body, transport).await?.in_parts_of(limits::CALL_PART_BYTES))
}

fn decode<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, CallError> {
    wire::decode(body).map_err(|error| {
        CallError::unknown_outcome(format!("the agent's answer could not be read: {error}"))
            .with_help("hub and agent disagree about this message; compare their versions")
    })
}

fn not_sent(error: &PublishError) -> CallError {
    match error {
        PublishError::TooLarge { .. } => CallError::new(Code::TooLarge, error.to_string()),
        PublishError::Malformed { .. } => CallError::new(Code::Invalid, error.to_string()),
        PublishError::Disconnected | PublishError::TimedOut => {
            // The hub's own loss of the bus is its own error, never the instance's.
            CallError::new(Code::Busy, format!("the hub does not reach the bus: {error}"))
                .with_help("nothing was sent; the hub connects again by itself")
        }
    }
}

impl Inner {
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.metrics.bytes_out.inc_by(payload.len() as u64);
        self.transport.publish(subject, reply, payload).await
    }

    /// Hands a reply frame to its call. What is forged, late or malformed is counted, and goes no further.
    fn dispatch(&self, message: &Message) {
        if let Err(reason) = self.try_dispatch(message) {
            self.metrics.refusals.with_label_values(&[reason]).inc();
        }
    }

    fn try_dispatch(&self, message: &Message) -> Result<(), &'static str> {
        self.metrics.bytes_in.inc_by(message.payload.len() as u64);
        let attempt = Root::attempt_of(&message.subject).ok_or("malformed_subject")?;
        self.pending.deliver(attempt, |asked| {
            // The bus server vouches for the instance in the subject; it must be the one that was asked.
            if *asked.reply_subject != *message.subject {
                return Err("forged_reply");
            }
            if message.no_responders {
                return Ok(Arrival::NoResponders);
            }
            let frame = Frame::decode(&message.payload).map_err(|_| "malformed_frame")?;
            if frame.header.epoch != Some(asked.epoch) {
                return Err("wrong_epoch");
            }
            (self.heard)(&asked.instance, asked.epoch);
            Ok(Arrival::Frame(Box::new(frame)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use towline_protocol::Effect;
    use towline_protocol::frame::{Encoding, Header};
    use towline_protocol::platform::{LogLine, LogSource, LogsRequest};
    use uuid::Uuid;

    use super::*;
    use crate::exchange::OPENED;
    use crate::transport::memory::MemoryBroker;

    fn line(number: u32) -> LogLine {
        let (unit, text) = ("web-1".to_owned(), format!("line {number}"));
        LogLine { unit, at_unix_ns: 0, source: LogSource::Stdout, text, partial: false }
    }

    fn frame(epoch: Epoch, kind: Kind, sequence: u32, body: &[LogLine]) -> Bytes {
        let encoding = if kind == Kind::Item { Encoding::MessagePack } else { Encoding::Empty };
        let mut header = Header::new(kind, encoding);
        (header.epoch, header.sequence) = (Some(epoch), sequence);
        let body = if kind == Kind::Item { wire::encode(&body).into() } else { Bytes::new() };
        Frame { header, body }.encode()
    }

    fn logs() -> LogsRequest {
        let app = "web".parse().unwrap();
        LogsRequest { app, unit: None, follow: false, since_unix_ms: None, tail: None }
    }

    /// What a caller reads of a stream of which these frames come.
    async fn read(frames: &[(Kind, u32)]) -> (Vec<LogLine>, Option<CallError>) {
        let (broker, tasks) = (MemoryBroker::new(), Tasks::new());
        let (root, replica) = (Root::default(), ReplicaId::new(Uuid::new_v4()));
        let (metrics, agent) = (BusMetrics::unregistered(), broker.connect());
        let mut calls = agent.subscribe("tl.c.>".to_owned(), None).await.unwrap();
        let caller = Caller::start(broker.connect(), root, replica, metrics, tasks.clone(), |_, _| ());
        let caller = caller.await.unwrap();
        let to = Destination { instance: "a".parse().unwrap(), epoch: Epoch::new(1).unwrap() };
        let (cx, request) = (CallContext::new(), logs());
        let answering = async {
            let reply = calls.next().await.unwrap().reply.unwrap();
            for (kind, sequence) in frames {
                let payload = frame(to.epoch, *kind, *sequence, &[line(*sequence)]);
                agent.publish(reply.to_string(), None, payload).await.unwrap();
            }
        };
        let (opened, ()) = futures::join!(caller.open(&to, &cx, &request), answering);
        let (mut stream, mut lines) = (opened.unwrap(), Vec::new());
        let reading = async {
            while let Some(item) = stream.next().await {
                match item {
                    Ok(line) => lines.push(line),
                    Err(error) => return Some(error),
                }
            }
            None
        };
        let error = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("it ends");
        assert!(stream.next().await.is_none(), "an error is the last thing to come");
        tasks.stop(Duration::from_secs(1)).await;
        (lines, error)
    }

    /// The sink is full and its reader asleep: the stream is given up, and the reader learns it when it wakes.
    #[tokio::test]
    async fn a_stream_that_nobody_reads_is_given_up() {
        let (broker, tasks) = (MemoryBroker::new(), Tasks::new());
        let (root, replica) = (Root::default(), ReplicaId::new(Uuid::new_v4()));
        let (metrics, agent) = (BusMetrics::unregistered(), broker.connect());
        let _calls = agent.subscribe("tl.c.>".to_owned(), None).await.unwrap();
        let caller =
            Caller::start(broker.connect(), root, replica, metrics.clone(), tasks.clone(), |_, _| ());
        let caller = caller.await.unwrap();
        let to = Destination { instance: "a".parse().unwrap(), epoch: Epoch::new(1).unwrap() };
        let cx = CallContext::new();
        let attempt = caller.begin(&to, &cx, &logs()).await.unwrap();
        let many: Vec<LogLine> = (0..1_000).map(line).collect();
        let first = Frame::decode(&frame(to.epoch, Kind::Item, 0, &many)).unwrap();
        let (sink, mut stream) = ItemStream::<LogLine>::channel();
        let patience = Duration::from_millis(50);
        let pump = attempt.pump(first, sink, cx, patience);
        tokio::time::timeout(Duration::from_secs(10), pump).await.expect("it waits for nobody");
        assert_eq!(metrics.in_flight.get(), 0);
        let mut lines = 0;
        let error = loop {
            match stream.next().await.expect("it says why it ends") {
                Ok(_) => lines += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((error.code, lines > 0), (Code::Expired, true));
        tasks.stop(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn a_stream_of_which_a_part_is_lost_ends_with_an_error() {
        let (open, item, end) = ((Kind::KeepAlive, OPENED), Kind::Item, Kind::End);
        let whole = [open, (item, 0), (item, 1), (item, 2), (end, 3)];
        let all = vec![line(0), line(1), line(2)];
        assert_eq!(read(&whole).await, (all.clone(), None));
        assert_eq!(
            read(&[open, (item, 0), (item, 0), (item, 1), (item, 1), (item, 2), (end, 3)]).await,
            (all, None)
        );
        for lost in 1..=3 {
            let mut frames = whole.to_vec();
            let (_, sequence) = frames.remove(lost);
            let (lines, error) = read(&frames).await;
            let error =
                error.unwrap_or_else(|| panic!("without item {sequence} the stream was taken as whole"));
            assert_eq!((&error.code, &error.effect), (&Code::UnknownOutcome, &Effect::None), "{error:?}");
            assert!(error.message.contains("a part of the stream was lost"), "{error:?}");
            assert_eq!(lines, (0..sequence).map(line).collect::<Vec<_>>(), "what came before is handed on");
        }
    }
}
