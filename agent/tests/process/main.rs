//! The process runtime and its shims, through the real binary.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod bench;
mod hooks;
mod life;
mod limits;
mod logs;
mod start;
mod survival;
