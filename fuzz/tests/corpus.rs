//! Feeds every input that was kept to every target, and the files that people copy from beside them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use towline_fuzz::TARGETS;
use towline_hub::api::types;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[track_caller]
fn feed(path: &Path, bytes: &[u8]) {
    for (name, target) in TARGETS {
        // Caught only to say which file it was: the panic itself is shown above.
        let held = std::panic::catch_unwind(|| target(bytes));
        assert!(held.is_ok(), "target {name} fails on {}", path.display());
    }
}

#[test]
fn what_was_found_stays_mended() {
    for dir in sorted(&here().join("corpus")) {
        for path in sorted(&dir) {
            feed(&path, &fs::read(&path).unwrap());
        }
    }
}

#[test]
fn golden_messages_and_examples_hold() {
    let root = here().parent().unwrap();
    for path in sorted(&root.join("protocol/tests/golden")) {
        let digits: Vec<u8> = fs::read(&path).unwrap().into_iter().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        feed(&path, &bytes);
    }
    for dir in ["examples/dev", "examples/sync", "examples/bundle/shop"] {
        for path in sorted(&root.join(dir)) {
            feed(&path, &fs::read(&path).unwrap());
        }
    }
}

/// Seeds are good for something only if their doors open to them: what is refused at once leads nowhere.
#[test]
fn seeds_are_read_by_their_doors() {
    let seed = |name: &str| fs::read(here().join("corpus").join(name)).unwrap();
    fn is_read<T: DeserializeOwned>(json: &[u8]) -> Result<(), String> {
        serde_json::from_slice::<T>(json).map(drop).map_err(|error| error.to_string())
    }
    type Reader = fn(&[u8]) -> Result<(), String>;
    let answers: [(&str, Reader); 12] = [
        ("bundle-put", is_read::<types::BundlePut>),
        ("bundle-deleted", is_read::<types::BundleDeleted>),
        ("bundle-list", is_read::<types::BundleList>),
        ("bundle-content", is_read::<types::BundleContent>),
        ("bundle-records", is_read::<types::BundleRecords>),
        ("bundle-standing", is_read::<types::BundleStanding>),
        ("job-accepted", is_read::<types::JobAccepted>),
        ("job-list", is_read::<types::JobList>),
        ("job-with-records", is_read::<types::JobWithRecords>),
        ("job-cancelled", is_read::<types::JobCancelled>),
        ("capacity", is_read::<types::CapacityInfo>),
        ("addresses", is_read::<types::AddressList>),
    ];
    for (name, read) in answers {
        assert_eq!(read(&seed(&format!("json/{name}"))), Ok(()), "{name}");
    }
    let shop = "shop".parse().unwrap();
    let members = towline_agent::doors::bundle(&shop, &seed("bundle/full").into()).unwrap();
    let started: Vec<_> = members.iter().map(|member| member.id.as_str()).collect();
    assert_eq!(started, ["File/key", "Directory/shelf", "File/prices", "App/web"]);
    assert!(towline_agent::doors::label(&seed("label/full")).is_some());
    assert!(towline_agent::doors::shim_command("{\"command\":\"stop\"}").is_some());
    assert_eq!(towline_cli::doors::sync_file(seed("sync_file/tree").into()).map(|found| found.len()), Ok(2));
    let events = towline_cli::doors::events([&seed("events/stream")[1..]]);
    assert_eq!(events.map(|found| found.len()), Some(2));
    for (name, route) in [("logs", 0), ("jobs", 1), ("events", 2), ("reason", 3)] {
        let query = String::from_utf8(seed(&format!("query/{name}"))).unwrap();
        let read = towline_hub::api::doors::query(&query, 1_800_000_000_000).unwrap();
        assert!(read[route].is_ok(), "{name}: {:?}", read[route]);
    }
}

#[test]
fn each_target_has_a_corpus_and_a_binary() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |dir: &str| -> BTreeSet<String> {
        let paths = sorted(&here().join(dir));
        paths.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stems("corpus"), targets);
    assert_eq!(stems("fuzz_targets"), targets);
}
