//! The battery of runtimes over each of them, and what is docker's alone.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod docker;
mod engine;
mod hosts;
mod marks;
mod process;
mod registry;

use std::path::Path;

use towline_agent::{mark::Mark, runtime::battery::Case};

/// Whether a case is to run: all, unless `TOWLINE_CASE` names one, for whoever works on it.
fn wanted(case: &Case) -> bool {
    std::env::var("TOWLINE_CASE").map_or(true, |name| case.name.contains(&name))
}

/// Nobody else acts there.
fn mark(dir: &Path) -> Mark {
    let store = towline_protocol::StoreId::new(uuid::Uuid::nil());
    Mark::open(&dir.join("marks"), &"test/site".parse().unwrap(), store, None).unwrap()
}
