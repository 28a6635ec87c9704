//! The battery of runtimes over each of them, and what is docker's alone.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod docker;
mod engine;
mod hosts;
mod killed;
mod marks;
mod process;
mod proxy;
mod registry;

use std::path::Path;

use towline_agent::{
    mark::Mark,
    runtime::battery::{BATTERY, Case, REACHING},
};

/// The cases of both batteries; with `TOWLINE_CASE` those whose names contain it.
fn cases() -> Vec<&'static Case> {
    let name = std::env::var("TOWLINE_CASE").unwrap_or_default();
    let found: Vec<&Case> = BATTERY.iter().chain(REACHING).filter(|case| case.name.contains(&name)).collect();
    assert!(!found.is_empty(), "no case is called {name}");
    found
}

/// Nobody else acts there.
fn mark(dir: &Path) -> Mark {
    let store = towline_protocol::StoreId::new(uuid::Uuid::nil());
    Mark::open(&dir.join("marks"), &"test/site".parse().unwrap(), store, None).unwrap()
}
