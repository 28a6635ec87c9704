//! The battery over containers of a real engine, and an agent that works with it.

mod ancestor;
mod doctor;
mod files;
mod hooks;
mod lost;
mod mounts;
mod undone;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::{
    sync::{RwLock, RwLockReadGuard},
    time::Instant,
};
use towline_agent::{
    Agent, AgentConfig,
    runtime::{
        Runtime, RuntimeKind,
        battery::{BATTERY, Case, Daemon, Place, REACHING, SILENCE},
        docker::{DockerConfig, DockerRuntime},
    },
};
use towline_bus::{CallContext, Platform};
use towline_protocol::{
    CallError, Code,
    platform::{Definition, Service, ServiceStatus, UnitStatus},
};

pub(crate) use self::ancestor::bare_image;
use crate::{
    engine::{Engine, IMAGE},
    events::Events,
    proxy::Proxy,
};

struct Containers {
    engine: Arc<Engine>,
    instance: String,
    /// Lines of `spec`: not every engine has networks.
    network: &'static str,
    dir: TempDir,
    shared: TempDir,
}

impl Daemon for Engine {
    fn freeze(&self) {
        // Its end is the engine's script's.
        std::mem::forget(Self::freeze(self));
    }

    fn thaw(&self) {
        Self::thaw(self);
    }

    fn kill(&self) {
        Self::kill(self);
    }

    fn start(&self) {
        self.start_again();
    }
}

impl Place for Containers {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let (instance, socket) = (self.instance.clone(), self.engine.socket.clone());
        let config = DockerConfig::unnamed(instance, socket, crate::mark(self.dir.path()));
        Box::pin(async { Arc::new(DockerRuntime::open(config).await) as Arc<dyn Runtime> })
    }

    fn open_other(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let (instance, socket) = (self.instance.clone(), self.engine.socket.clone());
        // It shares nothing but the engine.
        let config =
            DockerConfig::unnamed(instance, socket, crate::others_mark(&self.dir.path().join("other")));
        Box::pin(async { Arc::new(DockerRuntime::open(config).await) as Arc<dyn Runtime> })
    }

    fn daemon(&self) -> Option<&dyn Daemon> {
        Some(&*self.engine)
    }

    fn lines(&self) -> String {
        let shared = self.shared.path().display();
        let network = self.network;
        format!("  image: {IMAGE}\n{network}  mounts: [{{source: {shared}, target: {shared}}}]\n")
    }

    fn shared(&self) -> &Path {
        self.shared.path()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_holds_on_docker() {
    let _among_others = GATE.read().await;
    run(&crate::cases(&[BATTERY, REACHING]), &Engine::shared(), "").await;
}

/// With an engine that nobody else uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_of_silence_holds_on_docker() {
    let engine = Arc::new(Engine::without_network("silence"));
    run(&crate::cases(&[SILENCE]), &engine, "  docker: {networkMode: none}\n").await;
}

