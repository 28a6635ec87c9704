//! The agent's side of calls: every one gets an answer, and a slow one delays no other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use towline_protocol::call::{CallBody, Request};
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::platform::{
    AllServicesRequest, ApplyRequest, ApplyResponse, ExportRequest, ExportResponse, LogsRequest, PingRequest,
    PingResponse, ServicesResponse, SomeServicesRequest, SyncRequest, SyncResponse, VersionRequest,
    VersionResponse,
};
use towline_protocol::subject::{Root, Subject};
use towline_protocol::{AttemptId, CallError, Code, Epoch, InstanceId, Method, limits, wire};

use super::caller::compress;
use super::transfer::{Incoming, Joined, Outgoing};
use super::{OPENED, WORKING};
use crate::clock::{self, Moment};
use crate::metrics::BusMetrics;
use crate::platform::{CallContext, ItemStream, Platform};
use crate::subscription::SubscribeConfig;
use crate::task::Tasks;
use crate::transport::{Message, Transport};

/// Control frames that wait for one call: a window of chunks, and room for credits.
const CONTROL_FRAMES_MAX: usize = 2 * limits::STREAM_WINDOW_FRAMES as usize;

/// Pings that are answered at once while all other places are taken.
const PINGS_MAX: usize = 64;

/// Until when calls may begin, and how hub time is derived.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    state: Mutex<LeaseState>,
}

#[derive(Debug, Default, Clone, Copy)]
struct LeaseState {
    epoch: Option<Epoch>,
    until: Moment,
    /// The hub's clock showed this no earlier than at that moment.
    hub: Option<(u64, Moment)>,
}

impl Lease {
    pub(crate) fn extend(&self, epoch: Epoch, until: Moment) {
        let mut state = self.lock();
        if state.epoch != Some(epoch) {
            *state = LeaseState { epoch: Some(epoch), until, hub: state.hub };
        }
        state.until = state.until.max(until);
    }

    pub(crate) fn end(&self) {
        self.lock().epoch = None;
    }

    pub(crate) fn set_hub_time(&self, hub_unix_ms: u64, asked_at: Moment) {
        self.lock().hub = Some((hub_unix_ms, asked_at));
    }

    /// Whether a call of this epoch may begin now.
    fn allows(&self, epoch: Epoch, now: Moment) -> bool {
        let state = self.lock();
        state.epoch == Some(epoch) && now <= state.until
    }

    /// The latest that the hub's clock can show now: whoever acts before a moment of hub time is safe with it. The wall
    /// clock has no part in it.
    fn hub_unix_ms_at_most(&self, now: Moment) -> Option<u64> {
        let (hub, asked_at) = self.lock().hub?;
        Some(hub.saturating_add(u64::try_from(now.since(asked_at).as_millis()).unwrap_or(u64::MAX)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LeaseState> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// Answers the calls of an agent's sessions. Clones are the same responder.
#[derive(Clone)]
pub(crate) struct Responder {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    root: Root,
    instance: InstanceId,
    platform: Arc<dyn Platform>,
    lease: Arc<Lease>,
    metrics: BusMetrics,
    tasks: Tasks,
    running: Mutex<HashMap<AttemptId, Running>>,
    permits: Arc<Semaphore>,
    pings: Arc<Semaphore>,
    reassembly: Arc<Semaphore>,
    fatal: mpsc::Sender<CallError>,
}

/// A call under way.
struct Running {
    epoch: Epoch,
    cancelled: CancellationToken,
    controls: mpsc::Sender<Frame>,
}

impl Responder {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        config: &SubscribeConfig,
        platform: Arc<dyn Platform>,
        lease: Arc<Lease>,
        tasks: Tasks,
        fatal: mpsc::Sender<CallError>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                transport,
                root: config.root.clone(),
                instance: config.instance.clone(),
                platform,
                lease,
                metrics: config.metrics.clone(),
                tasks,
                running: Mutex::default(),
                permits: Arc::new(Semaphore::new(limits::AGENT_CALLS_MAX)),
                pings: Arc::new(Semaphore::new(PINGS_MAX)),
                reassembly: Arc::new(Semaphore::new(limits::REASSEMBLY_BYTES_MAX)),
                fatal,
            }),
        }
    }

