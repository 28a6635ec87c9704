//! Cutting messages into frames, and joining them again. Pure.

use std::io::Read as _;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use towline_protocol::frame::{Encoding, Frame, Header, Kind, Total};
use towline_protocol::{CallError, Code, limits};

/// zstd's fastest ordinary level: the link is seldom faster than it.
const COMPRESSION_LEVEL: i32 = 1;

/// What is made room for at once when a message is decompressed, whatever it announces; more is as it comes.
const DECOMPRESSED_AT_ONCE: usize = 1 << 20;

/// A message, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    bytes: Bytes,
    total: Option<Total>,
    compressed: bool,
    /// The largest body of one of its frames.
    frame_bytes: usize,
}

/// A message is larger than one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message of {found} bytes exceeds the limit of {}", limits::MESSAGE_BYTES_MAX)]
pub(super) struct TooLarge {
    found: usize,
}

impl From<TooLarge> for CallError {
    fn from(error: TooLarge) -> Self {
        Self::new(Code::TooLarge, error.to_string())
    }
}

impl Outgoing {
    /// Compresses the body when that shrinks it by a sixteenth at least. `frame_bytes` is the largest body that one of its
    /// frames may have.
    pub(super) fn new(body: Vec<u8>, frame_bytes: usize) -> Result<Self, TooLarge> {
        let full_bytes = body.len();
        if full_bytes > limits::MESSAGE_BYTES_MAX {
            return Err(TooLarge { found: full_bytes });
        }
        let shrunk = (full_bytes >= limits::COMPRESS_BYTES_MIN)
            .then(|| zstd::bulk::compress(&body, COMPRESSION_LEVEL).ok())
            .flatten()
            .filter(|shrunk| shrunk.len() <= full_bytes - full_bytes / 16);
        let compressed = shrunk.is_some();
        let bytes = Bytes::from(shrunk.unwrap_or(body));
        let spans = bytes.len() > frame_bytes;
        let total = (spans || compressed).then(|| Total::of(&bytes, full_bytes));
        Ok(Self { bytes, total, compressed, frame_bytes })
    }

    /// If it takes more than one frame, in frames of at most so many bytes.
    pub(super) fn in_parts_of(self, bytes: usize) -> Self {
        let frame_bytes = if self.frames() > 1 { self.frame_bytes.min(bytes) } else { self.frame_bytes };
        Self { frame_bytes, ..self }
    }

    /// How many frames it takes; at least one.
    pub(super) fn frames(&self) -> u32 {
        let frames = self.bytes.len().div_ceil(self.frame_bytes).max(1);
        u32::try_from(frames).expect("64 MiB have fewer bytes than that")
    }

    /// One of its frames, the first with the header given, the others as chunks of it.
    pub(super) fn frame(&self, first: &Header, sequence: u32) -> Frame {
        let before = usize::try_from(sequence).unwrap_or(usize::MAX);
        let start = self.frame_bytes.saturating_mul(before).min(self.bytes.len());
        let end = (start + self.frame_bytes).min(self.bytes.len());
        let mut header = first.clone();
        header.sequence = sequence;
        header.compressed = self.compressed;
        header.encoding = Encoding::MessagePack;
        if sequence == 0 {
            header.total = self.total;
        } else {
            header.kind = Kind::Chunk;
        }
        Frame { header, body: self.bytes.slice(start..end) }
    }
}

/// Why frames do not make a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum JoinError {
    #[error("a message of {claimed} bytes was announced, and {} are allowed", limits::MESSAGE_BYTES_MAX)]
    TooLarge { claimed: u64 },
    #[error("frame {expected} was expected, and frame {found} came")]
    Gap { expected: u32, found: u32 },
    #[error("{announced} bytes were announced, and more came")]
    TooMuch { announced: u64 },
    #[error("the digest of the message is not the one that was announced")]
    Digest,
    #[error("the message could not be decompressed to the {announced} bytes announced")]
    Decompress { announced: u64 },
    #[error("the first frame is compressed, and does not say how large the message is")]
    NoTotal,
}

/// A message of which some frames have come.
#[derive(Debug)]
pub(super) struct Incoming {
    total: Total,
    compressed: bool,
    next: u32,
    bytes: BytesMut,
}

/// What a frame made of a message.
#[derive(Debug)]
pub(super) enum Joined {
    /// It is whole.
    Whole(Bytes),
    /// More frames must come.
    Partly(Incoming),
}

impl Incoming {
    /// Whether a first frame is all there is, as it is.
    pub(super) fn is_whole(first: &Frame) -> bool {
        first.header.total.is_none() && !first.header.compressed
    }

    /// Begins with a first frame.
    pub(super) fn begin(frame: Frame) -> Result<Joined, JoinError> {
        if Self::is_whole(&frame) {
            return Ok(Joined::Whole(frame.body));
        }
        let total = frame.header.total.ok_or(JoinError::NoTotal)?;
        let allowed = limits::MESSAGE_BYTES_MAX as u64;
        if let Some(claimed) = [total.sent_bytes, total.full_bytes].into_iter().find(|bytes| *bytes > allowed)
        {
            return Err(JoinError::TooLarge { claimed });
        }
        let message = Self { total, compressed: frame.header.compressed, next: 0, bytes: BytesMut::new() };
        message.add(&frame)
    }

    /// How many bytes it will hold: what to take from a memory budget.
    pub(super) fn announced(frame: &Frame) -> u64 {
        frame.header.total.map_or(frame.body.len() as u64, |total| total.sent_bytes.max(total.full_bytes))
    }

