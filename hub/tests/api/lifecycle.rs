//! How a hub starts, is refused, stops, and comes back.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use towline_bus::transport::memory::MemoryBroker;
use towline_hub::api::types::Instance;
use towline_hub::{BuildError, Hub};

use crate::support::{TestHub, config, eventually, expect, refused};

#[tokio::test]
async fn a_port_in_use_is_named_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut wanted = config(dir.path());
    wanted.listen = address;
    let error = Hub::build(wanted, MemoryBroker::new().connect()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("port {port} is in use")) && error.contains("--listen"), "{error}");
    let mut wanted = config(dir.path());
    wanted.metrics_listen = Some(address);
    let error = Hub::build(wanted, MemoryBroker::new().connect()).await.unwrap_err().to_string();
    assert!(error.contains("--metrics-listen"), "{error}");
}

#[tokio::test]
async fn two_hubs_on_one_directory_are_refused() {
    let (hub, dir) = TestHub::start().await;
    let second = Hub::build(config(dir.path()), MemoryBroker::new().connect()).await;
    let error = second.unwrap_err();
    assert!(matches!(error, BuildError::Store(_)));
    let text = error.to_string();
    assert!(
        text.contains("belongs to a running hub") && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    hub.stop().await;
    TestHub::start_on(&config(dir.path()), MemoryBroker::new()).await.stop().await;
}

#[tokio::test]
async fn a_bad_token_file_is_refused_and_gives_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = config(dir.path());
    wanted.token_file = Some(dir.path().join("absent"));
    let error = Hub::build(wanted, MemoryBroker::new().connect()).await.unwrap_err();
    assert!(error.to_string().contains("--token-file"), "{error}");
    TestHub::start_on(&config(dir.path()), MemoryBroker::new()).await.stop().await;
}

#[tokio::test]
async fn epochs_grow_over_a_restart_and_files_are_their_owners_alone() {
    let (hub, dir) = TestHub::start().await;
    let epoch = async |hub: &TestHub| {
        let shown: Instance = expect(hub.get("/v1/instances/default/shop"), 200).await;
        shown.session.unwrap().epoch.unwrap()
    };
    let (agent, _mock) = hub.agent("shop").await;
    let before = epoch(&hub).await;
    agent.leave().await;
    hub.stop().await;
    for file in ["hub.redb", "hub.lock", "token"] {
        let mode = dir.path().join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let hub = TestHub::start_on(&config(dir.path()), MemoryBroker::new()).await;
    let (_agent, _mock) = hub.agent("shop").await;
    assert!(epoch(&hub).await > before);
    hub.stop().await;
}

#[tokio::test]
async fn readiness_tells_a_lost_bus_and_calls_do_not_blame_the_instance() {
    let dir = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let transport = broker.connect();
    let hub = Hub::build(config(dir.path()), transport.clone()).await.unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let address = hub.address();
    let mut running = std::pin::pin!(hub.run(shutdown.clone()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = || client.get(format!("http://{address}/readyz"));
    let looking = async {
        let _: Value = expect(ready(), 200).await;
        transport.cut();
        // The hub hears of its link when its task comes to it.
        eventually("it is not ready", async || ready().send().await.unwrap().status() == 503).await;
        let problem = refused(ready(), 503).await;
        assert_eq!(problem.code, "not_ready");
        assert!(problem.detail.contains("bus"), "{}", problem.detail);
        transport.join();
        eventually("it is ready again", async || ready().send().await.unwrap().status() == 200).await;
        shutdown.cancel();
    };
    let (ended, ()) = tokio::join!(running.as_mut(), looking);
    ended.unwrap();
}

#[test]
fn each_flag_has_a_variable_and_an_empty_one_is_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, value: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_towline-hub"));
        command.arg("check-config").env_clear().env("TOWLINE_DATA_DIR", dir.path()).env(name, value);
        command.output().expect("it can be started").status.success()
    };
    assert!(check("NOTHING", ""));
    assert!(check("TOWLINE_NATS", ""));
    for name in ["LISTEN", "METRICS_LISTEN", "TOKEN_FILE"] {
        assert!(check(&format!("TOWLINE_{name}"), ""), "{name}");
        assert!(!check(&format!("TOWLINE_{name}"), "/no/such/thing"), "{name} is read");
    }
}