    /// Takes a message from the session's call subject. Nothing slow happens here.
    pub(crate) fn on_call(&self, message: &Message) {
        let inner = &self.inner;
        inner.count_in(message);
        let Some(answer) = inner.answer_for(message) else {
            // Without a proper reply subject there is nobody to answer.
            inner.refuse("no_reply_subject");
            return;
        };
        match inner.check_call(message) {
            Ok((method, epoch, frame)) => self.begin(method, epoch, frame, answer),
            Err((reason, error)) => {
                inner.refuse(reason);
                self.answer_error(answer, error);
            }
        }
    }

    /// Whether no call is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.lock().is_empty()
    }

    /// Counts something that was not acted on.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.inner.refuse(reason);
    }

    /// Takes a message from the session's control subject.
    pub(crate) fn on_control(&self, epoch: Epoch, attempt: AttemptId, message: &Message) {
        let inner = &self.inner;
        inner.count_in(message);
        let Ok(frame) = Frame::decode(&message.payload) else { return inner.refuse("malformed_frame") };
        if frame.header.epoch != Some(epoch) {
            return inner.refuse("wrong_epoch");
        }
        let running = inner.lock();
        // A control frame for a call that has ended is ordinary: the two crossed.
        let Some(call) = running.get(&attempt).filter(|call| call.epoch == epoch) else { return };
        if frame.header.kind == Kind::Cancel {
            call.cancelled.cancel();
        } else if call.controls.try_send(frame).is_err() {
            inner.refuse("overrun");
        }
    }

    fn begin(&self, method: Method, epoch: Epoch, frame: Frame, answer: Answer) {
        let inner = &self.inner;
        let permits = if method == Method::Ping { &inner.pings } else { &inner.permits };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            inner.refuse("busy");
            let text = format!("{} calls are under way at this agent", limits::AGENT_CALLS_MAX);
            return self.answer_error(answer, CallError::new(Code::Busy, text));
        };
        let (controls, receiver) = mpsc::channel(CONTROL_FRAMES_MAX);
        let cancelled = CancellationToken::new();
        match inner.lock().entry(answer.attempt) {
            // The bus delivered it twice; the first is being worked on, and answers.
            Entry::Occupied(_) => return inner.refuse("repeated_attempt"),
            Entry::Vacant(place) => place.insert(Running { epoch, cancelled: cancelled.clone(), controls }),
        };
        let mut call = Serving { inner: inner.clone(), epoch, answer, controls: receiver, cancelled, permit };
        inner.tasks.spawn_isolated("bus call", async move { call.run(method, frame).await });
    }

    fn answer_error(&self, answer: Answer, error: CallError) {
        let inner = self.inner.clone();
        inner.tasks.clone().spawn_isolated("bus refusal", async move {
            if let Ok(message) = Outgoing::new(wire::encode(&error)) {
                // A refusal is small: one frame.
                let frame = message.frame(&answer.header(Kind::Failure), 0);
                inner.publish(&answer.subject, frame.encode()).await;
            }
        });
    }
}

