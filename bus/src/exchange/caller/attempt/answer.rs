//! Bringing an answer home, in one frame or in many.

use bytes::Bytes;
use tokio::time::{Instant, interval_at, timeout_at};
use towline_protocol::frame::{Frame, Kind};
use towline_protocol::{CallError, limits};

use super::super::decode;
use super::Attempt;
use crate::exchange::transfer::{Incoming, Joined};
use crate::exchange::window::frames_of;
use crate::platform::CallContext;
use crate::transport;

impl Attempt {
    /// Waits for the whole answer.
    pub(in super::super) async fn message(&mut self, cx: &CallContext) -> Result<(Kind, Bytes), CallError> {
        let first = self.next(cx).await?;
        let kind = first.header.kind;
        if !matches!(kind, Kind::Reply | Kind::Failure) {
            return Err(self.broken("it answered with a frame of another kind"));
        }
        let body = self.join(first, cx).await?;
        Ok((kind, body))
    }

    /// Joins a message whose first frame has come.
    pub(in super::super) async fn join(
        &mut self,
        first: Frame,
        cx: &CallContext,
    ) -> Result<Bytes, CallError> {
        if Incoming::is_whole(&first) {
            self.finished = true;
            return Ok(first.body);
        }
        // Boxed: most answers are one frame, and their calls need not carry this.
        Box::pin(self.reassemble(first, cx)).await
    }

    async fn reassemble(&mut self, first: Frame, cx: &CallContext) -> Result<Bytes, CallError> {
        self.heard = Instant::now();
        let announced = usize::try_from(Incoming::announced(&first)).unwrap_or(usize::MAX);
        let mut held = self.caller.room.of_answer(&self.to.instance);
        // Those before it are this instance's own: they end, or are given up. A sender that has sent all says no more.
        let has_more = frames_of(&first) > 1;
        self.wait(held.take_turn(announced), 0, has_more, cx).await?;
        let mut asking = self.caller.room.window.of_message(&first);
        let mut joined = Incoming::begin(first).map_err(|error| self.broken(&error.to_string()))?;
        let mut progress = Instant::now();
        loop {
            let incoming = match joined {
                Joined::Whole(bytes) => {
                    self.finished = true;
                    return Ok(bytes);
                }
                Joined::Partly(incoming) => incoming,
            };
            if let Some(limit) = asking.next(incoming.next()) {
                let ahead = usize::try_from(limit).unwrap_or(usize::MAX);
                let ahead = ahead.saturating_mul(limits::FRAME_BODY_BYTES_MAX).min(announced);
                // Whole, it may be more than what was sent.
                let ahead = if asking.is_all() { announced } else { ahead };
                self.wait(held.grow(ahead), incoming.next(), true, cx).await?;
                self.control(Kind::Credit, limit).await;
                progress = Instant::now();
            }
            // Whoever only says that it is at work, and sends nothing, is not waited for.
            let next = timeout_at(progress + limits::STREAM_SILENCE_MAX, self.next(cx)).await;
            let frame = next.map_err(|_| self.lost("the rest of its answer did not come"))??;
            let expected = incoming.next();
            let is_repeated = frame.header.sequence < expected;
            if frame.header.kind == Kind::Failure && !is_repeated {
                // It could not send the rest, and says why.
                self.finished = true;
                return Err(decode::<CallError>(&frame.body)?);
            }
            if frame.header.kind != Kind::Chunk && !is_repeated {
                return Err(self.broken("it broke off its own message"));
            }
            joined = incoming.add(&frame).map_err(|error| self.broken(&error.to_string()))?;
            if !is_repeated {
                progress = Instant::now();
            }
        }
    }

    /// Waits for room, telling the agent that it is still wanted, and listening whether it is still there if it has more to send.
    /// A caller that takes its call back meanwhile, or a link that is lost, is not waited with.
    async fn wait(
        &mut self,
        room: impl Future<Output = ()>,
        received: u32,
        has_more: bool,
        cx: &CallContext,
    ) -> Result<(), CallError> {
        tokio::pin!(room);
        let mut link = self.caller.transport.link();
        let mut keep_alive =
            interval_at(Instant::now() + limits::STREAM_KEEP_ALIVE, limits::STREAM_KEEP_ALIVE);
        loop {
            let heard = self.last_heard();
            tokio::select! {
                biased;
                () = &mut room => {
                    self.heard = self.last_heard();
                    return Ok(());
                }
                () = cx.cancelled.cancelled(), if !self.taken_back => {
                    self.take_back().await;
                    return Err(self.lost("it was taken back before its answer was here"));
                }
                () = transport::lost(&mut link) => {
                    return Err(self.lost("the hub lost the bus"));
                }
                // What was asked for before says nothing new, but that there is somebody.
                _ = keep_alive.tick() => self.control(Kind::Credit, received).await,
                () = tokio::time::sleep_until(self.deadline) => {
                    return Err(self.lost("the hub had no room for its answer"));
                }
                () = tokio::time::sleep_until(heard + limits::CALL_SILENCE_MAX), if has_more => {
                    if self.last_heard() <= heard {
                        return Err(self.lost("it fell silent"));
                    }
                }
            }
        }
    }

    /// When the agent was heard last, also by what waits to be read.
    fn last_heard(&self) -> Instant {
        self.caller.pending.talked(self.id).map_or(self.heard, |talked| talked.max(self.heard))
    }
}
