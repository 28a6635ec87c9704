//! The hub's side of calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Interval};
use towline_protocol::call::{CallBody, Request};
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::subject::{Pattern, Root, Subject};
use towline_protocol::{
    AttemptId, CallError, Code, Effect, Epoch, InstanceId, ReplicaId, StoreId, limits, wire,
};

use super::WORKING;
use super::transfer::{Incoming, Joined, Outgoing};
use crate::clock;
use crate::metrics::BusMetrics;
use crate::platform::{CallContext, ItemSink, ItemStream};
use crate::task::Tasks;
use crate::transport::{LinkState, Message, PublishError, SubscribeError, Transport};

/// Frames that wait for one call. Its sender has no credit for more than the window; the rest is room for keep-alives.
const ATTEMPT_FRAMES_MAX: usize = 2 * limits::STREAM_WINDOW_FRAMES as usize;

/// How long a caller that took its call back still waits to hear what came of it.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// Messages above this are compressed off the runtime's own threads: 256 KiB take about a millisecond.
const COMPRESS_INLINE_BYTES_MAX: usize = 256 << 10;

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
    pending: Mutex<HashMap<AttemptId, Pending>>,
    last_attempt: AtomicU64,
    permits: Arc<Semaphore>,
    reassembly: Arc<Semaphore>,
    heard: Box<Heard>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// Told of every valid reply frame.
type Heard = dyn Fn(&InstanceId, Epoch) + Send + Sync;

struct Pending {
    instance: InstanceId,
    epoch: Epoch,
    arrivals: mpsc::Sender<Arrival>,
}

enum Arrival {
    Frame(Frame),
    NoResponders,
    LinkLost,
}

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
            pending: Mutex::default(),
            last_attempt: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().0),
            permits: Arc::new(Semaphore::new(limits::HUB_CALLS_MAX)),
            reassembly: Arc::new(Semaphore::new(limits::REASSEMBLY_BYTES_MAX)),
            heard: Box::new(heard),
        });
        let (dispatcher, watcher) = (inner.clone(), inner.clone());
        let stopping = tasks.stopping().clone();
        tasks.spawn("bus replies", async move {
            while let Some(Some(message)) = stopping.run_until_cancelled(replies.next()).await {
                dispatcher.dispatch(&message);
            }
        });
        let stopping = tasks.stopping().clone();
        tasks.spawn("bus link of the caller", async move {
            while let Some(Ok(())) = stopping.run_until_cancelled(link.changed()).await {
                if *link.borrow_and_update() == LinkState::Disconnected {
                    watcher.fail_pending();
                }
            }
        });
        Ok(Self { inner })
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
        attempt.finished = true;
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
            attempt.finished = true;
            return Err(decode::<CallError>(&attempt.join(first, cx).await?)?);
        }
        let (sink, stream) = ItemStream::channel();
        self.inner.tasks.spawn_isolated("bus stream", attempt.pump(first, sink, cx.clone()));
        Ok(stream)
    }

    async fn begin<R: Request>(
        &self,
        to: &Destination,
        cx: &CallContext,
        args: &R,
    ) -> Result<Attempt, CallError> {
        let inner = &self.inner;
        let permit = inner.permits.clone().try_acquire_owned().map_err(|_| {
            CallError::new(Code::Busy, format!("{} calls are under way at this hub", limits::HUB_CALLS_MAX))
        })?;
        let body = encode_call(cx, args).await?;
        let time = cx.time.unwrap_or_else(|| R::METHOD.default_time()).min(limits::CALL_TIME_MAX);
        let id = AttemptId(inner.last_attempt.fetch_add(1, Ordering::Relaxed));
        let (arrivals, receiver) = mpsc::channel(ATTEMPT_FRAMES_MAX);
        let pending = Pending { instance: to.instance.clone(), epoch: to.epoch, arrivals };
        inner.lock().insert(id, pending);
        inner.metrics.in_flight.inc();
        let mut header = Header::new(Kind::Call, Encoding::MessagePack);
        header.epoch = Some(to.epoch);
        header.time_left = Some(time);
        header.not_after_unix_ms =
            Some(clock::unix_ms() + u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2));
        let attempt = Attempt {
            caller: inner.clone(),
            to: to.clone(),
            id,
            arrivals: receiver,
            deadline: Instant::now() + time,
            heard: Instant::now(),
            time,
            is_mutating: R::METHOD.is_mutating(),
            outgoing: body,
            header,
            sent: 1,
            finished: false,
            taken_back: false,
            permit,
            in_flight: inner.metrics.in_flight.clone(),
        };
        let subject =
            Subject::Call { instance: to.instance.clone(), epoch: to.epoch, method: R::METHOD.into() };
        let reply = Subject::Reply { instance: to.instance.clone(), replica: inner.replica, attempt: id };
        let reply = Some(inner.root.subject(&reply));
        let payload = attempt.outgoing.frame(&attempt.header, 0).encode();
        inner
            .publish(inner.root.subject(&subject), reply, payload)
            .await
            .map_err(|error| not_sent(&error))?;
        Ok(attempt)
    }
}