    /// Adds the next frame. One that came before is passed over: a bus may deliver twice.
    pub(super) fn add(mut self, frame: &Frame) -> Result<Joined, JoinError> {
        if frame.header.sequence < self.next {
            return Ok(Joined::Partly(self));
        }
        if frame.header.sequence != self.next {
            return Err(JoinError::Gap { expected: self.next, found: frame.header.sequence });
        }
        self.next += 1;
        let announced = self.total.sent_bytes;
        let have = self.bytes.len() as u64 + frame.body.len() as u64;
        if have > announced {
            return Err(JoinError::TooMuch { announced });
        }
        if frame.body.is_empty() && have < announced {
            // A frame without progress: a sender that does this for ever must not be heard for ever.
            return Err(JoinError::Gap { expected: self.next, found: self.next });
        }
        self.bytes.extend_from_slice(&frame.body);
        if have < announced { Ok(Joined::Partly(self)) } else { self.finish().map(Joined::Whole) }
    }

    /// The number of the frame that must come next.
    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    fn finish(self) -> Result<Bytes, JoinError> {
        let bytes = self.bytes.freeze();
        if Total::of(&bytes, 0).digest != self.total.digest {
            return Err(JoinError::Digest);
        }
        let announced = self.total.full_bytes;
        let wrong = JoinError::Decompress { announced };
        if !self.compressed {
            return if bytes.len() as u64 == announced { Ok(bytes) } else { Err(wrong) };
        }
        // Read as a stream: memory grows with what is really there, and ends one byte above what was announced.
        let likely = usize::try_from(announced).unwrap_or(usize::MAX).min(DECOMPRESSED_AT_ONCE);
        let mut full = Vec::with_capacity(likely);
        let decoder = zstd::stream::read::Decoder::new(bytes.as_ref()).map_err(|_| wrong.clone())?;
        decoder.take(announced + 1).read_to_end(&mut full).map_err(|_| wrong.clone())?;
        if full.len() as u64 == announced { Ok(full.into()) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header::new(Kind::Reply, Encoding::MessagePack)
    }

    fn frames(body: Vec<u8>) -> Vec<Frame> {
        frames_of(body, limits::FRAME_BODY_BYTES_MAX)
    }

    fn frames_of(body: Vec<u8>, frame_bytes: usize) -> Vec<Frame> {
        let message = Outgoing::new(body, frame_bytes).unwrap();
        (0..message.frames()).map(|n| message.frame(&header(), n)).collect()
    }

    fn join(frames: &[Frame]) -> Result<Option<Bytes>, JoinError> {
        let (first, rest) = frames.split_first().unwrap();
        let mut joined = Incoming::begin(first.clone())?;
        for frame in rest {
            joined = match joined {
                Joined::Partly(incoming) => incoming.add(frame)?,
                Joined::Whole(_) => panic!("whole before its last frame"),
            };
        }
        Ok(match joined {
            Joined::Whole(bytes) => Some(bytes),
            Joined::Partly(_) => None,
        })
    }

    /// Bytes that do not shrink.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(length)
        .collect()
    }

    proptest! {
        #[test]
        fn messages_join_again(
            shrinks: bool,
            length in 0_usize..600_000,
            frame_bytes in 1_024..=limits::FRAME_BODY_BYTES_MAX,
        ) {
            let body = if shrinks { vec![7; length] } else { noise(length) };
            let frames = frames_of(body.clone(), frame_bytes);
            prop_assert!(frames.iter().all(|frame| frame.body.len() <= frame_bytes));
            prop_assert_eq!(join(&frames).unwrap().unwrap(), body);
        }
    }

    #[test]
    fn the_largest_message_passes_and_one_byte_more_does_not() {
        let body = vec![0; limits::MESSAGE_BYTES_MAX];
        assert_eq!(join(&frames(body.clone())).unwrap().unwrap(), body);
        let one_more = vec![0; limits::MESSAGE_BYTES_MAX + 1];
        assert!(Outgoing::new(one_more, limits::FRAME_BODY_BYTES_MAX).is_err());
    }

    #[test]
    fn wrong_totals_are_refused() {
        let good = frames(noise(300_000));
        let with = |change: fn(&mut Total)| {
            let mut frames = good.clone();
            change(frames[0].header.total.as_mut().unwrap());
            join(&frames)
        };
        assert!(matches!(with(|total| total.sent_bytes = u64::MAX), Err(JoinError::TooLarge { .. })));
        assert!(matches!(with(|total| total.full_bytes = u64::MAX), Err(JoinError::TooLarge { .. })));
        assert_eq!(with(|total| total.sent_bytes -= 1), Err(JoinError::TooMuch { announced: 299_999 }));
        assert_eq!(with(|total| total.sent_bytes += 1), Ok(None));
        assert_eq!(with(|total| total.digest[0] ^= 1), Err(JoinError::Digest));
        assert_eq!(with(|total| total.full_bytes += 1), Err(JoinError::Decompress { announced: 300_001 }));
    }

    #[test]
    fn a_bomb_ends_at_its_announced_size() {
        let mut frames = frames(vec![0; 1 << 20]);
        frames[0].header.total.as_mut().unwrap().full_bytes = 10;
        assert_eq!(join(&frames), Err(JoinError::Decompress { announced: 10 }));
    }

    #[test]
    fn a_frame_that_comes_twice_counts_once() {
        let body = noise(600_000);
        let doubled: Vec<_> =
            frames(body.clone()).into_iter().flat_map(|frame| [frame.clone(), frame]).collect();
        // The last one's double comes after the whole.
        assert_eq!(join(&doubled[..doubled.len() - 1]).unwrap().unwrap(), body);
    }

    #[test]
    fn a_gap_is_an_error() {
        let mut frames = frames(noise(600_000));
        frames.remove(1);
        assert_eq!(join(&frames), Err(JoinError::Gap { expected: 1, found: 2 }));
    }
}
