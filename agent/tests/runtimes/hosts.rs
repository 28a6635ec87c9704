//! Several hosts: two engines at once on this machine.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::Instant;
use towline_agent::{
    Agent, AgentConfig,
    runtime::{
        RuntimeKind,
        docker::{Endpoint, HostConfig},
    },
};
use towline_bus::{CallContext, Platform};
use towline_protocol::{
    CallError,
    platform::{Definition, LogsRequest, Service, ServiceStatus, Unit, UnitStatus},
};

use crate::engine::{Engine, IMAGE};

/// An agent with the hosts `one` (`disk=hdd`) and `two` (`disk=ssd`), both with `site=here`.
struct Site {
    engines: [Arc<Engine>; 2],
    agent: Option<Agent>,
    dir: TempDir,
    instance: String,
}

fn host(name: &str, disk: &str, engine: &Engine) -> HostConfig {
    let labels = [("disk", disk), ("site", "here")];
    HostConfig {
        name: Some(name.parse().unwrap()),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        endpoint: Endpoint::Socket(engine.socket.clone()),
    }
}

impl Site {
    /// Each test has engines of its own: they are frozen, and ended.
    async fn new(name: &str) -> Self {
        let engine = |number: u8| Arc::new(Engine::without_network(&format!("{name}-{number}")));
        let mut site = Self {
            engines: [engine(1), engine(2)],
            agent: None,
            dir: tempfile::tempdir().unwrap(),
            instance: format!("test/{name}"),
        };
        site.open().await;
        site
    }

    async fn open(&mut self) {
        let [one, two] = &self.engines;
        let config = AgentConfig {
            runtime: RuntimeKind::Docker,
            docker_hosts: vec![host("one", "hdd", one), host("two", "ssd", two)],
            ..AgentConfig::new(self.instance.parse().unwrap(), self.dir.path())
        };
        self.agent = Some(Agent::open(config, prometheus::Registry::new()).await.unwrap());
    }

    async fn close(&mut self) {
        self.agent.take().unwrap().close().await;
    }

    fn platform(&self) -> Arc<dyn Platform> {
        self.agent.as_ref().unwrap().platform()
    }

    async fn apply(&self, app: &str, host: &str, more: &str) -> Result<(), CallError> {
        let host = if host.is_empty() { String::new() } else { format!("  host: {host}\n") };
        let yaml = format!(
            "apiVersion: towline/v1\nkind: App\nmetadata: {{name: {app}}}\nspec:\n  image: {IMAGE}\n  docker: {{networkMode: \
             none}}\n  stop: {{gracePeriod: 0s}}\n{host}{more}"
        );
        let id = format!("default/App/{app}").parse().unwrap();
        let definition = Definition { id, definition: yaml.into(), is_async: false };
        self.platform().apply(&CallContext::new(), &[definition]).await
    }

    async fn service(&self, app: &str) -> Option<Service> {
        let services =
            self.platform().all_services(&CallContext::new(), None, &BTreeSet::new()).await.unwrap();
        services.into_iter().find(|service| service.id.as_str() == format!("default/App/{app}"))
    }

