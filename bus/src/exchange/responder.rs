//! The agent's side of calls: every one gets an answer, and a slow one delays no other.

mod batch;
mod dispatch;
mod lease;
mod serving;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use towline_protocol::frame::{Frame, FrameError, Kind};
use towline_protocol::subject::InstanceSubjects;
use towline_protocol::{AttemptId, CallError, Code, Epoch, Method, limits, wire};

use self::serving::{Answer, Controls, Serving};
use super::transfer::Outgoing;
use crate::exchange::window::Window;
use crate::map::QuickMap;
use crate::metrics::BusMetrics;
use crate::platform::Platform;
use crate::subscription::SubscribeConfig;
use crate::task::Tasks;
use crate::transport::{Message, PublishError, Transport};

pub(crate) use self::lease::SharedLease;

/// Control frames that wait for one call: a window of chunks, and room for credits.
const CONTROL_FRAMES_MAX: usize = 2 * limits::STREAM_WINDOW_FRAMES as usize;

/// Pings that are answered while all other places are taken. As many: a ping's place is free a moment after its answer,
/// and a caller's next one may be faster.
const PINGS_MAX: usize = limits::AGENT_CALLS_MAX;

/// Answers the calls of an agent's sessions. Clones are the same responder.
#[derive(Clone)]
pub(crate) struct Responder {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    subjects: InstanceSubjects,
    platform: Arc<dyn Platform>,
    lease: Arc<SharedLease>,
    metrics: BusMetrics,
    tasks: Tasks,
    running: Mutex<UnderWay>,
    reassembly: Arc<Semaphore>,
    /// The large answers that are being sent.
    transfers: Arc<Semaphore>,
    /// What is under way of large calls.
    window: Arc<Window>,
    fatal: mpsc::Sender<CallError>,
}

/// Attempts that are remembered once they have ended: a bus that delivers twice does so within far fewer.
const ENDED_MAX: usize = 4 * limits::AGENT_CALLS_MAX;

/// Attempts that have ended lately.
#[derive(Default)]
struct Ended {
    /// In the order of their end.
    order: VecDeque<AttemptId>,
    known: QuickMap<AttemptId, ()>,
}

impl Ended {
    fn remember(&mut self, attempt: AttemptId) {
        if self.order.len() >= ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(attempt);
        self.known.insert(attempt, ());
    }
}

/// The calls under way, and those that have ended lately.
#[derive(Default)]
struct UnderWay {
    calls: QuickMap<AttemptId, Running>,
    pings: usize,
    /// That only read.
    read: Ended,
    /// That change something: apart, so that no number of pings drives them out.
    changed: Ended,
}

/// Why a call was not begun.
enum NotBegun {
    /// The bus delivered it twice; the first answers, or has.
    Repeated,
    /// All places are taken.
    Full,
}

impl UnderWay {
    fn begin(&mut self, attempt: AttemptId, call: Running) -> Result<(), NotBegun> {
        let is_ping = call.method == Method::Ping;
        let is_full = match is_ping {
            true => self.pings >= PINGS_MAX,
            false => self.calls.len() - self.pings >= limits::AGENT_CALLS_MAX,
        };
        if self.ended(call.method).known.contains_key(&attempt) {
            return Err(NotBegun::Repeated);
        }
        match self.calls.entry(attempt) {
            Entry::Occupied(_) => return Err(NotBegun::Repeated),
            Entry::Vacant(_) if is_full => {
                // Nor later, when there is room: the caller is told that nothing was done.
                self.ended(call.method).remember(attempt);
                return Err(NotBegun::Full);
            }
            Entry::Vacant(place) => place.insert(call),
        };
        self.pings += usize::from(is_ping);
        Ok(())
    }

    fn end(&mut self, attempt: AttemptId) {
        let Some(call) = self.calls.remove(&attempt) else { return };
        self.pings -= usize::from(call.method == Method::Ping);
        self.ended(call.method).remember(attempt);
    }

    const fn ended(&mut self, method: Method) -> &mut Ended {
        match method.is_mutating() {
            true => &mut self.changed,
            false => &mut self.read,
        }
    }
}

/// A call under way.
struct Running {
    epoch: Epoch,
    method: Method,
    cancelled: CancellationToken,
    /// What is said about it goes here, once it wants to hear: for most calls nothing is.
    controls: Option<mpsc::Sender<Frame>>,
}

