//! A bounded stream of items that ends with nothing, or with one error.

use tokio::sync::mpsc;
use towline_protocol::CallError;

/// Items between a producer and the stream's reader: enough to fill a frame while the last one travels.
const BUFFERED_ITEMS: usize = 64;

/// The reading end. Dropping it ends the stream: its producer sees [`ItemSink::closed`].
#[derive(Debug)]
pub struct ItemStream<T> {
    items: mpsc::Receiver<Result<T, CallError>>,
}

/// The producing end. Dropping it ends the stream in order.
#[derive(Debug, Clone)]
pub struct ItemSink<T> {
    items: mpsc::Sender<Result<T, CallError>>,
}

impl<T> ItemStream<T> {
    /// Both ends of a new stream.
    #[must_use]
    pub fn channel() -> (ItemSink<T>, Self) {
        let (sender, receiver) = mpsc::channel(BUFFERED_ITEMS);
        (ItemSink { items: sender }, Self { items: receiver })
    }

    /// The next item; `None` after the last one. An error is the last thing to come. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        self.items.recv().await
    }
}

impl<T> ItemSink<T> {
    /// Sends an item, waiting for room. Returns whether anybody still reads. Cancel safe: a dropped call sent nothing.
    pub async fn send(&self, item: T) -> bool {
        self.items.send(Ok(item)).await.is_ok()
    }

    /// Ends the stream with an error.
    pub async fn fail(self, error: CallError) {
        // Nobody reads any more: then nobody needs the error either.
        let _ = self.items.send(Err(error)).await;
    }

    /// Waits until nobody reads any more. Cancel safe.
    pub async fn closed(&self) {
        self.items.closed().await;
    }
}
