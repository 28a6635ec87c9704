//! A bounded stream of items that ends with nothing, or with one error.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use towline_protocol::CallError;

/// Items between a producer and the stream's reader: enough to fill a frame while the last one travels.
const BUFFERED_ITEMS: usize = 64;

/// The reading end. Dropping it ends the stream: its producer sees [`ItemSink::closed`].
#[derive(Debug)]
pub struct ItemStream<T> {
    items: mpsc::Receiver<T>,
    problem: Problem,
}

/// The producing end. Dropping it ends the stream in order.
#[derive(Debug)]
pub struct ItemSink<T> {
    items: mpsc::Sender<T>,
    problem: Problem,
}

/// Why a stream ended. Beside the items, so that a producer need not wait for a reader that takes none to say it.
#[derive(Debug, Clone, Default)]
struct Problem(Arc<Mutex<Option<CallError>>>);

impl Problem {
    fn lock(&self) -> MutexGuard<'_, Option<CallError>> {
        // Whatever is there is whole: it is set in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> ItemStream<T> {
    /// Both ends of a new stream.
    #[must_use]
    pub fn channel() -> (ItemSink<T>, Self) {
        let (sender, receiver) = mpsc::channel(BUFFERED_ITEMS);
        let problem = Problem::default();
        (ItemSink { items: sender, problem: problem.clone() }, Self { items: receiver, problem })
    }

    /// The next item; `None` after the last one. An error is the last thing to come. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        match self.items.recv().await {
            Some(item) => Some(Ok(item)),
            None => self.problem.lock().take().map(Err),
        }
    }
}

impl<T> ItemSink<T> {
    /// Sends an item, waiting for room. Returns whether anybody still reads. Cancel safe: a dropped call sent nothing.
    pub async fn send(&self, item: T) -> bool {
        self.items.send(item).await.is_ok()
    }

    /// Ends the stream with an error, which its reader gets after the items that wait. It never waits for the reader.
    pub async fn fail(self, error: CallError) {
        *self.problem.lock() = Some(error);
    }

    /// Waits until nobody reads any more. Cancel safe.
    pub async fn closed(&self) {
        self.items.closed().await;
    }
}
