//! `towline` against a hub and an agent over NATS.

use std::process::{Command, Output, Stdio};

use towline_tests::chain::binary;
use towline_tests::wait::until;

use super::{Site, script};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_works_over_nats() {
    let site = Site::start().await;
    let agent = site.agent("shop-7").await;
    let instances = site.hub.cli_json(&["instances"]).await;
    assert_eq!(instances["bus"], "connected");
    assert_eq!(instances["instances"][0]["id"], "default/shop-7");
    assert_eq!(instances["instances"][0]["presence"]["state"], "connected");
    let file = agent.dir().join("web.yaml");
    std::fs::write(&file, script("web", "echo hello from $TOWLINE_INSTANCE; exec sleep 1000", "")).unwrap();
    let applied = site.hub.cli(&["apply", "shop-7", "-f", file.to_str().unwrap()]).await;
    assert!(applied.status.success(), "{applied:?}");
    let services = site.hub.cli_json(&["services", "shop-7"]).await;
    assert_eq!(services["services"][0]["id"], "default/App/web", "{services}");
    assert_eq!(services["services"][0]["status"], "ready");
    let said = until("the unit's line", || async {
        let logs = site.hub.cli(&["logs", "shop-7", "web"]).await;
        assert!(logs.status.success(), "{logs:?}");
        let text = String::from_utf8(logs.stdout).unwrap();
        (!text.is_empty()).then_some(text)
    })
    .await;
    assert!(said.contains("hello from default/shop-7"), "{said}");
    let table = site.hub.cli(&["instances"]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("shop-7") && table.contains("connected"), "{table}");
    let absent = site.hub.cli(&["--output", "json", "ping", "nobody"]).await;
    assert_eq!(absent.status.code(), Some(3), "{absent:?}");
    assert!(String::from_utf8_lossy(&absent.stderr).contains("\"unavailable\""), "{absent:?}");
}

/// What is no instance is refused at the door of each program, before anything is begun, in a sentence that names it and
/// says what is allowed.
#[test]
fn x_a6_the_programs_refuse_what_is_no_instance() {
    let long = "a".repeat(64);
    for bad in ["*", ">", "a.b", "", &long, "zürich", "UPPER", "a/b/c", "*/a"] {
        for command in [&["ping", bad][..], &["logs", bad, "web"], &["apply", bad, "-f", "-"]] {
            assert_refused("towline", command, bad);
        }
        assert_refused("towline-agent", &["--instance", bad, "--nats", "nats://127.0.0.1:1"], bad);
    }
}

fn assert_refused(program: &str, args: &[&str], bad: &str) {
    let mut command = Command::new(binary(program));
    // Nothing of the caller's own surroundings may tell it where to go.
    let ours = std::env::vars_os().map(|(name, _)| name);
    ours.filter(|name| name.as_encoded_bytes().starts_with(b"TOWLINE_")).for_each(|name| {
        command.env_remove(name);
    });
    let Output { status, stdout, stderr } = command.args(args).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{program} {args:?}: {said}");
    assert!(stdout.is_empty(), "{program} {args:?}");
    assert!(said.contains(&format!("`{bad}` is not an instance id")), "{program} {args:?}: {said}");
    assert!(said.contains("`tenant/name`, each 1 to 63 characters of a–z"), "{program} {args:?}: {said}");
}
