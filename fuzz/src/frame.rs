use bytes::Bytes;
use towline_protocol::frame::Frame;

use crate::unreadable;

/// A payload from the bus: a frame that was read is written so that it is read again. What a newer peer put into its
/// extensions may go; the body is never touched.
pub fn frame(data: &[u8]) {
    let Ok(frame) = Frame::decode(&Bytes::copy_from_slice(data)) else { return };
    assert!(data.ends_with(&frame.body), "the body is not the payload's end");
    let written = frame.encode();
    assert!(written.len() <= data.len(), "{} bytes became {}", data.len(), written.len());
    match Frame::decode(&written) {
        Ok(again) => assert_eq!(again, frame),
        Err(error) => unreadable(&written, &error),
    }
}
