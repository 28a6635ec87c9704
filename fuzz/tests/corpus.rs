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

/// The same, for what engines, hosts and other agents write.
#[test]
fn seeds_of_foreign_files_are_read_by_their_doors() {
    use towline_agent::doors;
    use towline_agent::runtime::{FILE_BYTES_MAX, FileKind};
    let seed = |name: &str| fs::read(here().join("corpus").join(name)).unwrap();
    let text = |name: &str| String::from_utf8(seed(name)).unwrap();
    let entry = |name: &str| doors::archive(&seed(&format!("archive/{name}")), FILE_BYTES_MAX);
    assert_eq!(entry("file").unwrap().content.as_deref(), Some(&b"key = value\n"[..]));
    assert_eq!(entry("name-long").unwrap().content.as_deref(), Some(&b"long"[..]));
    assert_eq!(entry("directory").unwrap().stat.kind, FileKind::Directory);
    for (name, target) in [("link", "../var/run".to_owned()), ("link-long", "../run/".repeat(40))] {
        assert_eq!(entry(name).unwrap().link, Some(target.into()), "{name}");
    }
    for name in ["full", "least", "newer", "before-many"] {
        let [_, raised] = doors::mark(&seed(&format!("mark/{name}"))).unwrap();
        assert!(!raised.is_empty(), "{name}");
    }
    assert!(doors::engine_mark(serde_json::from_slice(&seed("mark/engine")).unwrap()).is_some());
    for name in ["file", "commented", "crlf", "blank-lines", "key-first"] {
        let read = towline_bus::doors::credentials(&text(&format!("credentials/{name}")), b"nonce");
        assert!(read.is_ok(), "{name}: {read:?}");
    }
    for (name, hosts) in [("ssh", 2), ("tcp", 3), ("empty", 0)] {
        let read = doors::config(&seed(&format!("config/{name}")), Path::new("/local.sock"));
        assert_eq!(read.map(|config| config.hosts.len()), Ok(hosts), "{name}");
    }
    assert_eq!(doors::registries(&seed("registry/full")).map(|found| found.len()), Ok(4));
    for (name, ports) in [("running", 1), ("hooks", 1), ("healthy", 1), ("exited", 1), ("health", 1)] {
        let read = doors::container(&seed(&format!("container/{name}"))).unwrap();
        assert_eq!((read.unit.unit.as_str(), read.unit.ports.len()), ("web-1a2b3c4d", ports), "{name}");
    }
    let labels = doors::container(&seed("container/hooks")).unwrap().labels;
    assert!(labels.contains_key("dev.towline.hooks") && labels.contains_key("dev.towline.home"));
    assert!(doors::container(&seed("container/health")).unwrap().labels.contains_key("dev.towline.health"));
    assert!(doors::listed_container(&seed("container/listed")).is_some());
    assert!(!doors::container_line(&seed("container_log/whole")).unwrap().partial);
    assert_eq!(doors::hook_lines([&seed("container_log/hook")[1..]]).len(), 4);
    for name in ["read", "stat", "copied", "too-large", "not-a-file", "failed"] {
        assert!(doors::file_answer(&seed(&format!("file_answer/{name}"))).is_some(), "{name}");
    }
    assert_eq!(doors::http_status(&seed("http_status/ok")), Some(200));
    assert_eq!(doors::process_stat(&seed("process/stat")), Some((1, 4711, false, false)));
    let names = text("names/names");
    let (_, files) = names.split_once('\n').unwrap();
    let (passwd, groups) = files.split_once("\n\n").unwrap();
    assert_eq!(doors::ids_of_image("web", "logs", passwd, groups), Some((33, 50)));
    assert_eq!(doors::ids_of_host("web:logs", passwd, groups), Some((33, 50)));
}

#[test]
fn seeds_of_headers_are_read_by_their_doors() {
    use towline_hub::api::doors::{Said, headers};
    let full = fs::read_to_string(here().join("corpus/headers/full")).unwrap();
    let pairs = full.lines().map(|line| line.split_once(": ").unwrap());
    let read = headers(pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes()))).unwrap();
    let time = Some(std::time::Duration::from_secs(30));
    let expected = [
        Said::Asked(Some("deploy-1".to_owned()), time),
        Said::Version(3),
        Said::After(17),
        Said::Json(Some(42)),
        Said::Yaml(true),
    ];
    assert_eq!(read, expected.map(Ok));
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
