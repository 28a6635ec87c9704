//! The battery of runtimes over each of them, and what is docker's alone.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod docker;
mod engine;
mod engines;
mod events;
mod hosts;
mod killed;
mod marks;
mod process;
mod proxy;
mod registry;

use std::{path::Path, time::Duration};

use tokio::time::Instant;
use towline_agent::{
    mark::Mark,
    runtime::battery::{BATTERY, Case, REACHING, SILENCE},
};

/// The cases of these batteries; with `TOWLINE_CASE` those whose names contain it.
fn cases(of: &[&'static [Case]]) -> Vec<&'static Case> {
    let name = std::env::var("TOWLINE_CASE").unwrap_or_default();
    let all = || [BATTERY, REACHING, SILENCE].into_iter().flatten();
    assert!(all().any(|case| case.name.contains(&name)), "no case is called {name}");
    of.iter().copied().flatten().filter(|case| case.name.contains(&name)).collect()
}

/// Nobody else acts there.
fn mark(dir: &Path) -> Mark {
    mark_of(dir, 0)
}

/// The same, for an agent with another store.
fn others_mark(dir: &Path) -> Mark {
    mark_of(dir, 1)
}

fn mark_of(dir: &Path, store: u128) -> Mark {
    let store = towline_protocol::StoreId::new(uuid::Uuid::from_u128(store));
    Mark::open(&dir.join("marks"), &"test/site".parse().unwrap(), store, None).unwrap()
}

/// Waits for `patience` at most until it `holds`.
async fn until(patience: Duration, what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < patience, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
