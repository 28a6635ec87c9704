//! The ancestor's cases that are seen from the engine's side alone.

use towline_agent::runtime::{ExecEvent, ExecSpec};
use towline_protocol::bundle::{DeleteBundleRequest, PutBundleRequest};

use super::*;
use crate::events::Event;

/// F-K1: files go in by the archive call, so no helper container is made for them that could be left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d14_f_k1_each_unit_is_made_and_started_once_and_nothing_else_is_made() {
    let bench = Bench::new("once").await;
    let files = "  units: 3\n  files: [{path: /etc/a.conf, content: b}]\n";
    bench.apply(&sleeper(files)).await.unwrap();
    bench.until("readiness", is_ready).await;
    bench.told.counted("create", 3).await;
    bench.told.counted("start", 3).await;
    bench.apply(&sleeper(files)).await.unwrap();
    let all = bench.told.all(&bench.engine).await;
    let count = |action: &str| all.iter().filter(|event| event.action == action).count();
    assert_eq!((count("create"), count("start"), count("die")), (3, 3, 0));
    bench.end().await;
}

/// F-D4 has one difference: a container that does not start is removed at once, so that the next pass finds its name free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d3_f_d4_what_fails_leaves_nothing_and_the_next_pass_succeeds() {
    let bench = Bench::new("start-fails").await;
    let missing = format!("  image: {IMAGE}\n  command: [/no/such/program]\n");
    let refused = bench.refusal(&missing).await;
    assert!(refused.contains("/no/such/program"), "{refused}");
    assert_eq!(bench.containers(), Vec::<String>::new());
    bench.told.counted("create", 1).await;
    bench.told.counted("destroy", 1).await;
    bench.apply(&sleeper("")).await.unwrap();
    bench.until("readiness", is_ready).await;
    bench.end().await;
}

/// Each time as written, and not as a map happens to have them. (Apps that are applied directly are independent of each other,
/// and wait for none: `f_d15_what_is_applied_directly_waits_for_nothing_of_its_own_call`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d15_a_bundle_is_made_in_its_declared_order_every_time() {
    let declared = ["delta", "alpha", "echo", "bravo", "charlie"];
    let app = |name| {
        format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n{}", sleeper(""))
    };
    let content = declared.map(app).join("---\n");
    for run in ["order-one", "order-two"] {
        let bench = Bench::new(run).await;
        let request = PutBundleRequest::new("shop".parse().unwrap(), content.clone());
        bench.platform.put_bundle(&CallContext::new(), &request).await.unwrap();
        bench.told.counted("start", declared.len()).await;
        let all = bench.told.all(&bench.engine).await;
        let made = all.iter().filter(|event| event.action == "create");
        let made: Vec<&str> = made.map(Event::app).collect();
        assert_eq!(made, declared.map(|name| format!("default/App/{name}")));
        let request = DeleteBundleRequest::new("shop".parse().unwrap());
        bench.platform.delete_bundle(&CallContext::new(), &request).await.unwrap();
        bench.told.counted("destroy", declared.len()).await;
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d11_f_d12_what_is_not_wanted_any_more_goes_all_of_it() {
    let bench = Bench::new("unwanted").await;
    let stopped = bench.engine.docker(&["run", "--detach", IMAGE, "sleep", "1000"]);
    bench.apply(&sleeper("  units: 3\n")).await.unwrap();
    bench.until("readiness", is_ready).await;
    let ids = bench.containers();
    let [first, second, _] = ids.as_slice() else { panic!("three units: {ids:?}") };
    // One that has stopped already, and one that is gone already.
    bench.engine.docker(&["stop", "--time", "0", first]);
    bench.engine.docker(&["rm", "--force", second]);
    let id = "default/App/web".parse().unwrap();
    let yaml = format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{}",
        sleeper("  units: 3\n")
    );
    let action = towline_protocol::platform::SyncAction { id, delete: Some(yaml.into()), apply: None };
    bench.platform.sync(&CallContext::new(), &[action]).await.unwrap();
    assert_eq!(bench.containers(), Vec::<String>::new());
    assert!(bench.engine.is_running(&stopped), "what is not ours stays");
    bench.engine.docker(&["rm", "--force", &stopped]);
    bench.end().await;
}

/// An image of that name with `/sleep` and nothing else, hence without a shell.
pub(crate) fn bare_image(engine: &Engine, name: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy("/bin/busybox", dir.path().join("sleep")).unwrap();
    let archive = dir.path().join("image.tar");
    let mut tar = std::process::Command::new("tar");
    tar.arg("-C").arg(dir.path()).arg("-cf").arg(&archive).arg("sleep");
    assert!(tar.status().unwrap().success());
    engine.docker(&["import", &archive.display().to_string(), name]);
    name.to_owned()
}

/// An image without a shell: a command is found by its mark from this host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_ends_also_where_there_is_no_shell() {
    let _among_others = GATE.read().await;
    let (engine, dir) = (Engine::shared(), tempfile::tempdir().unwrap());
    let image = bare_image(&engine, "towline-bare:1");
    let (instance, socket) = ("test/bare".to_owned(), engine.socket.clone());
    let marks = crate::mark(dir.path());
    let runtime = DockerRuntime::open(DockerConfig::unnamed(instance, socket, marks)).await;
    let yaml = "apiVersion: towline/v1\nkind: App\nmetadata: {name: web}\nspec:\n  image: towline-bare:1\n  command: [/sleep, \"1000\"]\n  \
                stop: {gracePeriod: 0s}\n";
    let manifest =
        towline_agent::manifest::parse(RuntimeKind::Docker, "bare", yaml.as_bytes()).unwrap().remove(0);
    let spec = towline_agent::runtime::UnitSpec { manifest: Arc::new(manifest), generation: "g".to_owned() };
    let unit = runtime.start(&spec).await.unwrap();
    let mut kept = runtime.exec(&unit.unit, ExecSpec::new(["/sleep", "0"])).await.unwrap();
    assert!(matches!(kept.next().await, Some(Ok(ExecEvent::Ended(0)))));
    let top = || {
        engine
            .docker(&["top", &unit.unit, "-eo", "pid,args"])
            .lines()
            .filter(|line| line.contains(" /sleep "))
            .count()
    };
    let dropped = runtime.exec(&unit.unit, ExecSpec::new(["/sleep", "2000"])).await.unwrap();
    let until = async |count: usize| {
        let begun = Instant::now();
        while top() != count {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} are there", top());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(2).await;
    drop(dropped);
    until(1).await;
    runtime.delete_all().await.unwrap();
    runtime.close().await;
    engine.docker(&["rmi", &image]);
}