type Refusal = (&'static str, CallError);

impl Inner {
    /// Where the answer to a message goes: only ever to a reply subject of our own instance, whatever the message says.
    fn answer_for(&self, message: &Message) -> Option<Answer> {
        let subject = message.reply.as_deref()?;
        match self.root.parse(subject).ok()? {
            Subject::Reply { instance, attempt, .. } if instance == self.instance => {
                let epoch = Frame::decode(&message.payload).ok().and_then(|frame| frame.header.epoch);
                Some(Answer { subject: subject.to_owned(), attempt, epoch })
            }
            _ => None,
        }
    }

    fn check_call(&self, message: &Message) -> Result<(Method, Epoch, Frame), Refusal> {
        let invalid = |text: String| CallError::new(Code::Invalid, text);
        let (epoch, name) = match self.root.parse(&message.subject) {
            Ok(Subject::Call { instance, epoch, method }) if instance == self.instance => (epoch, method),
            Ok(_) => return Err(("malformed_subject", invalid("this is not a call".into()))),
            Err(error) => return Err(("malformed_subject", invalid(error.to_string()))),
        };
        let frame = Frame::decode(&message.payload)
            .map_err(|error| ("malformed_frame", invalid(error.to_string())))?;
        if frame.header.kind != Kind::Call {
            return Err(("malformed_frame", invalid("the frame on a call subject is not a call".into())));
        }
        if frame.header.epoch != Some(epoch) {
            let text = "the frame's epoch is not the one of its subject".to_owned();
            return Err(("wrong_epoch", CallError::new(Code::Fenced, text)));
        }
        let method = Method::from_name(name.as_str()).ok_or_else(|| {
            let text = format!("this agent has no call `{}`", name.as_str());
            ("unknown_method", CallError::new(Code::UpgradeNeeded, text))
        })?;
        self.check_time(epoch, &frame.header)?;
        Ok((method, epoch, frame))
    }

    /// Whether a call may begin now: under a lease that holds, and not too late.
    fn check_time(&self, epoch: Epoch, header: &Header) -> Result<(), Refusal> {
        let now = clock::now();
        if !self.lease.allows(epoch, now) {
            let text = "this session's lease has ended, and nothing is begun under it".to_owned();
            return Err(("fenced", CallError::new(Code::Fenced, text)));
        }
        let late = header.not_after_unix_ms.zip(self.lease.hub_unix_ms_at_most(now));
        if late.is_some_and(|(not_after, hub)| hub > not_after) {
            let text = "the call came after the moment up to which it was wanted".to_owned();
            return Err(("expired", CallError::new(Code::Expired, text)));
        }
        Ok(())
    }

    fn refuse(&self, reason: &'static str) {
        self.metrics.refusals.with_label_values(&[reason]).inc();
    }

    fn count_in(&self, message: &Message) {
        self.metrics.payload_bytes.with_label_values(&["in"]).inc_by(message.payload.len() as u64);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptId, Running>> {
        self.running.lock().expect("no holder of this lock panics")
    }

    /// Publishes a frame; whether it was handed to the bus. What is lost there, the caller notices.
    async fn publish(&self, subject: &str, payload: Bytes) -> bool {
        self.metrics.payload_bytes.with_label_values(&["out"]).inc_by(payload.len() as u64);
        let sent = self.transport.publish(subject.to_owned(), None, payload).await;
        sent.inspect_err(|error| tracing::debug!(%error, subject, "answer not sent")).is_ok()
    }
}

/// Where the answer to one call goes.
struct Answer {
    subject: String,
    attempt: AttemptId,
    epoch: Option<Epoch>,
}

impl Answer {
    fn header(&self, kind: Kind) -> Header {
        let mut header = Header::new(kind, Encoding::MessagePack);
        header.epoch = self.epoch;
        header
    }

    fn bare(&self, kind: Kind, sequence: u32) -> Bytes {
        let mut header = self.header(kind);
        header.encoding = Encoding::Empty;
        header.sequence = sequence;
        Frame::bare(header).encode()
    }
}

/// What a call answers with.
enum Outcome {
    Message(Kind, Vec<u8>),
    Lines(ItemStream<towline_protocol::platform::LogLine>),
}

/// One call being worked on.
struct Serving {
    inner: Arc<Inner>,
    epoch: Epoch,
    answer: Answer,
    controls: mpsc::Receiver<Frame>,
    cancelled: CancellationToken,
    #[expect(dead_code, reason = "held for as long as the call is under way")]
    permit: OwnedSemaphorePermit,
}

impl Serving {
    async fn run(&mut self, method: Method, first: Frame) {
        let header = first.header.clone();
        let result = match self.body(first).await {
            Ok(body) => self.execute(method, &header, &body).await,
            Err(error) => Err(error),
        };
        let fatal = result.as_ref().err().filter(|error| error.is_fatal()).cloned();
        match result {
            Ok(Outcome::Message(kind, body)) => self.send(kind, body).await,
            Ok(Outcome::Lines(stream)) => self.stream(stream).await,
            Err(error) => self.send(Kind::Failure, wire::encode(&error)).await,
        }
        if let Some(error) = fatal {
            // One is enough to end the subscription.
            let _ = self.inner.fatal.try_send(error);
        }
    }

    /// The call's body, asking for the rest of one that spans frames.
    async fn body(&mut self, first: Frame) -> Result<Bytes, CallError> {
        let announced = u32::try_from(Incoming::announced(&first)).unwrap_or(u32::MAX);
        let most = u32::try_from(limits::MESSAGE_BYTES_MAX).unwrap_or(u32::MAX);
        let budget = self.inner.reassembly.clone();
        let _held = budget.try_acquire_many(announced.min(most)).map_err(|_| {
            CallError::new(Code::Busy, "the agent has no room for one more large message now")
        })?;
        let invalid = |error: super::transfer::JoinError| CallError::new(Code::Invalid, error.to_string());
        let mut joined = Incoming::begin(first).map_err(invalid)?;
        loop {
            let incoming = match joined {
                Joined::Whole(bytes) => return Ok(bytes),
                Joined::Partly(incoming) => incoming,
            };
            let next = incoming.next();
            if next == 1 || next % (limits::STREAM_WINDOW_FRAMES / 2) == 0 {
                let credit = self.answer.bare(Kind::Credit, next + limits::STREAM_WINDOW_FRAMES);
                self.inner.publish(&self.answer.subject, credit).await;
            }
            let frame = self.chunk().await?;
            joined = incoming.add(&frame).map_err(invalid)?;
        }
    }

    async fn chunk(&mut self) -> Result<Frame, CallError> {
        loop {
            let next = tokio::select! {
                next = self.controls.recv() => next,
                () = self.cancelled.cancelled() => return Err(cancelled()),
                () = tokio::time::sleep(limits::STREAM_SILENCE_MAX) => None,
            };
            match next {
                Some(frame) if frame.header.kind == Kind::Chunk => return Ok(frame),
                Some(_) => {}
                None => return Err(CallError::new(Code::Expired, "the rest of the call did not come")),
            }
        }
    }

    /// Does the work, telling the caller every now and then that it goes on.
    async fn execute(&mut self, method: Method, header: &Header, body: &Bytes) -> Result<Outcome, CallError> {
        // A large call may have travelled longer than its lease or its time.
        if let Err((reason, error)) = self.inner.check_time(self.epoch, header) {
            self.inner.refuse(reason);
            return Err(error);
        }
        let platform = self.inner.platform.clone();
        let cancelled_token = self.cancelled.clone();
        let work =
            AssertUnwindSafe(dispatch(&*platform, method, header, body, &cancelled_token)).catch_unwind();
        tokio::pin!(work);
        let mut working = tokio::time::interval(limits::RENEW_EVERY);
        working.tick().await;
        loop {
            tokio::select! {
                result = &mut work => return result.unwrap_or_else(|_| {
                    tracing::error!(%method, "the platform panicked in a call");
                    let text = format!("the agent failed within {method}; its log says where");
                    Err(CallError::new(Code::Cluster, text).with_effect(towline_protocol::Effect::Unknown))
                }),
                _ = working.tick() => {
                    let alive = self.answer.bare(Kind::KeepAlive, WORKING);
                    self.inner.publish(&self.answer.subject, alive).await;
                }
                () = cancelled_token.cancelled(), if !method.is_mutating() => return Err(cancelled()),
            }
        }
    }

    /// Sends an answer, as far ahead as the caller gives credit.
    async fn send(&mut self, kind: Kind, body: Vec<u8>) {
        let (kind, message) = match compress(body).await {
            Ok(message) => (kind, message),
            Err(error) => match Outgoing::new(wire::encode(&error)) {
                Ok(message) => (Kind::Failure, message),
                Err(_) => return,
            },
        };
        let header = self.answer.header(kind);
        let mut credit = limits::STREAM_WINDOW_FRAMES;
        for sequence in 0..message.frames() {
            if sequence >= credit {
                match self.more_credit(sequence).await {
                    Some(more) => credit = more,
                    None => return,
                }
            }
            if !self.inner.publish(&self.answer.subject, message.frame(&header, sequence).encode()).await {
                return;
            }
        }
    }

    /// Waits until the frame may be sent; `None` when nobody wants it any more.
    async fn more_credit(&mut self, sequence: u32) -> Option<u32> {
        loop {
            let frame = tokio::select! {
                frame = self.controls.recv() => frame?,
                () = self.cancelled.cancelled() => return None,
                () = tokio::time::sleep(limits::STREAM_SILENCE_MAX) => return None,
            };
            if frame.header.kind == Kind::Credit && frame.header.sequence > sequence {
                return Some(frame.header.sequence);
            }
        }
    }

    /// Sends a stream's items, as many to a frame as are there.
    async fn stream<T: serde::Serialize + Send>(&mut self, mut items: ItemStream<T>) {
        let subject = self.answer.subject.clone();
        self.inner.publish(&subject, self.answer.bare(Kind::KeepAlive, OPENED)).await;
        let (mut sequence, mut credit) = (0, limits::STREAM_WINDOW_FRAMES);
        let mut working = tokio::time::interval(limits::RENEW_EVERY);
        let mut heard = tokio::time::Instant::now();
        loop {
            tokio::select! {
                Batch { items, end } = next_batch(&mut items), if sequence < credit => {
                    if !items.is_empty() {
                        let mut header = self.answer.header(Kind::Item);
                        header.sequence = sequence;
                        let frame = Frame { header, body: wire::array_of(&items).into() };
                        self.inner.publish(&subject, frame.encode()).await;
                        sequence += 1;
                    }
                    match end {
                        None => {}
                        Some(None) => {
                            self.inner.publish(&subject, self.answer.bare(Kind::End, sequence)).await;
                            return;
                        }
                        Some(Some(error)) => return self.send(Kind::Failure, wire::encode(&error)).await,
                    }
                }
                frame = self.controls.recv() => match frame {
                    Some(frame) => {
                        heard = tokio::time::Instant::now();
                        if frame.header.kind == Kind::Credit {
                            credit = credit.max(frame.header.sequence);
                        }
                    }
                    None => return,
                },
                () = self.cancelled.cancelled() => return,
                _ = working.tick() => {
                    if heard.elapsed() > limits::STREAM_SILENCE_MAX {
                        return;
                    }
                    self.inner.publish(&subject, self.answer.bare(Kind::KeepAlive, WORKING)).await;
                }
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.inner.lock().remove(&self.answer.attempt);
    }
}

fn cancelled() -> CallError {
    CallError::new(Code::Cancelled, "the caller took the call back")
}

/// Encoded items, and whether the stream has ended, with which error.
struct Batch {
    items: Vec<Vec<u8>>,
    end: Option<Option<CallError>>,
}

/// The items that are there, up to half a frame. Cancel safe: it waits for its first item alone.
async fn next_batch<T: serde::Serialize>(stream: &mut ItemStream<T>) -> Batch {
    const ITEM_BYTES_MAX: usize = limits::FRAME_BODY_BYTES_MAX / 2;
    let mut batch = Batch { items: Vec::new(), end: None };
    let mut bytes = 0;
    let mut next = Some(stream.next().await);
    while let Some(item) = next {
        match item {
            Some(Ok(item)) => {
                let item = wire::encode(&item);
                bytes += item.len();
                if item.len() > ITEM_BYTES_MAX {
                    let text =
                        format!("an item of {} bytes exceeds the limit of {ITEM_BYTES_MAX}", item.len());
                    batch.end = Some(Some(CallError::new(Code::TooLarge, text)));
                    return batch;
                }
                batch.items.push(item);
            }
            Some(Err(error)) => batch.end = Some(Some(error)),
            None => batch.end = Some(None),
        }
        if batch.end.is_some() || bytes >= ITEM_BYTES_MAX {
            return batch;
        }
        next = stream.next().now_or_never();
    }
    batch
}

/// Decodes a call, asks the platform, and encodes its answer: the one place that ties the call table to the trait.
async fn dispatch(
    platform: &dyn Platform,
    method: Method,
    header: &Header,
    body: &Bytes,
    cancelled: &CancellationToken,
) -> Result<Outcome, CallError> {
    let time = header.time_left.map(|time| time.min(limits::CALL_TIME_MAX));
    macro_rules! call {
        ($request:ty, |$cx:ident, $args:ident| $work:expr) => {{
            let ($cx, $args) = read::<$request>(body, time, cancelled)?;
            let response: <$request as Request>::Response = $work;
            Ok(Outcome::Message(Kind::Reply, wire::encode(&response)))
        }};
    }
    match method {
        Method::Ping => call!(PingRequest, |cx, _args| {
            platform.ping(&cx).await?;
            PingResponse {}
        }),
        Method::Version => {
            call!(VersionRequest, |cx, _args| VersionResponse { version: platform.version(&cx).await? })
        }
        Method::AllServices => call!(AllServicesRequest, |cx, args| {
            check_count("ignored ids", args.ignored.len(), limits::IDS_MAX)?;
            ServicesResponse {
                services: platform.all_services(&cx, args.namespace.as_deref(), &args.ignored).await?,
            }
        }),
        Method::SomeServices => call!(SomeServicesRequest, |cx, args| {
            check_count("ids", args.ids.len(), limits::IDS_MAX)?;
            ServicesResponse { services: platform.some_services(&cx, &args.ids).await? }
        }),
        Method::Apply => call!(ApplyRequest, |cx, args| {
            check_count("definitions", args.definitions.len(), limits::DEFINITIONS_MAX)?;
            platform.apply(&cx, &args.definitions).await?;
            ApplyResponse {}
        }),
        Method::Export => {
            call!(ExportRequest, |cx, _args| ExportResponse { config: platform.export(&cx).await? })
        }
        Method::Sync => call!(SyncRequest, |cx, args| {
            check_count("actions", args.actions.len(), limits::DEFINITIONS_MAX)?;
            platform.sync(&cx, &args.actions).await?;
            SyncResponse {}
        }),
        Method::Logs => {
            let (cx, args) = read::<LogsRequest>(body, time, cancelled)?;
            Ok(Outcome::Lines(platform.logs(&cx, &args).await?))
        }
    }
}

fn read<R: Request>(
    body: &Bytes,
    time: Option<Duration>,
    cancelled: &CancellationToken,
) -> Result<(CallContext, R), CallError> {
    let body: CallBody<R> =
        wire::decode(body).map_err(|error| CallError::new(Code::Invalid, error.to_string()))?;
    let cx = CallContext { id: body.id, time, store: body.store, cancelled: cancelled.clone() };
    Ok((cx, body.args))
}

fn check_count(what: &str, found: usize, most: usize) -> Result<(), CallError> {
    if found <= most {
        return Ok(());
    }
    Err(CallError::new(Code::TooLarge, format!("{found} {what} in one call, and {most} are allowed")))
}