async fn encode_call<R: Request>(cx: &CallContext, args: &R) -> Result<Outgoing, CallError> {
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
    compress(body).await
}

/// Makes a message, off the runtime's threads if it is large.
pub(super) async fn compress(body: Vec<u8>) -> Result<Outgoing, CallError> {
    if body.len() <= COMPRESS_INLINE_BYTES_MAX || body.len() > limits::MESSAGE_BYTES_MAX {
        return Ok(Outgoing::new(body)?);
    }
    let made = tokio::task::spawn_blocking(move || Outgoing::new(body)).await;
    Ok(made.map_err(|_| CallError::new(Code::Cancelled, "the runtime is shutting down"))??)
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

fn decode<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, CallError> {
    wire::decode(body).map_err(|error| {
        CallError::unknown_outcome(format!("the agent's answer could not be read: {error}"))
            .with_help("hub and agent disagree about this message; compare their versions")
    })
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptId, Pending>> {
        self.pending.lock().expect("no holder of this lock panics")
    }

    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.metrics.payload_bytes.with_label_values(&["out"]).inc_by(payload.len() as u64);
        self.transport.publish(subject, reply, payload).await
    }

    /// Hands a reply frame to its call. What is forged, late or malformed is counted, and goes no further.
    fn dispatch(&self, message: &Message) {
        if let Err(reason) = self.try_dispatch(message) {
            self.metrics.refusals.with_label_values(&[reason]).inc();
        }
    }

    fn try_dispatch(&self, message: &Message) -> Result<(), &'static str> {
        self.metrics.payload_bytes.with_label_values(&["in"]).inc_by(message.payload.len() as u64);
        let Ok(Subject::Reply { instance, attempt, .. }) = self.root.parse(&message.subject) else {
            return Err("malformed_subject");
        };
        let pending = self.lock();
        let Some(call) = pending.get(&attempt) else { return Err("late_reply") };
        if call.instance != instance {
            return Err("forged_reply");
        }
        if message.no_responders {
            return call.arrivals.try_send(Arrival::NoResponders).map_err(|_| "overrun");
        }
        let frame = Frame::decode(&message.payload).map_err(|_| "malformed_frame")?;
        if frame.header.epoch != Some(call.epoch) {
            return Err("wrong_epoch");
        }
        (self.heard)(&instance, call.epoch);
        let is_idle_talk = frame.header.kind == Kind::KeepAlive && frame.header.sequence == WORKING;
        if is_idle_talk && call.arrivals.capacity() < ATTEMPT_FRAMES_MAX / 2 {
            // A reader that is this far behind has not missed us; what is left of its queue is for items.
            return Ok(());
        }
        // A sender beyond its credit loses frames, and with them its message: the gap is an error at the reader.
        call.arrivals.try_send(Arrival::Frame(frame)).map_err(|_| "overrun")
    }

    /// What was sent is lost with the link, or its answer is: nobody waits for that.
    fn fail_pending(&self) {
        for call in self.lock().values() {
            // A full queue: the call is being read, and meets its silence instead.
            let _ = call.arrivals.try_send(Arrival::LinkLost);
        }
    }
}

/// One try at a call. Dropping it forgets the call, and takes back one that only reads.
struct Attempt {
    caller: Arc<Inner>,
    to: Destination,
    id: AttemptId,
    arrivals: mpsc::Receiver<Arrival>,
    deadline: Instant,
    /// When the agent was heard last on this call.
    heard: Instant,
    time: Duration,
    is_mutating: bool,
    outgoing: Outgoing,
    header: Header,
    sent: u32,
    finished: bool,
    taken_back: bool,
    #[expect(dead_code, reason = "held for as long as the call is under way")]
    permit: OwnedSemaphorePermit,
    in_flight: IntGauge,
}

