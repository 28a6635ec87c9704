//! `towline` against a hub and an agent over NATS.

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
