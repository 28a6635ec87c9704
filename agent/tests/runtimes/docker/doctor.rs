//! Containers that nobody has any more.

use std::path::Path;

use towline_agent::{
    doctor::{self, Kind, Places},
    runtime::docker::{Endpoint, HostConfig},
};

use super::*;

async fn agent_of(engine: &Engine, instance: &str, dir: &Path) -> Agent {
    agent_with(engine, instance, dir, "").await
}

/// With more lines of `spec`.
async fn agent_with(engine: &Engine, instance: &str, dir: &Path, more: &str) -> Agent {
    let config = AgentConfig {
        runtime: RuntimeKind::Docker,
        docker_socket: engine.socket.clone(),
        ..AgentConfig::new(instance.parse().unwrap(), dir)
    };
    let agent = Agent::open(config, prometheus::Registry::new()).await.unwrap();
    let yaml =
        format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{}", sleeper(more));
    let id = "default/App/web".parse().unwrap();
    let definition = Definition { id, definition: yaml.into(), is_async: false };
    agent.platform().apply(&CallContext::new(), &[definition]).await.unwrap();
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_removes_containers_whose_agents_data_is_gone_and_no_others() {
    let _among_others = GATE.read().await;
    let engine = Engine::shared();
    let dir = tempfile::tempdir().unwrap();
    let of = |instance: &str| engine.containers(&format!("dev.towline.instance={instance}"));
    // One whose data was removed, one that is merely stopped, one that runs although its data was removed.
    let lost = agent_of(&engine, "test/doctor-lost", &dir.path().join("lost")).await;
    let stopped = agent_of(&engine, "test/doctor-stopped", &dir.path().join("stopped")).await;
    let runs = agent_of(&engine, "test/doctor-runs", &dir.path().join("runs")).await;
    lost.close().await;
    stopped.close().await;
    for gone in ["lost", "runs"] {
        std::fs::remove_dir_all(dir.path().join(gone)).unwrap();
    }
    let foreign = "dev.towline.instance=test/doctor-elsewhere";
    let foreign = engine.docker(&["run", "--detach", "--label", foreign, IMAGE, "sleep", "1000"]);
    let places = Places { docker_socket: Some(engine.socket.clone()), ..Places::default() };
    let report = doctor::examine(&places).await.unwrap();
    let found: Vec<_> = report.leftovers.iter().filter(|found| found.kind == Kind::Container).collect();
    let [found] = found.as_slice() else { panic!("{report:?}") };
    assert_eq!(
        (found.instance.as_deref(), &found.parts),
        (Some("test/doctor-lost"), &of("test/doctor-lost"))
    );
    assert!(report.untold.iter().any(|untold| untold.contains("its agent is on another host")), "{report:?}");
    assert_eq!(doctor::remove(&places, found).await, Ok(true));
    assert_eq!(of("test/doctor-lost"), Vec::<String>::new());
    for instance in ["test/doctor-stopped", "test/doctor-runs", "test/doctor-elsewhere"] {
        let left = of(instance);
        assert!(left.len() == 1 && engine.is_running(&left[0]), "{instance}");
        engine.docker(&["rm", "--force", &left[0]]);
    }
    assert!(!engine.is_running(&foreign));
    runs.close().await;
}

/// As an agent's configuration names them.
fn host(name: &str, endpoint: Endpoint) -> HostConfig {
    HostConfig { name: Some(name.parse().unwrap()), labels: std::collections::BTreeMap::new(), endpoint }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_looks_at_every_host_that_is_named_and_says_where_it_could_not() {
    let (engine, dir) = (Engine::without_network("doctor"), tempfile::tempdir().unwrap());
    let containers = || engine.containers("dev.towline.instance=test/doctor-edge");
    let lost = dir.path().join("lost");
    let isolated = "  docker: {networkMode: none}\n";
    agent_with(&engine, "test/doctor-edge", &lost, isolated).await.close().await;
    std::fs::remove_dir_all(&lost).unwrap();
    let socket = || Endpoint::Socket(engine.socket.clone());
    let places = Places {
        // The same once more, which is one host all the same.
        docker_socket: Some(engine.socket.clone()),
        docker_hosts: vec![
            host("edge-1", socket()),
            host("edge-2", Endpoint::Socket(dir.path().join("nobody.sock"))),
            host("edge-3", Endpoint::Tcp { address: "tcp://127.0.0.1:1".to_owned(), tls: None }),
            host("edge-4", socket()),
        ],
        ..Places::default()
    };
    let report = doctor::examine(&places).await.unwrap();
    let found: Vec<_> = report.leftovers.iter().filter(|found| found.kind == Kind::Container).collect();
    let [found] = found.as_slice() else { panic!("{report:?}") };
    assert_eq!((found.host.as_deref(), &found.parts), (Some("edge-1"), &containers()));
    let unseen: Vec<&str> = report.unseen.iter().map(|unseen| unseen.host.as_str()).collect();
    assert_eq!(unseen, ["edge-2", "edge-3"]);
    assert!(report.unseen.iter().all(|unseen| unseen.why.contains("does not answer")), "{report:?}");
    assert_eq!(doctor::remove(&places, found).await, Ok(true));
    assert_eq!(containers(), Vec::<String>::new());
    // One that falls silent delays none of the others.
    let silent = engine.freeze();
    let report = doctor::examine(&places).await.unwrap();
    let unseen: Vec<&str> = report.unseen.iter().map(|unseen| unseen.host.as_str()).collect();
    assert_eq!(unseen, ["edge-1", "edge-2", "edge-3", "edge-4"]);
    silent.thaw();
    engine.end();
}
