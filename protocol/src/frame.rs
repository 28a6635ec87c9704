//! The binary header that heads each payload.
//!
//! ```text
//! offset size field
//!      0    1 layout version (1)
//!      1    1 kind
//!      2    1 flags: bit 0 = body is zstd
//!      3    1 encoding of the body: 0 none, 1 MessagePack, 2 raw bytes
//!      4    8 epoch (0: none)
//!     12    4 sequence: number of the frame in its stream, of the question, or the credit limit
//!     16    4 time left in ms (0: not said)
//!     20    8 not after, Unix ms of hub time (0: not said)
//!     28    2 length of the extensions
//!     30    n extensions: type (1), length (1), value; unknown types are skipped
//!   30+n      body
//! ```
//! Numbers are big-endian. Extensions: 1 = trace context (W3C: version, trace id, span id, flags; 26 bytes), 2 = size and
//! digest of a message that is compressed or spans frames (48 bytes: size as sent, size decompressed, BLAKE3 of what is sent).
//!
//! Why not NATS headers: six of them halve the throughput (measured), and a header of our own is the same on every
//! transport.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::id::Epoch;
use crate::limits;
use crate::version::FRAME_VERSION;

const FIXED_BYTES: usize = 30;
const FLAG_COMPRESSED: u8 = 1;
const EXTENSION_TRACE: u8 = 1;
const EXTENSION_TOTAL: u8 = 2;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A call, or the first part of one.
    Call,
    /// A further part of a message.
    Chunk,
    /// The answer to a call, or the first part of it.
    Reply,
    /// The call failed: a `CallError`.
    Failure,
    /// One item of a stream.
    Item,
    /// The stream is over, and all of it was sent.
    End,
    /// The other side may send frames up to, and without, the sequence number.
    Credit,
    /// The caller takes the call back.
    Cancel,
    /// An order to a session.
    Order,
    /// A question to the hub.
    Ask,
    /// The hub's answer.
    Answer,
    /// A renewal.
    Heartbeat,
    /// Still there, and nothing to say.
    KeepAlive,
    /// A kind that this build does not know.
    Unknown(u8),
}

impl Kind {
    const KNOWN: [(Self, u8); 13] = [
        (Self::Call, 1),
        (Self::Chunk, 2),
        (Self::Reply, 3),
        (Self::Failure, 4),
        (Self::Item, 5),
        (Self::End, 6),
        (Self::Credit, 7),
        (Self::Cancel, 8),
        (Self::Order, 9),
        (Self::Ask, 10),
        (Self::Answer, 11),
        (Self::Heartbeat, 12),
        (Self::KeepAlive, 13),
    ];

    fn to_byte(self) -> u8 {
        match self {
            Self::Unknown(byte) => byte,
            known => Self::KNOWN.iter().find(|(kind, _)| *kind == known).map_or(0, |(_, byte)| *byte),
        }
    }

    fn from_byte(byte: u8) -> Self {
        Self::KNOWN.iter().find(|(_, known)| *known == byte).map_or(Self::Unknown(byte), |(kind, _)| *kind)
    }
}

/// How the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// There is none.
    Empty,
    /// MessagePack with named fields.
    MessagePack,
    /// Bytes as they are.
    Raw,
    /// One that this build does not know.
    Unknown(u8),
}

impl Encoding {
    fn to_byte(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::MessagePack => 1,
            Self::Raw => 2,
            Self::Unknown(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Empty,
            1 => Self::MessagePack,
            2 => Self::Raw,
            other => Self::Unknown(other),
        }
    }
}

/// Size and digest of a message that is compressed or spans frames; it stands in the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Bytes as they are sent, compressed or not.
    pub sent_bytes: u64,
    /// Bytes after decompression.
    pub full_bytes: u64,
    /// BLAKE3 of the bytes as they are sent.
    pub digest: [u8; 32],
}

impl Total {
    /// The total of a message as it will be sent.
    #[must_use]
    pub fn of(sent: &[u8], full_bytes: usize) -> Self {
        Self {
            sent_bytes: sent.len() as u64,
            full_bytes: full_bytes as u64,
            digest: *blake3::hash(sent).as_bytes(),
        }
    }
}

/// A W3C trace context in its binary form, passed on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext(pub [u8; 26]);

/// The header of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// The body is compressed with zstd. For a message that spans frames, all of it is.
    pub compressed: bool,
    /// How the body is written.
    pub encoding: Encoding,
    /// The session that it belongs to.
    pub epoch: Option<Epoch>,
    /// Number of the frame in its stream, of the question, or the credit limit.
    pub sequence: u32,
    /// How long the caller still waits. Whole milliseconds; what is below one is none.
    pub time_left: Option<Duration>,
    /// Do not begin after this moment of hub time, in Unix milliseconds.
    pub not_after_unix_ms: Option<u64>,
    /// Passed on as it is.
    pub trace: Option<TraceContext>,
    /// For the first frame of a message that spans several.
    pub total: Option<Total>,
}

impl Header {
    /// A header that says no more than what the frame is.
    #[must_use]
    pub const fn new(kind: Kind, encoding: Encoding) -> Self {
        Self {
            kind,
            compressed: false,
            encoding,
            epoch: None,
            sequence: 0,
            time_left: None,
            not_after_unix_ms: None,
            trace: None,
            total: None,
        }
    }
}

