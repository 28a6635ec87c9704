//! The battery's cases where they apply to a real runtime: the whole chain, with processes at its end.

use bytes::Bytes;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::platform::{Definition, LogsRequest, ServiceStatus, SyncAction, UnitStatus};
use towline_protocol::{CallError, Code, Effect, ResourceId};
use towline_tests::chain::{HubChain, RealAgent};
use towline_tests::http_platform::HttpPlatform;
use towline_tests::wait::until;

struct Bench {
    hub: HubChain,
    agent: RealAgent,
    platform: HttpPlatform,
}

impl Bench {
    async fn start() -> Self {
        let hub = HubChain::start().await;
        let agent = hub.process("site").await;
        let platform = hub.platform("site");
        Self { hub, agent, platform }
    }

    async fn end(self) {
        let units = self.agent.data_dir.path().join("units");
        self.agent.end().await;
        assert_eq!(std::fs::read_dir(units).map_or(0, Iterator::count), 0, "no unit is left");
        self.hub.stop().await;
    }

    async fn ids(&self) -> Vec<String> {
        let services =
            self.platform.all_services(&CallContext::new(), None, &Default::default()).await.unwrap();
        let mut ids: Vec<_> = services.into_iter().map(|service| service.id.to_string()).collect();
        ids.sort();
        ids
    }
}

fn id(name: &str) -> ResourceId {
    format!("default/App/{name}").parse().unwrap()
}

fn app(name: &str, command: &str) -> Bytes {
    format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  command: {command}\n")
        .into()
}

fn sleeper(name: &str) -> Bytes {
    app(name, "[sleep, \"1000\"]")
}

fn define(name: &str, definition: Bytes) -> Definition {
    Definition { id: id(name), definition, is_async: false }
}