    async fn until(&self, app: &str, what: &str, holds: impl Fn(&Service) -> bool) -> Service {
        let begun = Instant::now();
        loop {
            match self.service(app).await {
                Some(service) if holds(&service) => return service,
                service => {
                    assert!(
                        begun.elapsed() < Duration::from_secs(120),
                        "waited in vain for {what}: {service:?}"
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ready(&self, app: &str) -> Vec<Unit> {
        self.until(app, "readiness", |service| service.status == ServiceStatus::Ready).await.units
    }

    /// Ids of our containers on each host.
    fn containers(&self) -> [Vec<String>; 2] {
        let label = format!("dev.towline.instance={}", self.instance);
        [self.engines[0].containers(&label), self.engines[1].containers(&label)]
    }

    async fn end(mut self) {
        let agent = self.agent.take().unwrap();
        agent.remove_units().await.unwrap();
        assert_eq!(self.containers(), [Vec::<String>::new(), Vec::new()]);
        agent.close().await;
    }
}

const SLEEPER: &str = "  command: [sleep, \"1000\"]\n";

fn hosts(units: &[Unit]) -> Vec<&str> {
    units.iter().filter_map(|unit| unit.host.as_deref()).collect()
}

fn message(error: &CallError) -> String {
    error.errors.values().next().map_or_else(|| error.message.clone(), |item| item.message.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_v2_an_app_runs_on_the_host_that_it_names() {
    let site = Site::new("named").await;
    for (app, host, expected) in [
        ("a", "two", "two"),
        ("b", "disk=ssd", "two"),
        ("c", "\"site=here,disk=hdd\"", "one"),
        ("d", "site=here", "one"),
        ("e", "", "one"),
    ] {
        site.apply(app, host, SLEEPER).await.unwrap();
        assert_eq!(hosts(&site.ready(app).await), [expected], "host: {host}");
    }
    site.apply("b", "disk=ssd", &format!("{SLEEPER}  units: 3\n")).await.unwrap();
    assert_eq!(hosts(&site.ready("b").await), ["two"; 3], "all of them");
    let before = site.containers();
    let unknown = site.apply("a", "three", SLEEPER).await.unwrap_err();
    assert_eq!(message(&unknown), "spec.host: there is no host three, there are one, two");
    let nowhere = site.apply("f", "disk=tape", SLEEPER).await.unwrap_err();
    assert_eq!(message(&nowhere), "spec.host: no host bears disk=tape; there are one, two");
    assert_eq!(site.containers(), before, "nothing was done");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d9_an_app_moves_to_another_host_with_its_files_there_first() {
    let site = Site::new("moved").await;
    // It would end at once without its file, and never be ready.
    let app = "  command: [sh, -c, \"cat /conf && exec sleep 1000\"]\n  restart: {condition: never}\n  files: [{path: /conf, \
               content: \"as declared\\n\"}]\n";
    site.apply("web", "one", app).await.unwrap();
    let before = site.ready("web").await;
    assert_eq!((hosts(&before), site.containers().map(|ids| ids.len())), (vec!["one"], [1, 0]));
    site.apply("web", "two", app).await.unwrap();
    let after = site.ready("web").await;
    assert_eq!((hosts(&after), site.containers().map(|ids| ids.len())), (vec!["two"], [0, 1]));
    assert_ne!(before[0].id, after[0].id);
    let app = "default/App/web".parse().unwrap();
    let request = LogsRequest { app, unit: None, follow: true, since_unix_ms: None, tail: None };
    // Ready is a unit whose command runs; its line may come a moment later.
    let mut lines = site.platform().logs(&CallContext::new(), &request).await.unwrap();
    let first = lines.next().await.unwrap().unwrap();
    assert_eq!((first.text.as_str(), &first.unit), ("as declared", &after[0].id));
    site.end().await;
}

/// One of two hosts falls silent: what is there is unknown, and what is not goes on, after a restart of the agent, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c2_a_lost_host_delays_no_other() {
    let mut site = Site::new("lost").await;
    site.apply("here", "one", SLEEPER).await.unwrap();
    site.apply("there", "two", SLEEPER).await.unwrap();
    let before = site.containers();
    let engine = Arc::clone(&site.engines[1]);
    let silent = engine.freeze();
    let is_unknown = |service: &Service| service.units.iter().all(|unit| unit.status == UnitStatus::Unknown);
    let lost = site.until("there", "its unit to be unknown", is_unknown).await;
    let why = lost.units[0].reason.clone().unwrap_or_default();
    assert!(why.contains("the docker engine of host two does not answer"), "{why}");
    assert_eq!(lost.units[0].host.as_deref(), Some("two"));

    // What is on the other host is mended, changed and made as ever. None of it waits for the lost one, which would take 20 s.
    site.engines[0].docker(&["rm", "--force", &before[0][0]]);
    let calls = async {
        site.apply("here", "one", &format!("{SLEEPER}  units: 2\n")).await.unwrap();
        site.apply("anywhere", "site=here", SLEEPER).await.unwrap();
        assert_eq!(hosts(&site.ready("here").await), ["one", "one"]);
        assert_eq!(hosts(&site.ready("anywhere").await), ["one"]);
    };
    tokio::time::timeout(Duration::from_secs(60), calls).await.expect("the lost host delays them");
    let error = message(&site.apply("there", "one", SLEEPER).await.unwrap_err());
    assert!(error.contains("host two"), "it may still run there: {error}");

    site.close().await;
    site.open().await;
    site.apply("here", "one", SLEEPER).await.unwrap();
    assert_eq!(hosts(&site.ready("here").await), ["one"]);
    // Nobody knows any more whether the lost host has some of it.
    let error = message(&site.apply("another", "site=here", SLEEPER).await.unwrap_err());
    assert!(error.contains("host two"), "{error}");
    silent.thaw();
    assert_eq!(hosts(&site.ready("there").await), ["two"]);
    assert_eq!(site.containers()[1], before[1], "nothing was made there, and nothing removed");
    site.end().await;
}
