//! One call being worked on, from its body to its answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::{AttemptId, CallError, Code, Epoch, Method, limits, wire};

use super::Inner;
use super::batch::{Batch, next_batch};
use super::dispatch::{Outcome, dispatch};
use crate::exchange::transfer::{Incoming, JoinError, Joined, Outgoing};
use crate::exchange::{OPENED, WORKING, compress};
use crate::platform::ItemStream;

/// Where the answer to one call goes.
pub(super) struct Answer {
    pub(super) subject: String,
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

/// One call being worked on.
pub(super) struct Serving {
    pub(super) inner: Arc<Inner>,
    pub(super) epoch: Epoch,
    pub(super) answer: Answer,
    pub(super) controls: mpsc::Receiver<Frame>,
    pub(super) cancelled: CancellationToken,
    #[expect(dead_code, reason = "held for as long as the call is under way")]
    pub(super) permit: OwnedSemaphorePermit,
}

impl Serving {
    pub(super) async fn run(&mut self, method: Method, first: Frame) {
        let header = first.header.clone();
        let result = match self.body(first).await {
            Ok(body) => self.execute(method, &header, &body).await,
            Err(error) => Err(error),
        };
        let fatal = result.as_ref().err().filter(|error| error.is_fatal()).cloned();
        match result {
            Ok(Outcome::Message(kind, body)) => self.send(kind, body).await,
            Ok(Outcome::Lines(stream)) => self.stream(stream).await,
            Ok(Outcome::Records(stream)) => self.stream(stream).await,
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
        let invalid = |error: JoinError| CallError::new(Code::Invalid, error.to_string());
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
        self.inner.lease.awaited(self.epoch).await;
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
        // Not `interval`: its first tick, though due at once, costs a turn of the timer wheel: a millisecond a call.
        let mut working = interval_at(Instant::now() + limits::RENEW_EVERY, limits::RENEW_EVERY);
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
        let mut working = interval_at(Instant::now() + limits::RENEW_EVERY, limits::RENEW_EVERY);
        let mut heard = Instant::now();
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