fn codes(error: &CallError) -> Vec<(&str, &Code)> {
    error.errors.iter().map(|(id, error)| (id.as_str(), &error.code)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b1_b2_ping_and_version_of_a_real_agent() {
    let bench = Bench::start().await;
    bench.platform.ping(&CallContext::new()).await.unwrap();
    assert_eq!(bench.platform.version(&CallContext::new()).await.unwrap(), towline_agent::VERSION);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b3_b5_services_of_real_processes() {
    let bench = Bench::start().await;
    let (cx, web) = (CallContext::new(), define("web", sleeper("web")));
    bench.platform.apply(&cx, &[web, define("other", sleeper("other"))]).await.unwrap();
    assert_eq!(bench.ids().await, ["default/App/other", "default/App/web"]);
    let ignored = [id("other")].into();
    let services = bench.platform.all_services(&cx, Some("default"), &ignored).await.unwrap();
    let [web] = services.as_slice() else { panic!("one was asked for: {services:?}") };
    assert_eq!((&web.id, &web.status, web.units.len()), (&id("web"), &ServiceStatus::Ready, 1));
    let unit = &web.units[0];
    assert_eq!(unit.status, UnitStatus::Started);
    let pid = unit.pid.unwrap();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, b"sleep\x001000\0", "the pid is the real one");
    assert_eq!(bench.platform.some_services(&cx, &[]).await.unwrap(), [], "no ids are not all ids");
    let missing = bench.platform.some_services(&cx, &[id("missing"), id("web")]).await.unwrap();
    assert_eq!(missing.len(), 1, "missing ids are silently absent");
    assert!(
        bench
            .platform
            .all_services(&cx, Some("nowhere"), &Default::default())
            .await
            .is_ok_and(|s| s.is_empty())
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b7_b12_what_is_applied_is_exported_byte_for_byte() {
    let bench = Bench::start().await;
    let cx = CallContext::new();
    assert_eq!(bench.platform.export(&cx).await.unwrap(), "", "nothing is nothing");
    let odd =
        Bytes::from(format!("# größer ☃\r\n{}\n# the end", std::str::from_utf8(&sleeper("web")).unwrap()));
    bench.platform.apply(&cx, &[define("web", odd.clone())]).await.unwrap();
    let exported = bench.platform.export(&CallContext::new()).await.unwrap();
    let found = exported.windows(odd.len()).any(|window| window == odd);
    assert!(found, "{:?} is not in {:?}", odd, exported);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b8_apply_errors_by_id_and_the_rest_is_done() {
    let bench = Bench::start().await;
    let definitions = [
        define("good", sleeper("good")),
        define("missing-command", app("missing-command", "[no-such-command-anywhere]")),
        define("misnamed", sleeper("another-name")),
        define("garbled", Bytes::from_static(b"kind: [\xff")),
    ];
    let error = bench.platform.apply(&CallContext::new(), &definitions).await.unwrap_err();
    assert_eq!((&error.code, &error.effect), (&Code::Cluster, &Effect::Partial), "{error:?}");
    let mut failed = codes(&error);
    failed.sort();
    assert_eq!(failed.len(), 3, "{failed:?}");
    assert_eq!(failed[0], ("default/App/garbled", &Code::Invalid));
    assert_eq!(failed[1], ("default/App/misnamed", &Code::Invalid));
    assert_eq!(failed[2].0, "default/App/missing-command");
    let message = &error.errors["default/App/missing-command"].message;
    assert!(message.contains("no-such-command-anywhere"), "it names the command: {message}");
    let good = bench.platform.some_services(&CallContext::new(), &[id("good")]).await.unwrap();
    assert_eq!(good[0].status, ServiceStatus::Ready);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b9_b11_sync_deletes_then_applies_in_order() {
    let bench = Bench::start().await;
    let action = |name: &str, delete, apply| SyncAction { id: id(name), delete, apply };
    let apply = |name: &str| Some(sleeper(name));
    let actions = [action("a", None, apply("a")), action("b", None, apply("b"))];
    bench.platform.sync(&CallContext::new(), &actions).await.unwrap();
    let before = bench.platform.some_services(&CallContext::new(), &[id("b")]).await.unwrap();
    // `a` goes; `b` is deleted and applied anew; the delete of `c` names another resource, so its apply is skipped; the
    // action after it still runs.
    let actions = [
        action("a", apply("a"), None),
        action("b", apply("b"), apply("b")),
        action("c", apply("not-c"), apply("c")),
        action("d", None, apply("d")),
    ];
    let error = bench.platform.sync(&CallContext::new(), &actions).await.unwrap_err();
    assert_eq!(codes(&error), [("default/App/c", &Code::Invalid)], "{error:?}");
    assert_eq!(error.effect, Effect::Partial);
    assert_eq!(bench.ids().await, ["default/App/b", "default/App/d"]);
    let after = bench.platform.some_services(&CallContext::new(), &[id("b")]).await.unwrap();
    assert_ne!(before[0].units[0].pid, after[0].units[0].pid, "it was deleted first");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_with_the_same_key_is_done_once() {
    let bench = Bench::start().await;
    let cx = CallContext::new();
    let counter = bench.agent.data_dir.path().join("starts");
    let command = format!("[sh, -c, \"echo started >> {}; exec sleep 1000\"]", counter.display());
    let action = SyncAction {
        id: id("once"),
        delete: Some(app("once", &command)),
        apply: Some(app("once", &command)),
    };
    for _ in 0..3 {
        bench.platform.sync(&cx, std::slice::from_ref(&action)).await.unwrap();
    }
    until("it has started", || async { counter.exists().then_some(()) }).await;
    assert_eq!(std::fs::read_to_string(&counter).unwrap(), "started\n", "delete and apply ran once");
    bench.platform.sync(&CallContext::new(), std::slice::from_ref(&action)).await.unwrap();
    let twice =
        || async { (std::fs::read_to_string(&counter).unwrap() == "started\nstarted\n").then_some(()) };
    until("another key does it again", twice).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_a_real_process_follow_it() {
    let bench = Bench::start().await;
    let script = "[sh, -c, \"n=0; while true; do echo line $n; n=$((n+1)); sleep 0.05; done\"]";
    bench.platform.apply(&CallContext::new(), &[define("talker", app("talker", script))]).await.unwrap();
    let request =
        LogsRequest { app: id("talker"), unit: None, follow: true, since_unix_ms: None, tail: None };
    let mut stream = bench.platform.logs(&CallContext::new(), &request).await.unwrap();
    for expected in 0..20 {
        let line = tokio::time::timeout(towline_tests::wait::PATIENCE, stream.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(line.text, format!("line {expected}"));
    }
    let missing = LogsRequest { app: id("missing"), ..request };
    let error = bench.platform.logs(&CallContext::new(), &missing).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    drop(stream);
    bench.end().await;
}
