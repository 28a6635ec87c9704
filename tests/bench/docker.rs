//! Containers: what an agent adds to what the engine itself takes. `TOWLINE_BENCH_COUNT` makes fewer of them, to try it out.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use towline_bus::MessageBus;
use towline_tests::chain::{binary, instance};
use towline_tests::docker::{DockerEngine, IMAGE};
use towline_tests::nats::{NatsServer, free_port};

use super::bundles::site::{delete, done, put};
use super::calls::{AWAITED, bus};
use super::children::Owned;
use super::report::{Bar, median, millis, report, resident_bytes};

/// Pairs of one container by `docker run`, and one by a put.
const PAIRS: usize = 15;

/// How long an agent is watched that has nothing to do: two regular looks.
const WATCHED: Duration = Duration::from_secs(20);

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
    bus.stop().await;
}

/// The same put again, and some time after: how often the engine is asked.
async fn no_change(remote: &towline_bus::Remote, engine: &DockerEngine, content: &str, many: usize) {
    let before = asked(engine);
    tokio::time::sleep(WATCHED).await;
    let idle = asked(engine) - before;
    // A regular look is every ten seconds, and each is one call.
    let looks = WATCHED.as_secs_f64() / 10.0;
    report(&format!("docker_idle_calls_a_look_{many}"), idle / looks, "calls", Bar::AtMost(1.5));
    let before = asked(engine);
    let begun = Instant::now();
    let accepted = put(remote, "many", content.to_owned()).await;
    if let Some(job) = accepted.job {
        done(remote, job).await;
    }
    let took = begun.elapsed();
    let apps = many.div_ceil(20) as f64;
    report(
        &format!("docker_no_change_calls_an_app_{many}"),
        (asked(engine) - before) / apps,
        "calls",
        Bar::None,
    );
    report(&format!("docker_no_change_{many}"), millis(took), "ms", Bar::None);
}

/// Requests that the engine has had, by what its own debug log says.
fn asked(engine: &DockerEngine) -> f64 {
    let log = engine.socket.with_file_name("log");
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().filter(|line| line.contains("Calling ")).count() as f64
}
