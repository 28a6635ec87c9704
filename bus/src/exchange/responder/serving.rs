//! One call being worked on, from its body to its answer.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::{AttemptId, CallError, Code, Effect, Epoch, Method, limits, wire};

use super::batch::{Batch, next_batch};
use super::dispatch::{Outcome, dispatch};
use super::{CONTROL_FRAMES_MAX, Inner};
use crate::clock;
use crate::exchange::transfer::{Incoming, JoinError, Joined, Outgoing};
use crate::exchange::{COMPRESS_INLINE_BYTES_MAX, OPENED, WORKING, compress, frame_bytes};
use crate::platform::ItemStream;
use crate::session::NotNow;
use crate::transport::PublishError;

/// Where the answer to one call goes.
pub(super) struct Answer {
    pub(super) subject: Arc<str>,
    pub(super) attempt: AttemptId,
    pub(super) epoch: Option<Epoch>,
}

impl Answer {
    pub(super) fn header(&self, kind: Kind) -> Header {
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

/// What the first frame of a call brings. Small, for each call is a task, and this is a part of it.
pub(super) struct Opening {
    time: Option<Duration>,
    not_after: Option<u64>,
    /// The whole body, or the frame whose rest has to be asked for.
    body: Result<Bytes, Box<Frame>>,
}

impl From<Frame> for Opening {
    fn from(first: Frame) -> Self {
        let Header { not_after_unix_ms: not_after, time_left: time, .. } = first.header;
        let body = if Incoming::is_whole(&first) { Ok(first.body) } else { Err(Box::new(first)) };
        Self { time, not_after, body }
    }
}

/// What the caller says about a call.
#[derive(Default)]
pub(super) struct Controls(Option<mpsc::Receiver<Frame>>);

impl Controls {
    /// The next frame; for ever pending for who does not listen. Cancel safe.
    async fn next(&mut self) -> Option<Frame> {
        match &mut self.0 {
            Some(controls) => controls.recv().await,
            None => std::future::pending().await,
        }
    }
}

/// One call being worked on.
pub(super) struct Serving {
    pub(super) inner: Arc<Inner>,
    pub(super) epoch: Epoch,
    pub(super) answer: Answer,
    /// What the caller says about the call; heard from [`Serving::listen`] on.
    pub(super) controls: Controls,
    pub(super) cancelled: CancellationToken,
}

impl Serving {
    pub(super) async fn run(mut self, method: Method, opening: Opening) {
        let outcome = match opening.body {
            Ok(body) => self.execute(method, opening.not_after, opening.time, &body).await,
            Err(first) => Box::pin(self.execute_large(method, *first)).await,
        };
        let (kind, body, fatal) = match outcome {
            Ok(Outcome::Message(kind, body)) => (kind, body, None),
            Ok(Outcome::Lines(stream)) => return Box::pin(self.stream(method, stream)).await,
            Ok(Outcome::Records(stream)) => return Box::pin(self.stream(method, stream)).await,
            Err(error) => (Kind::Failure, wire::encode(&error), error.is_fatal().then(|| Box::new(error))),
        };
        self.send(method, kind, body).await;
        if let Some(error) = fatal {
            // One is enough to end the subscription.
            let _ = self.inner.fatal.try_send(*error);
        }
    }

    async fn execute_large(&mut self, method: Method, first: Frame) -> Result<Outcome, CallError> {
        let time = first.header.time_left;
        let (body, not_after) = self.reassemble(first).await?;
        self.execute(method, not_after, time, &body).await
    }

    /// Begins to hear what the caller says about the call. A chunk or a credit answers something of ours: before this,
    /// none can come.
    fn listen(&mut self) {
        if self.controls.0.is_none() {
            let (sender, receiver) = mpsc::channel(CONTROL_FRAMES_MAX);
            self.controls = Controls(Some(receiver));
            if let Some(call) = self.inner.lock().calls.get_mut(&self.answer.attempt) {
                call.controls = Some(sender);
            }
        }
    }

    /// The body of a call that spans frames, and up to when it is wanted: its caller says so anew with each frame.
    async fn reassemble(&mut self, first: Frame) -> Result<(Bytes, Option<u64>), CallError> {
        let mut not_after = first.header.not_after_unix_ms;
        if !self.inner.lease.is_awaited(self.epoch) {
            // For what may not begin, nothing large is brought here.
            self.check_time(not_after)?;
        }
        self.listen();
        let announced = u32::try_from(Incoming::announced(&first)).unwrap_or(u32::MAX);
        let most = u32::try_from(limits::MESSAGE_BYTES_MAX).unwrap_or(u32::MAX);
        let budget = self.inner.reassembly.clone();
        let _held = budget.try_acquire_many(announced.min(most)).map_err(|_| {
            CallError::new(Code::Busy, "the agent has no room for one more large message now")
        })?;
        let invalid = |error: JoinError| CallError::new(Code::Invalid, error.to_string());
        let mut asking = self.inner.window.of_message(&first).last_alone();
        let mut joined = Incoming::begin(first).map_err(invalid)?;
        let mut working = ticks();
        loop {
            let incoming = match joined {
                Joined::Whole(bytes) => return Ok((bytes, not_after)),
                Joined::Partly(incoming) => incoming,
            };
            if let Some(limit) = asking.next(incoming.next()) {
                self.say(Kind::Credit, limit).await;
            }
            let frame = self.chunk(&mut working).await?;
            not_after = frame.header.not_after_unix_ms.or(not_after);
            joined = incoming.add(&frame).map_err(invalid)?;
        }
    }

    /// The next part of the body. On a slow link it takes its time: the caller hears that it is still awaited.
    async fn chunk(&mut self, working: &mut Interval) -> Result<Frame, CallError> {
        loop {
            match self.next_control(working).await {
                Some(frame) if frame.header.kind == Kind::Chunk => return Ok(frame),
                Some(_) => {}
                None if self.cancelled.is_cancelled() => return Err(cancelled()),
                None => return Err(CallError::new(Code::Expired, "the rest of the call did not come")),
            }
        }
    }

    /// What the caller says next, who hears meanwhile that the call is at work; none when it took the call back, or is silent.
    async fn next_control(&mut self, working: &mut Interval) -> Option<Frame> {
        let silent = Instant::now() + limits::STREAM_SILENCE_MAX;
        loop {
            tokio::select! {
                biased;
                // Before what comes: that may come just often enough for nobody else to be heard.
                _ = working.tick() => self.say(Kind::KeepAlive, WORKING).await,
                next = self.controls.next() => return next,
                () = self.cancelled.cancelled() => return None,
                () = tokio::time::sleep_until(silent) => return None,
            }
        }
    }

    /// Does the work, telling the caller every now and then that it goes on.
    async fn execute(
        &self,
        method: Method,
        not_after: Option<u64>,
        time: Option<Duration>,
        body: &Bytes,
    ) -> Result<Outcome, CallError> {
        if self.inner.lease.is_awaited(self.epoch) {
            Box::pin(self.inner.lease.awaited(self.epoch)).await;
        }
        // At the last moment: until here it may have travelled, or the process been frozen.
        self.check_time(not_after)?;
        // In one expression: a future that is moved is kept twice.
        let refusals = &self.inner.metrics.refusals;
        let mut work = pin!(
            AssertUnwindSafe(dispatch(&*self.inner.platform, method, time, body, &self.cancelled, refusals))
                .catch_unwind()
        );
        let result = match futures::poll!(&mut work) {
            Poll::Ready(result) => Some(result),
            // Boxed: what is done at once needs none of it, and each call's task would be the larger for it.
            Poll::Pending => Box::pin(self.accompany(method, work)).await,
        };
        match result {
            Some(Ok(result)) => result,
            Some(Err(_)) => {
                tracing::error!(%method, "the platform panicked in a call");
                let text = format!("the agent failed within {method}; its log says where");
                Err(CallError::new(Code::Cluster, text).with_effect(Effect::Unknown))
            }
            None => Err(cancelled()),
        }
    }

    /// Tells the caller every now and then that the work goes on, until it is done; none when the caller took it back.
    async fn accompany<T>(&self, method: Method, mut work: impl Future<Output = T> + Unpin) -> Option<T> {
        let mut working = ticks();
        loop {
            tokio::select! {
                result = &mut work => return Some(result),
                _ = working.tick() => self.say(Kind::KeepAlive, WORKING).await,
                () = self.cancelled.cancelled(), if !method.is_mutating() => return None,
            }
        }
    }

    /// Whether the call may begin now: under a lease that holds, and not too late.
    fn check_time(&self, not_after: Option<u64>) -> Result<(), CallError> {
        self.inner.lease.check(self.epoch, not_after, clock::now()).map_err(|why| {
            let (reason, code, text) = match why {
                NotNow::LeaseOver => {
                    ("fenced", Code::Fenced, "this session's lease has ended, and nothing is begun under it")
                }
                NotNow::TooLate => {
                    ("expired", Code::Expired, "the call came after the moment up to which it was wanted")
                }
            };
            self.inner.refuse(reason);
            CallError::new(code, text)
        })
    }

    /// Sends an answer, as far ahead as the caller gives credit.
    async fn send(&mut self, method: Method, kind: Kind, body: Vec<u8>) {
        let transport = &*self.inner.transport;
        let made = if body.len() > COMPRESS_INLINE_BYTES_MAX {
            // Many at once take their time: the caller hears that the answer will come.
            let making = Box::pin(compress(body, transport));
            let Some(made) = Box::pin(self.accompany(method, making)).await else { return };
            made
        } else {
            compress(body, transport).await
        };
        let (kind, message) = match made {
            Ok(message) => (kind, message),
            // A message of a line; in one frame, whatever the server takes.
            Err(error) => match Outgoing::new(wire::encode(&error), limits::FRAME_BODY_BYTES_MAX) {
                Ok(message) => (Kind::Failure, message),
                Err(_) => return,
            },
        };
        if message.frames() > 1 {
            return Box::pin(self.send_chunks(method, kind, message)).await;
        }
        let frame = message.frame(&self.answer.header(kind), 0).encode();
        let mut publish = pin!(self.inner.publish(&self.answer.subject, frame));
        let sent = match futures::poll!(&mut publish) {
            Poll::Ready(sent) => Some(sent),
            // A large one waits for others before it: the caller hears that it will come.
            Poll::Pending => Box::pin(self.accompany(method, publish)).await,
        };
        if let Some(Err(error)) = sent {
            Box::pin(self.not_sent(method, 0, &error)).await;
        }
    }

    async fn send_chunks(&mut self, method: Method, kind: Kind, message: Outgoing) {
        self.listen();
        let transfers = self.inner.transfers.clone();
        // Its turn may take a while: the caller hears that it will come.
        let turn = self.accompany(method, pin!(transfers.acquire())).await;
        let Some(Ok(_turn)) = turn else { return };
        let header = self.answer.header(kind);
        // The first says how much there is to come, and the caller when.
        let mut credit = 1;
        for sequence in 0..message.frames() {
            if sequence >= credit {
                match self.more_credit(sequence).await {
                    Some(more) => credit = more,
                    None => return,
                }
            }
            let chunk = message.frame(&header, sequence).encode();
            match self.put(method, chunk).await {
                Some(Ok(())) => {}
                Some(Err(error)) => return self.not_sent(method, sequence, &error).await,
                None => return,
            }
        }
    }

    /// Publishes what may have to wait for others, telling the caller meanwhile that it will come; none when the caller took
    /// the call back.
    async fn put(&self, method: Method, payload: Bytes) -> Option<Result<(), PublishError>> {
        self.accompany(method, pin!(self.inner.publish(&self.answer.subject, payload))).await
    }

    /// Frames are cut to what the server says it takes. Should it say otherwise meanwhile, or take next to nothing, the caller
    /// is told: silence would look like a loss. In place of the frame of this number, so that it is no repetition.
    async fn not_sent(&self, method: Method, sequence: u32, error: &PublishError) {
        if !matches!(error, PublishError::TooLarge { .. }) {
            return;
        }
        let effect = if method.is_mutating() { Effect::Unknown } else { Effect::None };
        let text = format!("the answer does not fit the agent's bus: {error}");
        let error = CallError::new(Code::TooLarge, text)
            .with_effect(effect)
            .with_help("raise max_payload of the NATS server that the agent is connected to");
        let mut header = self.answer.header(Kind::Failure);
        header.sequence = sequence;
        let frame = Frame { header, body: wire::encode(&error).into() };
        // The last that can be said.
        let _ = self.inner.publish(&self.answer.subject, frame.encode()).await;
    }

    /// Waits until the frame may be sent; `None` when nobody wants it any more.
    async fn more_credit(&mut self, sequence: u32) -> Option<u32> {
        let mut working = ticks();
        loop {
            let frame = self.next_control(&mut working).await?;
            if frame.header.kind == Kind::Credit && frame.header.sequence > sequence {
                return Some(frame.header.sequence);
            }
        }
    }

    /// Sends a stream's items, as many to a frame as are there.
    async fn stream<T: serde::Serialize + Send>(&mut self, method: Method, mut items: ItemStream<T>) {
        self.listen();
        let frame_bytes = frame_bytes(&*self.inner.transport);
        self.say(Kind::KeepAlive, OPENED).await;
        let (mut sequence, mut credit) = (0, limits::STREAM_WINDOW_FRAMES);
        let mut working = ticks();
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                // What the caller said while an item waited to be sent comes before the look whether it is silent; and items, of which
                // there may be any number, come last.
                biased;
                frame = self.controls.next() => match frame {
                    Some(frame) => {
                        heard = Instant::now();
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
                    self.say(Kind::KeepAlive, WORKING).await;
                }
                Batch { items, end } = next_batch(&mut items, frame_bytes), if sequence < credit => {
                    if !items.is_empty() {
                        let mut header = self.answer.header(Kind::Item);
                        header.sequence = sequence;
                        let frame = Frame { header, body: wire::array_of(&items).into() };
                        match self.put(method, frame.encode()).await {
                            Some(Err(error @ PublishError::TooLarge { .. })) => {
                                return self.not_sent(method, sequence, &error).await;
                            }
                            // What is lost, the caller sees by the gap.
                            Some(_) => sequence += 1,
                            None => return,
                        }
                    }
                    match end {
                        None => {}
                        Some(None) => return self.say(Kind::End, sequence).await,
                        Some(Some(error)) => {
                            return self.send(method, Kind::Failure, wire::encode(&error)).await;
                        }
                    }
                }
            }
        }
    }

    /// A frame that says something by its kind and number alone. What is lost, the caller notices.
    async fn say(&self, kind: Kind, sequence: u32) {
        let _ = self.inner.publish(&self.answer.subject, self.answer.bare(kind, sequence)).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.inner.lock().end(self.answer.attempt);
    }
}

/// When it is time to say that a call is at work. Not `interval`: its first tick, though due at once, costs a turn of the timer
/// wheel: a millisecond a call.
fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + limits::RENEW_EVERY, limits::RENEW_EVERY);
    // Once for all that were missed while something waited to be sent.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn cancelled() -> CallError {
    CallError::new(Code::Cancelled, "the caller took the call back")
}