impl Attempt {
    /// Waits for the whole answer.
    async fn message(&mut self, cx: &CallContext) -> Result<(Kind, Bytes), CallError> {
        let first = self.next(cx).await?;
        let kind = first.header.kind;
        if !matches!(kind, Kind::Reply | Kind::Failure) {
            return Err(self.broken("it answered with a frame of another kind"));
        }
        Ok((kind, self.join(first, cx).await?))
    }

    /// Joins a message whose first frame has come.
    async fn join(&mut self, first: Frame, cx: &CallContext) -> Result<Bytes, CallError> {
        let announced = u32::try_from(Incoming::announced(&first)).unwrap_or(u32::MAX);
        let budget = self.caller.reassembly.clone();
        let _held = tokio::time::timeout_at(self.deadline, budget.acquire_many(announced.min(PERMITS_MAX)))
            .await
            .map_err(|_| self.lost("the hub had no room for its answer"))?;
        let mut joined = Incoming::begin(first).map_err(|error| self.broken(&error.to_string()))?;
        loop {
            let incoming = match joined {
                Joined::Whole(bytes) => return Ok(bytes),
                Joined::Partly(incoming) => incoming,
            };
            if incoming.next() % (limits::STREAM_WINDOW_FRAMES / 2) == 0 {
                self.credit(incoming.next()).await;
            }
            let frame = self.next(cx).await?;
            if frame.header.kind != Kind::Chunk {
                return Err(self.broken("it broke off its own message"));
            }
            joined = incoming.add(&frame).map_err(|error| self.broken(&error.to_string()))?;
        }
    }

    /// The next frame that carries something: keep-alives and credits are dealt with here.
    async fn next(&mut self, cx: &CallContext) -> Result<Frame, CallError> {
        loop {
            let silence = self.heard + limits::CALL_SILENCE_MAX;
            let arrival = tokio::select! {
                arrival = self.arrivals.recv() => arrival,
                () = cx.cancelled.cancelled(), if !self.taken_back => {
                    self.taken_back = true;
                    self.deadline = self.deadline.min(Instant::now() + CANCEL_GRACE);
                    self.control(Kind::Cancel, 0).await;
                    continue;
                }
                () = tokio::time::sleep_until(silence.min(self.deadline)) => {
                    return Err(self.out_of_time());
                }
            };
            self.heard = Instant::now();
            match arrival {
                Some(Arrival::Frame(frame)) => match frame.header.kind {
                    Kind::KeepAlive if frame.header.sequence == WORKING => {}
                    Kind::Credit => self.send_chunks(frame.header.sequence).await?,
                    Kind::Unknown(_) => {}
                    _ => return Ok(frame),
                },
                Some(Arrival::NoResponders) => {
                    self.finished = true;
                    let text = format!("nobody serves {} now", self.to.instance);
                    return Err(CallError::new(Code::Unavailable, text));
                }
                Some(Arrival::LinkLost) | None => return Err(self.lost("the hub lost the bus")),
            }
        }
    }

    /// Sends what the agent has room for.
    async fn send_chunks(&mut self, limit: u32) -> Result<(), CallError> {
        let subject = self.control_subject();
        while self.sent < limit.min(self.outgoing.frames()) {
            let payload = self.outgoing.frame(&self.header, self.sent).encode();
            let sent = self.caller.publish(subject.clone(), None, payload).await;
            sent.map_err(|_| self.lost("the hub lost the bus"))?;
            self.sent += 1;
        }
        Ok(())
    }

    async fn credit(&self, received: u32) {
        self.control(Kind::Credit, received + limits::STREAM_WINDOW_FRAMES).await;
    }

    /// Says something about the call. What does not get through is noticed as silence.
    async fn control(&self, kind: Kind, sequence: u32) {
        let payload = control_frame(self.to.epoch, kind, sequence);
        let _ = self.caller.publish(self.control_subject(), None, payload).await;
    }

    fn control_subject(&self) -> String {
        let instance = self.to.instance.clone();
        self.caller.root.subject(&Subject::Control { instance, epoch: self.to.epoch, attempt: self.id })
    }

    fn out_of_time(&mut self) -> CallError {
        if self.taken_back {
            return self.lost("it was taken back, and did not say what came of it");
        }
        if Instant::now() < self.deadline {
            return self.lost("it fell silent");
        }
        self.lost(&format!("it did not answer within {}", humane(self.time)))
    }

