//! One try at a call, on the caller's side.

mod answer;
mod stream;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::time::Instant;
use towline_protocol::frame::{Encoding, Frame, Header, Kind};
use towline_protocol::subject::Subject;
use towline_protocol::{AttemptId, CallError, Code, Effect, Epoch, Method, limits};

use super::pending::{Arrival, Asked};
use super::{Destination, Inner, not_sent};
use crate::clock;
use crate::exchange::WORKING;
use crate::exchange::transfer::Outgoing;
use crate::platform::CallContext;
use crate::transport::PublishError;

/// How long a caller that took its call back still waits to hear what came of it.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// One try. Dropping it forgets the call, and takes back one that only reads.
pub(super) struct Attempt {
    caller: Arc<Inner>,
    to: Destination,
    id: AttemptId,
    deadline: Instant,
    /// When the agent was heard last on this call.
    heard: Instant,
    time: Duration,
    method: Method,
    outgoing: Outgoing,
    header: Header,
    sent: u32,
    finished: bool,
    taken_back: bool,
    in_flight: IntGauge,
}

impl Attempt {
    /// Makes the call known, so that what is answered reaches it, and says on which subject. Nothing is sent yet.
    ///
    /// # Errors
    /// `busy`, when as many calls are under way as a hub may have.
    pub(super) fn register(
        caller: Arc<Inner>,
        to: Destination,
        method: Method,
        time: Duration,
        outgoing: Outgoing,
    ) -> Result<(Box<Self>, String), CallError> {
        let id = AttemptId(caller.last_attempt.fetch_add(1, Ordering::Relaxed));
        let reply_subject = caller.root.reply(&to.instance, caller.replica, id);
        let (instance, epoch) = (to.instance.clone(), to.epoch);
        if !caller.pending.insert(id, Asked { reply_subject: reply_subject.clone(), instance, epoch }) {
            let text = format!("{} calls are under way at this hub", limits::HUB_CALLS_MAX);
            return Err(CallError::new(Code::Busy, text));
        }
        let in_flight = caller.metrics.in_flight.clone();
        in_flight.inc();
        let mut header = Header::new(Kind::Call, Encoding::MessagePack);
        header.epoch = Some(to.epoch);
        header.time_left = Some(time);
        header.not_after_unix_ms = Some(not_after(time));
        let now = Instant::now();
        let attempt = Box::new(Self {
            caller,
            to,
            id,
            deadline: now + time,
            heard: now,
            time,
            method,
            outgoing,
            header,
            sent: 1,
            finished: false,
            taken_back: false,
            in_flight,
        });
        Ok((attempt, reply_subject))
    }

    /// Makes the call, to be answered on the subject `reply`. A large one may have to wait for others before it.
    ///
    /// # Errors
    /// Nothing was sent: the bus does not take it, the caller took it back, or its time is over.
    pub(super) async fn send(&mut self, reply: String, cx: &CallContext) -> Result<(), CallError> {
        let caller = self.caller.clone();
        let subject = caller.root.call(&self.to.instance, self.to.epoch, self.method);
        let payload = self.outgoing.frame(&self.header, 0).encode();
        let mut publish = pin!(caller.publish(subject, Some(reply), payload));
        let sent = match futures::poll!(&mut publish) {
            Poll::Ready(sent) => sent,
            // Boxed, as all that is rare: every call's future would be the larger for it.
            Poll::Pending => Box::pin(self.wait_to_send(publish, cx)).await?,
        };
        // Nobody need be told that it is wanted no more.
        self.finished = sent.is_err();
        sent.map_err(|error| not_sent(&error))
    }

    async fn wait_to_send(
        &mut self,
        publish: impl Future<Output = Result<(), PublishError>>,
        cx: &CallContext,
    ) -> Result<Result<(), PublishError>, CallError> {
        tokio::pin!(publish);
        let error = tokio::select! {
            biased;
            sent = publish => {
                // Its silence begins now.
                self.heard = Instant::now();
                return Ok(sent);
            }
            () = cx.cancelled.cancelled() => {
                CallError::new(Code::Cancelled, "the caller took the call back before it was sent")
            }
            () = tokio::time::sleep_until(self.deadline) => {
                let text = format!("{}: the bus did not take the call within {}", self.to.instance, humane(self.time));
                CallError::new(Code::Expired, text)
            }
        };
        self.finished = true;
        Err(error.with_effect(Effect::None))
    }

