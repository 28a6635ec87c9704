//! The battery of runtimes over each of them, and what is docker's alone.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod docker;
mod engine;
mod hosts;
mod marks;
mod process;

use std::path::Path;

use towline_agent::mark::Mark;

/// Nobody else acts there.
fn mark(dir: &Path) -> Mark {
    let store = towline_protocol::StoreId::new(uuid::Uuid::nil());
    Mark::open(&dir.join("marks"), &"test/site".parse().unwrap(), store, None).unwrap()
}