/// A header and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The body, a view into the payload.
    pub body: Bytes,
}

/// Why a payload is not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// It ends within the header.
    #[error("the payload of {found} bytes ends within its header")]
    Short {
        /// The payload's size.
        found: usize,
    },
    /// Its layout is another one.
    #[error("the frame has layout {found}, and this build reads layout {FRAME_VERSION}")]
    Layout {
        /// The layout's number.
        found: u8,
    },
    /// Its epoch is none.
    #[error("the frame's epoch {found} is above 2^53")]
    Epoch {
        /// The number.
        found: u64,
    },
    /// An extension is malformed.
    #[error("extension {kind} of the frame is malformed")]
    Extension {
        /// The extension's type.
        kind: u8,
    },
    /// The extensions are longer than allowed.
    #[error(
        "the frame's extensions of {found} bytes exceed the limit of {}",
        limits::FRAME_EXTENSION_BYTES_MAX
    )]
    Extensions {
        /// Their size.
        found: usize,
    },
    /// The body is longer than allowed.
    #[error("the frame's body of {found} bytes exceeds the limit of {}", limits::FRAME_BODY_BYTES_MAX)]
    Body {
        /// Its size.
        found: usize,
    },
}

impl Frame {
    /// A frame without a body.
    #[must_use]
    pub const fn bare(header: Header) -> Self {
        Self { header, body: Bytes::new() }
    }

    /// The frame as a payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let header = &self.header;
        let mut extensions = BytesMut::new();
        if let Some(trace) = header.trace {
            extensions.put_slice(&[EXTENSION_TRACE, 26]);
            extensions.put_slice(&trace.0);
        }
        if let Some(total) = header.total {
            extensions.put_slice(&[EXTENSION_TOTAL, 48]);
            extensions.put_u64(total.sent_bytes);
            extensions.put_u64(total.full_bytes);
            extensions.put_slice(&total.digest);
        }
        let mut out = BytesMut::with_capacity(FIXED_BYTES + extensions.len() + self.body.len());
        out.put_u8(FRAME_VERSION);
        out.put_u8(header.kind.to_byte());
        out.put_u8(if header.compressed { FLAG_COMPRESSED } else { 0 });
        out.put_u8(header.encoding.to_byte());
        out.put_u64(header.epoch.map_or(0, Epoch::get));
        out.put_u32(header.sequence);
        out.put_u32(header.time_left.map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX)));
        out.put_u64(header.not_after_unix_ms.unwrap_or(0));
        out.put_u16(u16::try_from(extensions.len()).expect("two extensions of under 256 bytes"));
        out.put_slice(&extensions);
        out.put_slice(&self.body);
        out.freeze()
    }

    /// Reads a payload. The body stays a view into it.
    ///
    /// # Errors
    /// [`FrameError`] for what is not a frame of this layout, or exceeds a limit. Unknown kinds, encodings, flags and
    /// extensions are not errors: they belong to newer peers.
    pub fn decode(payload: &Bytes) -> Result<Self, FrameError> {
        let short = FrameError::Short { found: payload.len() };
        let mut read = Reader(payload.as_ref());
        let layout = read.u8().ok_or(short)?;
        if layout != FRAME_VERSION {
            return Err(FrameError::Layout { found: layout });
        }
        let kind = Kind::from_byte(read.u8().ok_or(short)?);
        let flags = read.u8().ok_or(short)?;
        let encoding = Encoding::from_byte(read.u8().ok_or(short)?);
        let mut header = Header::new(kind, encoding);
        header.compressed = flags & FLAG_COMPRESSED != 0;
        header.epoch = match read.u64().ok_or(short)? {
            0 => None,
            number => Some(Epoch::new(number).map_err(|_| FrameError::Epoch { found: number })?),
        };
        header.sequence = read.u32().ok_or(short)?;
        header.time_left =
            Some(read.u32().ok_or(short)?).filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.into()));
        header.not_after_unix_ms = Some(read.u64().ok_or(short)?).filter(|ms| *ms > 0);
        let extensions_bytes = usize::from(read.u16().ok_or(short)?);
        if extensions_bytes > limits::FRAME_EXTENSION_BYTES_MAX {
            return Err(FrameError::Extensions { found: extensions_bytes });
        }
        let extensions = read.take(extensions_bytes).ok_or(short)?;
        read_extensions(extensions, &mut header)?;
        let body = payload.slice_ref(read.0);
        if body.len() > limits::FRAME_BODY_BYTES_MAX {
            return Err(FrameError::Body { found: body.len() });
        }
        Ok(Self { header, body })
    }
}

fn read_extensions(bytes: &[u8], header: &mut Header) -> Result<(), FrameError> {
    let mut read = Reader(bytes);
    while let Some(kind) = read.u8() {
        let malformed = FrameError::Extension { kind };
        let length = read.u8().ok_or(malformed)?;
        let value = read.take(usize::from(length)).ok_or(malformed)?;
        let mut inner = Reader(value);
        match kind {
            EXTENSION_TRACE => header.trace = Some(TraceContext(inner.array().ok_or(malformed)?)),
            EXTENSION_TOTAL => {
                header.total = Some(Total {
                    sent_bytes: inner.u64().ok_or(malformed)?,
                    full_bytes: inner.u64().ok_or(malformed)?,
                    digest: inner.array().ok_or(malformed)?,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes fields off the front of a slice; `None` when it is too short.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