    /// The next frame that carries something: keep-alives and credits are dealt with here.
    pub(super) async fn next(&mut self, cx: &CallContext) -> Result<Frame, CallError> {
        loop {
            if self.heard > self.deadline {
                // An agent that says without end that it is at work is not listened to without end.
                return Err(self.out_of_time());
            }
            let silence = self.heard + limits::CALL_SILENCE_MAX;
            let arrival = tokio::select! {
                // An answer that is there needs no timer.
                biased;
                () = cx.cancelled.cancelled(), if !self.taken_back => {
                    self.take_back().await;
                    continue;
                }
                arrival = poll_fn(|cx| self.caller.pending.poll(self.id, cx)) => arrival,
                () = tokio::time::sleep_until(silence.min(self.deadline)) => {
                    return Err(self.out_of_time());
                }
            };
            match arrival {
                Arrival::Frame(frame) if frame.header.kind == Kind::Reply => return Ok(*frame),
                Arrival::Frame(frame) => match self.note(frame.header.kind) {
                    Kind::KeepAlive if frame.header.sequence == WORKING => {}
                    Kind::Credit => self.send_chunks(frame.header.sequence, cx).await?,
                    Kind::Unknown(_) => {}
                    _ => return Ok(*frame),
                },
                Arrival::NoResponders => {
                    self.finished = true;
                    let text = format!("nobody serves {} now", self.to.instance);
                    return Err(CallError::new(Code::Unavailable, text));
                }
                Arrival::LinkLost => return Err(self.lost("the hub lost the bus")),
            }
        }
    }

    /// Tells the agent that the call is wanted no more.
    async fn take_back(&mut self) {
        self.taken_back = true;
        self.deadline = self.deadline.min(Instant::now() + CANCEL_GRACE);
        self.control(Kind::Cancel, 0).await;
    }

    /// The agent was heard; not noted of an answer, after which most often nobody asks.
    fn note(&mut self, kind: Kind) -> Kind {
        self.heard = Instant::now();
        kind
    }

    /// Sends what the agent has asked for.
    async fn send_chunks(&mut self, limit: u32, cx: &CallContext) -> Result<(), CallError> {
        let subject = self.control_subject();
        while self.sent < limit.min(self.outgoing.frames()) {
            // Anew with each: one may wait for others.
            self.header.not_after_unix_ms = Some(not_after(self.deadline - Instant::now()));
            let payload = self.outgoing.frame(&self.header, self.sent).encode();
            let caller = self.caller.clone();
            tokio::select! {
                biased;
                sent = caller.publish(subject.clone(), None, payload) => {
                    sent.map_err(|_| self.lost("the hub lost the bus"))?;
                }
                () = cx.cancelled.cancelled(), if !self.taken_back => {
                    self.take_back().await;
                    break;
                }
                () = tokio::time::sleep_until(self.deadline) => return Err(self.out_of_time()),
            }
            self.sent += 1;
        }
        // The agent was not listened to meanwhile.
        self.heard = Instant::now();
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
        let control = Subject::Control { instance, epoch: self.to.epoch, attempt: self.id };
        self.caller.root.subject(&control)
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
        let effect = if self.method.is_mutating() { Effect::Unknown } else { Effect::None };
        CallError::unknown_outcome(format!("{}: {why}", self.to.instance)).with_effect(effect)
    }
}

/// Until when what is sent now may be begun: who hears nothing for longer has given the call up, and what an agent began
/// then, nobody would expect any more.
fn not_after(left: Duration) -> u64 {
    let wanted = left.min(limits::CALL_SILENCE_MAX).as_millis();
    clock::unix_ms().saturating_add(u64::try_from(wanted).unwrap_or(u64::MAX))
}

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
        self.caller.pending.remove(self.id);
        self.in_flight.dec();
        if !self.finished && !self.method.is_mutating() && !self.taken_back {
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