impl Responder {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        config: &SubscribeConfig,
        platform: Arc<dyn Platform>,
        lease: Arc<SharedLease>,
        tasks: Tasks,
        fatal: mpsc::Sender<CallError>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                transport,
                subjects: config.root.of_instance(&config.instance),
                platform,
                lease,
                metrics: config.metrics.clone(),
                tasks,
                running: Mutex::default(),
                reassembly: Arc::new(Semaphore::new(limits::REASSEMBLY_BYTES_MAX)),
                transfers: Arc::new(Semaphore::new(limits::TRANSFERS_MAX)),
                window: Window::new(limits::AGENT_WINDOW_FRAMES),
                fatal,
            }),
        }
    }

    /// Takes a message from the session's call subject. Nothing slow happens here.
    pub(crate) fn on_call(&self, message: &Message) {
        let inner = &self.inner;
        inner.count_in(message);
        let frame = Frame::decode(&message.payload);
        let epoch = frame.as_ref().ok().and_then(|frame| frame.header.epoch);
        let Some(answer) = inner.answer_for(message, epoch) else {
            // Without a proper reply subject there is nobody to answer.
            inner.refuse("no_reply_subject");
            return;
        };
        match inner.check_call(message, frame) {
            Ok((method, epoch, frame)) => self.begin(method, epoch, frame, answer),
            Err((reason, error)) => {
                inner.refuse(reason);
                self.answer_error(answer, error);
            }
        }
    }

    /// Whether no call is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.lock().calls.is_empty()
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
        let Some(call) = running.calls.get(&attempt).filter(|call| call.epoch == epoch) else { return };
        if frame.header.kind == Kind::Cancel {
            call.cancelled.cancel();
        } else if call.controls.as_ref().is_some_and(|controls| controls.try_send(frame).is_err()) {
            inner.refuse("overrun");
        }
    }

    fn begin(&self, method: Method, epoch: Epoch, frame: Frame, answer: Answer) {
        let inner = &self.inner;
        let cancelled = CancellationToken::new();
        let begun = inner
            .lock()
            .begin(answer.attempt, Running { epoch, method, cancelled: cancelled.clone(), controls: None });
        match begun {
            Ok(()) => {}
            Err(NotBegun::Repeated) => return inner.refuse("repeated_attempt"),
            Err(NotBegun::Full) => {
                inner.refuse("busy");
                let text = format!("{} calls are under way at this agent", limits::AGENT_CALLS_MAX);
                return self.answer_error(answer, CallError::new(Code::Busy, text));
            }
        }
        let call = Serving { inner: inner.clone(), epoch, answer, controls: Controls::default(), cancelled };
        inner.tasks.spawn_isolated("bus call", call.run(method, frame.into()));
    }

    fn answer_error(&self, answer: Answer, error: CallError) {
        let inner = self.inner.clone();
        inner.tasks.clone().spawn_isolated("bus refusal", async move {
            if let Ok(message) = Outgoing::new(wire::encode(&error), limits::FRAME_BODY_BYTES_MAX) {
                // A refusal is small: one frame.
                let frame = message.frame(&answer.header(Kind::Failure), 0);
                // What is lost there, the caller notices.
                let _ = inner.publish(&answer.subject, frame.encode()).await;
            }
        });
    }
}

type Refusal = (&'static str, CallError);

impl Inner {
    /// Where the answer to a message goes: only ever to a reply subject of our own instance, whatever the message says.
    fn answer_for(&self, message: &Message, epoch: Option<Epoch>) -> Option<Answer> {
        let subject = message.reply.clone()?;
        let attempt = self.subjects.reply(&subject)?;
        Some(Answer { subject, attempt, epoch })
    }

    fn check_call(
        &self,
        message: &Message,
        frame: Result<Frame, FrameError>,
    ) -> Result<(Method, Epoch, Frame), Refusal> {
        let invalid = |text: String| CallError::new(Code::Invalid, text);
        let (epoch, name) = self.subjects.call(&message.subject).ok_or_else(|| {
            ("malformed_subject", invalid(format!("`{}` is not a call to this instance", message.subject)))
        })?;
        let frame = frame.map_err(|error| ("malformed_frame", invalid(error.to_string())))?;
        if frame.header.kind != Kind::Call {
            return Err(("malformed_frame", invalid("the frame on a call subject is not a call".into())));
        }
        if frame.header.epoch != Some(epoch) {
            let text = "the frame's epoch is not the one of its subject".to_owned();
            return Err(("wrong_epoch", CallError::new(Code::Fenced, text)));
        }
        let method = Method::from_name(name).ok_or_else(|| {
            let text = format!("this agent has no call `{name}`");
            ("unknown_method", CallError::new(Code::UpgradeNeeded, text))
        })?;
        Ok((method, epoch, frame))
    }

    fn refuse(&self, reason: &'static str) {
        self.metrics.refusals.with_label_values(&[reason]).inc();
    }

    fn count_in(&self, message: &Message) {
        self.metrics.bytes_in.inc_by(message.payload.len() as u64);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UnderWay> {
        self.running.lock().expect("no holder of this lock panics")
    }

    /// Publishes a frame. What is lost on its way, the caller notices.
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), PublishError> {
        self.metrics.bytes_out.inc_by(payload.len() as u64);
        let sent = self.transport.publish(subject.to_owned(), None, payload).await;
        sent.inspect_err(|error| tracing::debug!(%error, subject, "answer not sent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: Method) -> Running {
        let cancelled = CancellationToken::new();
        Running { epoch: Epoch::new(1).unwrap(), method, cancelled, controls: None }
    }

    fn begins(under_way: &mut UnderWay, attempt: u64) -> bool {
        under_way.begin(AttemptId(attempt), call(Method::Apply)).is_ok()
    }

    #[test]
    fn an_attempt_begins_once_also_when_its_double_comes_late() {
        let mut under_way = UnderWay::default();
        assert!(begins(&mut under_way, 1));
        assert!(!begins(&mut under_way, 1), "it is being worked on");
        under_way.end(AttemptId(1));
        assert!(!begins(&mut under_way, 1), "it has ended");
        for attempt in 2..=20_000 {
            assert!(begins(&mut under_way, attempt));
            under_way.end(AttemptId(attempt));
        }
        assert!(!begins(&mut under_way, 20_000 - 4_000), "thousands of calls ago");
        let ended = &under_way.changed;
        assert_eq!((ended.order.len(), ended.known.len()), (ENDED_MAX, ENDED_MAX));
        assert!(under_way.calls.is_empty());
    }

    #[test]
    fn an_attempt_for_which_there_was_no_room_is_not_begun_later() {
        let mut under_way = UnderWay::default();
        let most = limits::AGENT_CALLS_MAX as u64;
        assert!((0..most).all(|attempt| begins(&mut under_way, attempt)));
        assert!(!begins(&mut under_way, most));
        under_way.end(AttemptId(0));
        assert!(!begins(&mut under_way, most), "its caller was told that nothing was done");
        assert!(begins(&mut under_way, most + 1));
    }
}
