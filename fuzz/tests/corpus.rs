//! Feeds every input that was kept to every target, and the files that people copy from beside them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use towline_fuzz::TARGETS;

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
