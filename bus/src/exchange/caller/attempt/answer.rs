//! Bringing an answer home, in one frame or in many.

use bytes::Bytes;
use tokio::time::{Instant, interval_at, timeout_at};
use towline_protocol::frame::{Frame, Kind};
use towline_protocol::{CallError, limits};

use super::super::decode;
use super::super::room::Held;
use super::Attempt;
use crate::exchange::transfer::{Incoming, Joined};
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
        // Those before it are this instance's own: they end, or are given up.
        let deadline = self.deadline;
        self.wait(held.take_turn(announced), deadline, 0, cx).await?;
        self.make_room(&mut held, 0, announced, cx).await?;
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
            if incoming.next() % (limits::STREAM_WINDOW_FRAMES / 2) == 0 {
                self.make_room(&mut held, incoming.next(), announced, cx).await?;
                self.credit(incoming.next()).await;
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

    /// Waits until there is room for what the agent may send once it hears of so many frames received.
    async fn make_room(
        &mut self,
        held: &mut Held,
        received: u32,
        announced: usize,
        cx: &CallContext,
    ) -> Result<(), CallError> {
        let frames = usize::try_from(received + limits::STREAM_WINDOW_FRAMES).unwrap_or(usize::MAX);
        let ahead = frames.saturating_mul(limits::FRAME_BODY_BYTES_MAX).min(announced);
        let until = Instant::now() + limits::STREAM_SILENCE_MAX;
        self.wait(held.grow(ahead), until, received, cx).await
    }

    /// Waits for room, up to a moment, telling the agent that it is still wanted. A caller that takes its call back meanwhile,
    /// or a link that is lost, is not waited with.
    async fn wait(
        &mut self,
        room: impl Future<Output = ()>,
        until: Instant,
        received: u32,
        cx: &CallContext,
    ) -> Result<(), CallError> {
        tokio::pin!(room);
        let mut link = self.caller.transport.link();
        let mut keep_alive =
            interval_at(Instant::now() + limits::STREAM_KEEP_ALIVE, limits::STREAM_KEEP_ALIVE);
        loop {
            tokio::select! {
                biased;
                () = &mut room => {
                    // The agent was not listened to meanwhile.
                    self.heard = Instant::now();
                    return Ok(());
                }
                () = cx.cancelled.cancelled(), if !self.taken_back => {
                    self.take_back().await;
                    return Err(self.lost("it was taken back before its answer was here"));
                }
                () = transport::lost(&mut link) => {
                    return Err(self.lost("the hub lost the bus"));
                }
                _ = keep_alive.tick() => self.credit(received).await,
                () = tokio::time::sleep_until(until.min(self.deadline)) => {
                    return Err(self.lost("the hub had no room for its answer"));
                }
            }
        }
    }
}
