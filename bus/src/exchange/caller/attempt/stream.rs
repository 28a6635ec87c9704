//! Carrying a stream's items to its reader.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Interval};
use towline_protocol::frame::{Frame, Kind};
use towline_protocol::{CallError, Code, limits};

use super::super::decode;
use super::{Attempt, humane};
use crate::platform::{CallContext, ItemSink};
use crate::transport::{self, LinkState};

/// Why a stream goes on no more.
enum Over {
    /// Nobody reads it.
    Unread,
    /// Something went wrong, and the reader is told.
    Failed(CallError),
}

/// What a stream is carried under, whatever comes.
struct Terms {
    /// When it is over, as its caller said.
    until: Instant,
    /// How long its reader may take nothing of what waits for it.
    reader_max: Duration,
    keep_alive: Interval,
    link: watch::Receiver<LinkState>,
}

impl Attempt {
    /// Carries a stream's items to its reader until either ends it, or until the reader has taken nothing for `reader_max`
    /// though something waits.
    pub(in super::super) async fn pump<T>(
        mut self: Box<Self>,
        first: Frame,
        sink: ItemSink<T>,
        cx: CallContext,
        reader_max: Duration,
    ) where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        // A stream lives as long as both sides want it, or as its caller said; not as long as a call may take.
        let forever = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let until = cx.time.map_or(forever, |_| self.deadline);
        self.deadline = forever;
        let keep_alive = tokio::time::interval(limits::STREAM_KEEP_ALIVE);
        let mut terms = Terms { until, reader_max, keep_alive, link: self.caller.transport.link() };
        match self.carry(first, &sink, &mut terms, &cx).await {
            Ok(()) | Err(Over::Unread) => {}
            Err(Over::Failed(error)) => sink.fail(error).await,
        }
    }

    async fn carry<T>(
        &mut self,
        first: Frame,
        sink: &ItemSink<T>,
        terms: &mut Terms,
        cx: &CallContext,
    ) -> Result<(), Over>
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        let mut expected = 0;
        let mut frame = Some(first);
        loop {
            let current = match frame.take() {
                Some(frame) => frame,
                None => tokio::select! {
                    next = self.next(cx) => next.map_err(Over::Failed)?,
                    () = sink.closed() => return Err(Over::Unread),
                    () = tokio::time::sleep_until(terms.until) => return Err(Over::Failed(self.over())),
                    _ = terms.keep_alive.tick() => {
                        self.credit(expected).await;
                        continue;
                    }
                },
            };
            match current.header.kind {
                // The platform has opened the stream.
                Kind::KeepAlive => {}
                // A bus may deliver twice; what came is passed over.
                Kind::Item if current.header.sequence < expected => {}
                Kind::Item | Kind::End if current.header.sequence != expected => {
                    return Err(Over::Failed(self.lost("a part of the stream was lost")));
                }
                Kind::Item => {
                    expected += 1;
                    for item in decode::<Vec<T>>(&current.body).map_err(Over::Failed)? {
                        self.hand_on(item, sink, expected, terms, cx).await?;
                    }
                    if expected % (limits::STREAM_WINDOW_FRAMES / 2) == 0 {
                        self.credit(expected).await;
                    }
                }
                Kind::End => {
                    self.finished = true;
                    return Ok(());
                }
                Kind::Failure => {
                    let body = self.join(current, cx).await.map_err(Over::Failed)?;
                    return Err(Over::Failed(decode::<CallError>(&body).unwrap_or_else(|error| error)));
                }
                _ => return Err(Over::Failed(self.broken("a frame of another kind came"))),
            }
        }
    }

    /// Hands an item to the stream's reader. While that one is slow, the sender hears that it is still wanted; for so long.
    async fn hand_on<T>(
        &mut self,
        item: T,
        sink: &ItemSink<T>,
        received: u32,
        terms: &mut Terms,
        cx: &CallContext,
    ) -> Result<(), Over> {
        let slow = Instant::now() + terms.reader_max;
        let sent = sink.send(item);
        tokio::pin!(sent);
        loop {
            tokio::select! {
                // A reader that reads needs no timers.
                biased;
                sent = &mut sent => {
                    // The agent was not listened to meanwhile.
                    self.heard = Instant::now();
                    return if sent { Ok(()) } else { Err(Over::Unread) };
                }
                () = cx.cancelled.cancelled(), if !self.taken_back => {
                    self.take_back().await;
                    return Err(Over::Failed(CallError::new(Code::Cancelled, "the caller took the call back")));
                }
                () = transport::lost(&mut terms.link) => {
                    return Err(Over::Failed(self.lost("the hub lost the bus")));
                }
                () = tokio::time::sleep_until(terms.until.min(slow)) => {
                    return Err(Over::Failed(if terms.until <= slow { self.over() } else { self.unread(terms) }));
                }
                _ = terms.keep_alive.tick() => self.credit(received).await,
            }
        }
    }

    /// The end of a stream whose caller said how long it may last.
    fn over(&self) -> CallError {
        let text =
            format!("{}: the stream has lasted {}, as it was told", self.to.instance, humane(self.time));
        CallError::new(Code::Expired, text)
    }

    /// The end of a stream whose reader does not read.
    fn unread(&self, terms: &Terms) -> CallError {
        let longest = humane(terms.reader_max);
        let text = format!("{}: nobody read the stream for {longest}", self.to.instance);
        CallError::new(Code::Expired, text)
    }
}