    fn broken(&self, why: &str) -> CallError {
        self.lost(&format!("its answer is broken: {why}"))
    }

    /// The outcome is not known; the effect of a call that only reads is none all the same.
    fn lost(&self, why: &str) -> CallError {
        let effect = if self.is_mutating { Effect::Unknown } else { Effect::None };
        CallError::unknown_outcome(format!("{}: {why}", self.to.instance)).with_effect(effect)
    }

    /// Hands an item to the stream's reader. While that one is slow, the sender hears that it is still wanted.
    async fn hand_on<T>(
        &mut self,
        item: T,
        sink: &ItemSink<T>,
        received: u32,
        keep_alive: &mut Interval,
    ) -> bool {
        let sent = sink.send(item);
        tokio::pin!(sent);
        loop {
            tokio::select! {
                sent = &mut sent => {
                    // The agent was not listened to meanwhile.
                    self.heard = Instant::now();
                    return sent;
                }
                _ = keep_alive.tick() => self.credit(received).await,
            }
        }
    }

    /// Carries a stream's items to its reader until either ends it.
    async fn pump<T>(mut self, first: Frame, sink: ItemSink<T>, cx: CallContext)
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        // A stream lives as long as both sides want it, not as long as a call may take.
        self.deadline = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let mut expected = 0;
        let mut frame = Some(first);
        let mut keep_alive = tokio::time::interval(limits::STREAM_KEEP_ALIVE);
        loop {
            let current = match frame.take() {
                Some(frame) => frame,
                None => tokio::select! {
                    next = self.next(&cx) => match next {
                        Ok(frame) => frame,
                        Err(error) => return sink.fail(error).await,
                    },
                    () = sink.closed() => return,
                    _ = keep_alive.tick() => {
                        self.credit(expected).await;
                        continue;
                    }
                },
            };
            match current.header.kind {
                // The platform has opened the stream.
                Kind::KeepAlive => {}
                Kind::Item | Kind::End if current.header.sequence != expected => {
                    return sink.fail(self.lost("a part of the stream was lost")).await;
                }
                Kind::Item => {
                    expected += 1;
                    match decode::<Vec<T>>(&current.body) {
                        Ok(items) => {
                            for item in items {
                                if !self.hand_on(item, &sink, expected, &mut keep_alive).await {
                                    return;
                                }
                            }
                        }
                        Err(error) => return sink.fail(error).await,
                    }
                    if expected % (limits::STREAM_WINDOW_FRAMES / 2) == 0 {
                        self.credit(expected).await;
                    }
                }
                Kind::End => {
                    self.finished = true;
                    return;
                }
                Kind::Failure => {
                    self.finished = true;
                    let error = match self.join(current, &cx).await {
                        Ok(body) => decode::<CallError>(&body).unwrap_or_else(|error| error),
                        Err(error) => error,
                    };
                    return sink.fail(error).await;
                }
                _ => return sink.fail(self.broken("a frame of another kind came")).await,
            }
        }
    }
}

/// A semaphore hands out at most `u32` permits at a time; a message never needs that many.
#[expect(clippy::as_conversions, reason = "64 MiB fit in 32 bits")]
const PERMITS_MAX: u32 = limits::MESSAGE_BYTES_MAX as u32;

fn control_frame(epoch: Epoch, kind: Kind, sequence: u32) -> Bytes {
    let mut header = Header::new(kind, Encoding::Empty);
    header.epoch = Some(epoch);
    header.sequence = sequence;
    Frame::bare(header).encode()
}

/// A duration as people write it: 5s, 1.5s, 20m.
fn humane(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 60 && seconds.is_multiple_of(60) {
        format!("{}m", seconds / 60)
    } else {
        format!("{duration:?}")
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.caller.lock().remove(&self.id);
        self.in_flight.dec();
        if !self.finished && !self.is_mutating && !self.taken_back {
            // The caller went away: nobody needs the rest.
            let (caller, subject) = (self.caller.clone(), self.control_subject());
            let payload = control_frame(self.to.epoch, Kind::Cancel, 0);
            if tokio::runtime::Handle::try_current().is_ok() {
                self.caller.tasks.spawn_isolated("bus cancel", async move {
                    let _ = caller.publish(subject, None, payload).await;
                });
            }
        }
    }
}
