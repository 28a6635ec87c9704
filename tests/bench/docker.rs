//! Containers: what an agent adds to what the engine itself takes. `TOWLINE_BENCH_COUNT` makes fewer of them, to try it out.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use towline_bus::platform::CallContext;
use towline_bus::{MessageBus, Platform as _, Remote};
use towline_protocol::platform::Definition;
use towline_tests::chain::{binary, instance};
use towline_tests::docker::{DockerEngine, IMAGE};
use towline_tests::nats::{NatsServer, free_port};

use super::bundles::site::{PATIENCE, delete, done, put};
use super::calls::{AWAITED, bus};
use super::children::Owned;
use super::report::{Bar, median, millis, report, resident_bytes};

/// Pairs of one container by `docker run`, and one by a put.
const PAIRS: usize = 15;

/// How long an agent is watched that has nothing to do.
const WATCHED: Duration = Duration::from_secs(60);

/// Between two regular looks.
const LOOKS: Duration = Duration::from_secs(10);

const MEBIBYTE: f64 = 1_048_576.0;

/// `TOWLINE_BENCH_COUNT`, or as many as the bar is for.
fn count(usual: usize) -> usize {
    std::env::var("TOWLINE_BENCH_COUNT").map_or(usual, |text| text.parse().unwrap())
}

fn app(name: &str, units: usize) -> String {
    format!(
        "---\napiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  image: {IMAGE}\n  command: [sleep, \
         \"100000\"]\n  units: {units}\n  stop: {{gracePeriod: 0s}}\n"
    )
}

/// An agent on the engine.
fn agent(server: &NatsServer, engine: &DockerEngine, dir: &Path) -> Owned {
    let agent = Command::new(binary("towline-agent"))
        .args(["--nats", &server.url(), "--instance", "docker", "--runtime", "docker", "--metrics-listen"])
        .arg(format!("127.0.0.1:{}", free_port()))
        .arg("--docker-socket")
        .arg(&engine.socket)
        .arg("--data-dir")
        .arg(dir)
        .arg("--mark-dir")
        .arg(dir.join("marks"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Owned(agent.unwrap())
}

pub(crate) async fn run(server: &NatsServer) {
    let (engine, dir) = (DockerEngine::start("bench", &["--debug"]), tempfile::tempdir().unwrap());
    let bus: MessageBus = bus(server).await;
    let agent = agent(server, &engine, dir.path());
    bus.await_presence(&instance("docker"), AWAITED).await.unwrap();
    let remote = bus.connect(&instance("docker"));

    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for number in 0..=count(PAIRS) {
        let begun = Instant::now();
        let id = engine.docker(&["run", "--detach", IMAGE, "sleep", "100000"]);
        bare.push(millis(begun.elapsed()));
        engine.docker(&["rm", "--force", &id]);
        let bundle = format!("one-{number}");
        let begun = Instant::now();
        let accepted = put(&remote, &bundle, app(&bundle, 1)).await;
        done(&remote, accepted.job.unwrap()).await;
        ours.push(millis(begun.elapsed()));
        delete(&remote, &bundle).await;
    }
    // The first of each finds everything cold.
    let (bare, ours) = (median(&mut bare.split_off(1)), median(&mut ours.split_off(1)));
    report("docker_put_running_ratio", ours / bare, "ratio", Bar::AtMost(1.2));
    report("docker_put_running_p50", ours, "ms", Bar::None);
    report("docker_run_p50", bare, "ms", Bar::None);

    let many = count(200);
    let begun = Instant::now();
    // Twenty units an app: as many apps as that takes.
    let apps: Vec<String> = (0..many.div_ceil(20))
        .map(|number| app(&format!("many-{number}"), (many - number * 20).min(20)))
        .collect();
    let accepted = put(&remote, "many", apps.concat()).await;
    done(&remote, accepted.job.unwrap()).await;
    report(&format!("docker_{many}_from_nothing"), begun.elapsed().as_secs_f64(), "s", Bar::None);
    assert_eq!(engine.containers("default/docker").len(), many);
    let resident = resident_bytes(agent.0.id()) as f64 / MEBIBYTE;
    report(&format!("docker_agent_resident_with_{many}"), resident, "MiB", Bar::None);

    no_change(&remote, &engine, &apps.concat(), many).await;
    delete(&remote, "many").await;
    applied(&remote, &engine, many).await;
    bus.stop().await;
    // Faster than the engine's own end is with that many. An agent would bring them back.
    drop(agent);
    let left = engine.containers("default/docker");
    engine.docker(
        &[&["rm", "--force"], left.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat(),
    );
}

/// The same put again, and some time without one: how often the engine is asked.
async fn no_change(remote: &Remote, engine: &DockerEngine, content: &str, many: usize) {
    // What came of the containers' own beginning is heard by then.
    tokio::time::sleep(LOOKS).await;
    let before = engine.calls().len();
    tokio::time::sleep(WATCHED).await;
    let idle = engine.calls().len() - before;
    // A regular look is one call, and at every third the agent looks whether its mark still shows.
    let looks = WATCHED.as_secs_f64() / LOOKS.as_secs_f64();
    report(&format!("docker_idle_calls_a_look_{many}"), idle as f64 / looks, "calls", Bar::AtMost(1.5));
    after_a_look(engine).await;
    let (before, begun) = (engine.calls().len(), Instant::now());
    let accepted = put(remote, "many", content.to_owned()).await;
    if let Some(job) = accepted.job {
        done(remote, job).await;
    }
    let took = begun.elapsed();
    report_pass("put", engine, before, many);
    report(&format!("docker_no_change_put_{many}"), millis(took), "ms", Bar::None);
}

/// As many apps of one container each, applied directly, and once more: as an import of what was exported does it.
async fn applied(remote: &Remote, engine: &DockerEngine, many: usize) {
    let names: Vec<String> = (0..many).map(|number| format!("direct-{number}")).collect();
    let define = |name: &String| Definition {
        id: format!("default/App/{name}").parse().unwrap(),
        definition: app(name, 1).into(),
        is_async: false,
    };
    let definitions: Vec<Definition> = names.iter().map(define).collect();
    let cx = || CallContext::new().within(PATIENCE);
    let begun = Instant::now();
    remote.apply(&cx(), &definitions).await.unwrap();
    report(&format!("docker_{many}_applied_from_nothing"), begun.elapsed().as_secs_f64(), "s", Bar::None);
    tokio::time::sleep(LOOKS).await;
    after_a_look(engine).await;
    let (before, begun) = (engine.calls().len(), Instant::now());
    remote.apply(&cx(), &definitions).await.unwrap();
    let took = begun.elapsed();
    report_pass("apply", engine, before, many);
    report(&format!("docker_no_change_apply_{many}"), millis(took), "ms", Bar::None);
}

/// One call for the host, and none for any container: that is the bar for a pass that changes nothing.
fn report_pass(what: &str, engine: &DockerEngine, before: usize, many: usize) {
    let calls = engine.calls().len() - before;
    let name = format!("docker_no_change_{what}_calls_{many}");
    report(&name, calls as f64, "calls", Bar::AtMost(1.0));
}

/// Waits for a regular look: no other falls into what is done in the seconds after it.
async fn after_a_look(engine: &DockerEngine) {
    let looks = || engine.calls().iter().filter(|call| call.starts_with("GET /containers/json")).count();
    let (before, begun) = (looks(), Instant::now());
    while looks() == before {
        assert!(begun.elapsed() < 5 * LOOKS, "the agent looks at its containers every now and then");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It may be about its mark, too.
    tokio::time::sleep(Duration::from_millis(200)).await;
}
