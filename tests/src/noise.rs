//! Bytes that do not shrink, so that what is sent is as large as what was asked for.

use bytes::Bytes;

/// So many of them, always the same: xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
#[must_use]
pub fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}