async fn run(cases: &[&Case], engine: &Arc<Engine>, network: &'static str) {
    for case in cases {
        let instance = format!("test/{}", case.name);
        let (dir, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let engine = Arc::clone(engine);
        let place = Containers { engine, instance: instance.clone(), network, dir, shared };
        case.run(&place).await;
        let left = place.engine.containers(&format!("dev.towline.instance={instance}"));
        assert_eq!(left, Vec::<String>::new(), "no container is left");
    }
}

/// Held to read by those who use the engine, and to write by the one who freezes it.
pub(crate) static GATE: RwLock<()> = RwLock::const_new(());

/// An agent on the engine.
pub(crate) struct Bench {
    pub(crate) engine: Arc<Engine>,
    agent: Agent,
    platform: Arc<dyn Platform>,
    instance: String,
    /// What the engine did with containers of the instance.
    told: Events,
    #[expect(dead_code, reason = "dropped to remove it")]
    dir: TempDir,
    #[expect(dead_code, reason = "held while the engine is used")]
    among_others: Option<RwLockReadGuard<'static, ()>>,
}

impl Bench {
    /// Each test has an instance of its own, and so containers of its own.
    pub(crate) async fn new(name: &str) -> Self {
        Self::with_login(name, None).await
    }

    /// The same, with credentials for registries.
    pub(crate) async fn with_login(name: &str, registry_auth: Option<PathBuf>) -> Self {
        Self::among_others(name, |config| config.registry_auth = registry_auth).await
    }

    /// The same, on a way to the engine where requests go astray.
    pub(crate) async fn through_proxy(name: &str) -> (Self, Proxy) {
        let proxy = Proxy::before(&Engine::shared());
        let socket = proxy.socket.clone();
        (Self::among_others(name, |config| config.docker_socket = socket).await, proxy)
    }

    /// On the engine that all use, with an agent that is configured so.
    async fn among_others(name: &str, configure: impl FnOnce(&mut AgentConfig)) -> Self {
        let among_others = GATE.read().await;
        let bench = Self::on(Engine::shared(), name, configure).await;
        Self { among_others: Some(among_others), ..bench }
    }

    /// On an engine that is nobody else's, or that nobody else uses now.
    async fn on(engine: Arc<Engine>, name: &str, configure: impl FnOnce(&mut AgentConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let instance = format!("test/{name}");
        let told = Events::of(&engine, &instance).await;
        let mut config = AgentConfig {
            runtime: RuntimeKind::Docker,
            docker_socket: engine.socket.clone(),
            ..AgentConfig::new(instance.parse().unwrap(), dir.path())
        };
        configure(&mut config);
        let agent = Agent::open(config, prometheus::Registry::new()).await.unwrap();
        let platform = agent.platform();
        Self { engine, agent, platform, instance, told, dir, among_others: None }
    }

    pub(crate) async fn apply(&self, spec: &str) -> Result<(), CallError> {
        let yaml = format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{spec}");
        let definition =
            Definition { id: "default/App/web".parse().unwrap(), definition: yaml.into(), is_async: false };
        self.platform.apply(&CallContext::new(), &[definition]).await
    }

    async fn service(&self) -> Service {
        let services = self.platform.all_services(&CallContext::new(), None, &BTreeSet::new()).await.unwrap();
        services.into_iter().next().expect("one service")
    }

    async fn until(&self, what: &str, holds: impl Fn(&Service) -> bool) -> Service {
        let begun = Instant::now();
        loop {
            let service = self.service().await;
            if holds(&service) {
                return service;
            }
            assert!(begun.elapsed() < Duration::from_secs(90), "waited in vain for {what}: {service:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Why a definition is refused.
    pub(crate) async fn refusal(&self, spec: &str) -> String {
        let error = self.apply(spec).await.unwrap_err();
        let of_app = error.errors.values().next().map(|item| item.message.clone());
        of_app.unwrap_or(error.message)
    }

    /// Ids of the containers that are ours.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.engine.containers(&format!("dev.towline.instance={}", self.instance))
    }

    pub(crate) async fn end(self) {
        self.agent.remove_units().await.unwrap();
        assert_eq!(self.containers(), Vec::<String>::new());
        self.agent.close().await;
    }
}

fn sleeper(more: &str) -> String {
    format!("  image: {IMAGE}\n  command: [sleep, \"1000\"]\n  stop: {{gracePeriod: 0s}}\n{more}")
}

fn is_ready(service: &Service) -> bool {
    service.status == ServiceStatus::Ready
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d2_f_d5_f_d8_what_differs_is_replaced_and_what_does_not_is_not_touched() {
    let bench = Bench::new("differs").await;
    bench.apply(&sleeper("  units: 2\n")).await.unwrap();
    bench.until("readiness", is_ready).await;
    let first = bench.containers();
    assert_eq!(first.len(), 2);
    bench.apply(&sleeper("  units: 2\n")).await.unwrap();
    assert_eq!(bench.containers(), first, "nothing changed");
    bench.apply(&sleeper("  units: 2\n  env: {A: b}\n")).await.unwrap();
    bench.until("readiness", is_ready).await;
    let second = bench.containers();
    assert_eq!(second.len(), 2);
    assert!(second.iter().all(|id| !first.contains(id)), "{first:?} {second:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d6_f_d7_what_was_stopped_or_removed_behind_our_back_comes_back() {
    let bench = Bench::new("back").await;
    bench.apply(&sleeper("")).await.unwrap();
    let first = bench.containers().remove(0);
    bench.engine.docker(&["stop", "--time", "0", &first]);
    bench.until("it to be started again", |_| bench.engine.is_running(&first)).await;
    assert_eq!(bench.containers(), std::slice::from_ref(&first));
    bench.engine.docker(&["rm", "--force", &first]);
    let came = |_: &Service| bench.containers().first().is_some_and(|id| *id != first);
    bench.until("another in its stead", came).await;
    bench.until("readiness", is_ready).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d3_f_r1_what_cannot_be_made_says_why_and_leaves_nothing() {
    let bench = Bench::new("refused").await;
    let absent = bench.refusal("  image: towline-test\n  docker: {pullPolicy: Never}\n").await;
    assert!(absent.contains("towline-test:latest"), "a tag is added: {absent}");
    let pulled = bench.refusal("  image: 127.0.0.1:1/nobody/absent\n").await;
    assert!(pulled.contains("cannot pull image 127.0.0.1:1/nobody/absent:latest"), "{pulled}");
    let user = bench.refusal(&sleeper("  files: [{path: /a, content: b, owner: stranger}]\n")).await;
    assert!(user.contains("spec.files[0].owner") && user.contains("stranger"), "{user}");
    let bad = bench.refusal(&sleeper("  umask: \"077\"\n")).await;
    assert!(bad.contains("spec.umask"), "{bad}");
    assert_eq!(bench.containers(), Vec::<String>::new());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_r1_limits_mounts_user_and_health_reach_the_engine() {
    let bench = Bench::new("limits").await;
    let source = tempfile::tempdir().unwrap();
    let spec = sleeper(&format!(
        "  user: web:web\n  resources: {{cpu: 0.5, memory: 64Mi, pids: 50}}\n  mounts: [{{source: {}, target: /data, \
         readOnly: true}}]\n  health: {{exec: {{command: [/bin/true]}}, interval: 1s}}\n  files: [{{path: /etc/a.conf, \
         content: secret, owner: web, group: web}}]\n",
        source.path().display()
    ));
    bench.apply(&spec).await.unwrap();
    bench.until("health", is_ready).await;
    let id = bench.containers().remove(0);
    let format = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.Config.User}} \
                  {{(index .Mounts 0).RW}} {{.State.Health.Status}}";
    let shown = bench.engine.docker(&["inspect", "--format", format, &id]);
    assert_eq!(shown, "500000000 67108864 50 web:web false healthy");
    let file = bench.engine.docker(&[
        "exec",
        &id,
        "sh",
        "-c",
        "id -u; stat -c '%a %u %g' /etc/a.conf; cat /etc/a.conf",
    ]);
    assert_eq!(file, "33\n600 33 33\nsecret");
    bench.end().await;
}

/// An engine that falls silent makes nothing gone: what is there keeps its id, and nothing is made in its stead. Before it is
/// known how things stand nothing is planned (F-D1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c2_f_d1_a_silent_engine_is_unknown() {
    let _alone = GATE.write().await;
    let bench = Bench::on(Engine::shared(), "silent", |_| ()).await;
    bench.apply(&sleeper("")).await.unwrap();
    let before = bench.containers();
    let silent = bench.engine.freeze();
    let unknown =
        |service: &Service| service.units.first().is_some_and(|unit| unit.status == UnitStatus::Unknown);
    let service = bench.until("the unit to be unknown", unknown).await;
    assert!(
        service.units.iter().all(|unit| unit.reason.as_deref().is_some_and(|why| why.contains("docker")))
    );
    let error = bench.apply(&sleeper("  units: 2\n")).await.unwrap_err();
    assert_eq!(error.code, Code::Cluster, "{error:?}");
    silent.thaw();
    bench.until("readiness", is_ready).await;
    assert_eq!(bench.containers(), before, "nothing was made, and nothing removed");
    bench.end().await;
}

/// An engine that is killed and comes back has the same containers: none is made a second time, and what it stopped is started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_died_and_came_back_has_its_containers_once() {
    let engine = Arc::new(Engine::without_network("died"));
    let bench = Bench::on(Arc::clone(&engine), "died", |_| ()).await;
    let spec = sleeper("  units: 2\n  docker: {networkMode: none}\n");
    bench.apply(&spec).await.unwrap();
    bench.until("readiness", is_ready).await;
    let before = bench.containers();
    assert_eq!(before.len(), 2);
    for _ in 0..2 {
        engine.kill();
        let is_unknown =
            |service: &Service| service.units.iter().all(|unit| unit.status == UnitStatus::Unknown);
        bench.until("the units to be unknown", is_unknown).await;
        assert_eq!(bench.apply(&spec).await.unwrap_err().code, Code::Cluster);
        engine.start_again();
        bench.until("readiness", is_ready).await;
        assert_eq!(bench.containers(), before);
    }
    bench.apply(&spec).await.unwrap();
    assert_eq!(bench.containers(), before, "nothing is made");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_bear_our_label_is_never_touched() {
    let bench = Bench::new("foreign").await;
    let stranger = bench.engine.docker(&["run", "--detach", "--rm", IMAGE, "sleep", "1000"]);
    let label = "dev.towline.instance=test/another";
    let other = bench.engine.docker(&["run", "--detach", "--rm", "--label", label, IMAGE, "sleep", "1000"]);
    bench.apply(&sleeper("")).await.unwrap();
    assert_eq!(bench.service().await.units.len(), 1);
    let engine = Arc::clone(&bench.engine);
    bench.end().await;
    for id in [&stranger, &other] {
        assert!(engine.is_running(id));
        engine.docker(&["rm", "--force", id]);
    }
}
