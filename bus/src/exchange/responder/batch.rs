//! As many items of a stream to a frame as are there.

use futures::FutureExt as _;
use towline_protocol::{CallError, Code, wire};

use crate::platform::ItemStream;

/// The largest item of a stream: one may come on top of a batch that is nearly full, and the array's own head takes five bytes.
const fn item_bytes_max(frame_bytes: usize) -> usize {
    frame_bytes / 2 - 8
}

/// Encoded items, and whether the stream has ended, with which error.
pub(super) struct Batch {
    pub(super) items: Vec<Vec<u8>>,
    pub(super) end: Option<Option<CallError>>,
}

/// The items that are there, up to half a frame of so many bytes. Cancel safe: it waits for its first item alone.
pub(super) async fn next_batch<T: serde::Serialize>(stream: &mut ItemStream<T>, frame_bytes: usize) -> Batch {
    let most = item_bytes_max(frame_bytes);
    let mut batch = Batch { items: Vec::new(), end: None };
    let mut bytes = 0;
    let mut next = Some(stream.next().await);
    while let Some(item) = next {
        match item {
            Some(Ok(item)) => {
                let item = wire::encode(&item);
                bytes += item.len();
                if item.len() > most {
                    let text = format!("an item of {} bytes exceeds the limit of {most}", item.len());
                    batch.end = Some(Some(CallError::new(Code::TooLarge, text)));
                    return batch;
                }
                batch.items.push(item);
            }
            Some(Err(error)) => batch.end = Some(Some(error)),
            None => batch.end = Some(None),
        }
        if batch.end.is_some() || bytes >= most {
            return batch;
        }
        next = stream.next().now_or_never();
    }
    batch
}

#[cfg(test)]
mod tests {
    use towline_protocol::limits::FRAME_BODY_BYTES_MAX;

    use super::*;

    #[tokio::test]
    async fn a_batch_fits_a_frame_and_keeps_its_order() {
        let (sink, mut stream) = ItemStream::channel();
        let items: Vec<String> = (0..40).map(|n| "x".repeat(n * 1_600)).collect();
        for item in &items {
            assert!(sink.send(item.clone()).await);
        }
        drop(sink);
        let mut joined: Vec<String> = Vec::new();
        loop {
            let Batch { items, end } = next_batch(&mut stream, FRAME_BODY_BYTES_MAX).await;
            let body = wire::array_of(&items);
            assert!(body.len() <= FRAME_BODY_BYTES_MAX, "{} bytes", body.len());
            joined.extend(wire::decode::<Vec<String>>(&body).unwrap());
            if let Some(end) = end {
                assert_eq!(end, None);
                break;
            }
        }
        assert_eq!(joined, items);
    }

    #[tokio::test]
    async fn an_item_that_fits_no_frame_ends_the_stream_with_an_error() {
        let (sink, mut stream) = ItemStream::channel();
        assert!(sink.send("x".repeat(item_bytes_max(FRAME_BODY_BYTES_MAX))).await);
        let batch = next_batch(&mut stream, FRAME_BODY_BYTES_MAX).await;
        assert_eq!(batch.end.flatten().map(|error| error.code), Some(Code::TooLarge));
    }
}
