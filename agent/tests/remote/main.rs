//! Engines that are reached over SSH and over TLS, on real servers. `make test-real` runs it: it needs OpenSSH's server and the
//! right to start one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod check;
#[expect(dead_code, reason = "the tests of one engine do more to it")]
#[path = "../runtimes/engine.rs"]
mod engine;
mod ssh;
mod sshd;
mod tether;
mod tls;

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::time::Instant;
use towline_agent::{
    mark::Mark,
    runtime::{
        Runtime,
        battery::{Case, Place},
        docker::{DockerConfig, DockerRuntime, Endpoint, HostConfig},
    },
};

/// The program under test.
const AGENT: &str = env!("CARGO_BIN_EXE_towline-agent");

fn config(instance: &str, dir: &Path, endpoints: Vec<Endpoint>) -> DockerConfig {
    let store = towline_protocol::StoreId::new(uuid::Uuid::nil());
    let host = |(number, endpoint)| HostConfig {
        name: Some(format!("far-{number}").parse().unwrap()),
        labels: std::collections::BTreeMap::new(),
        endpoint,
    };
    DockerConfig {
        registry_auth: None,
        instance: instance.to_owned(),
        hosts: endpoints.into_iter().enumerate().map(host).collect(),
        mark: Mark::open(&dir.join("marks"), &"test/site".parse().unwrap(), store, None).unwrap(),
        program: AGENT.into(),
    }
}

/// A place for the battery.
struct Far {
    instance: String,
    endpoint: Endpoint,
    dir: TempDir,
    shared: TempDir,
}

impl Place for Far {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let config = config(&self.instance, self.dir.path(), vec![self.endpoint.clone()]);
        Box::pin(async { Arc::new(DockerRuntime::open(config).await) as Arc<dyn Runtime> })
    }

    fn open_other(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let mine = config(&self.instance, self.dir.path(), vec![self.endpoint.clone()]);
        let store = towline_protocol::StoreId::new(uuid::Uuid::from_u128(1));
        let marks = self.dir.path().join("others-marks");
        let mark = Mark::open(&marks, &"test/site".parse().unwrap(), store, None).unwrap();
        Box::pin(async {
            Arc::new(DockerRuntime::open(DockerConfig { mark, ..mine }).await) as Arc<dyn Runtime>
        })
    }

    fn lines(&self) -> String {
        let shared = self.shared.path().display();
        format!("  image: {}\n  mounts: [{{source: {shared}, target: {shared}}}]\n", engine::IMAGE)
    }

    // These engines are on this machine, too.
    fn shared(&self) -> &Path {
        self.shared.path()
    }
}

/// Runs a battery; with `TOWLINE_CASE` those cases whose names contain it.
async fn battery(way: &str, endpoint: &Endpoint, cases: &[&[Case]]) {
    let name = std::env::var("TOWLINE_CASE").unwrap_or_default();
    for case in cases.concat().iter().filter(|case| case.name.contains(&name)) {
        let instance = format!("{way}/{}", case.name);
        let dir = || tempfile::tempdir().unwrap();
        let place = Far { instance, endpoint: endpoint.clone(), dir: dir(), shared: dir() };
        case.run(&place).await;
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(100), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
