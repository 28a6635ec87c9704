//! The agent is killed while it carries out what was put: whoever waits learns the outcome all the same.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use towline_tests::nats::NatsServer;
use towline_tests::processes::{AgentProcess, HubProcess};
use towline_tests::wait::until;

use super::support::Operator;

/// So many that the agent is killed in the middle of them.
const APPS: usize = 12;

fn shop() -> String {
    let head = "apiVersion: towline/v1\nkind: Bundle\nmetadata: {name: shop}\n".to_owned();
    let app = |n| {
        format!(
            "---\napiVersion: towline/v1\nkind: App\nmetadata: {{name: app-{n}}}\nspec: {{command: [sleep, \"1000\"]}}\n"
        )
    };
    std::iter::once(head).chain((0..APPS).map(app)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn z_e5_a_put_survives_kill_9_of_the_agent() {
    let nats = NatsServer::start("").await;
    let hub = HubProcess::start(nats.url()).await;
    let mut agent = AgentProcess::start("site", nats.url()).await;
    hub.until_state("site", "connected").await;
    let token = std::fs::read_to_string(hub.token_file()).unwrap();
    let operator = Operator::new(&hub.url(), &token);
    let file = operator.file("shop.yaml", &shop());
    let mut command = operator.command(&["--output", "json", "bundle", "put", "site", "-f", &file, "--wait"]);
    let mut waiting = command.spawn().unwrap();
    let mut lines = BufReader::new(waiting.stdout.take().unwrap()).lines();
    let mut seqs: Vec<u64> = Vec::new();
    let mut last = Value::Null;
    let mut killed = false;
    while let Some(line) = lines.next_line().await.unwrap() {
        last = serde_json::from_str(&line).unwrap();
        seqs.extend(last["seq"].as_u64());
        // Something is done, and more is not.
        if !killed && last["workload"].is_string() {
            killed = true;
            agent.program.kill();
            agent.start_again().await;
        }
    }
    let mut said = String::new();
    waiting.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    let ended = waiting.wait().await.unwrap();
    assert!(ended.success() && killed, "{ended}: {last}\n{said}");
    assert_eq!(last["state"], "done");
    assert!(seqs.is_sorted() && seqs.windows(2).all(|two| two[0] != two[1]), "each record once: {seqs:?}");
    let status = operator.json(&["bundle", "status", "site", "shop"]).await;
    let workloads = status["workloads"].as_array().unwrap();
    assert!(workloads.iter().all(|workload| workload["result"]["state"] == "ok"), "{status}");
    assert_eq!((workloads.len(), &status["bundle"]["applied"]), (APPS, &1.into()));
    let jobs = operator.json(&["jobs", "site", "--bundle", "shop"]).await;
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(1), "one put is one job: {jobs}");
    operator.run(&["bundle", "delete", "site", "shop", "--wait"]).await.expect(0);
    until("nothing to be left", || async {
        let services = operator.json(&["services", "site"]).await;
        services["services"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
}

/// An app that takes its time to stop, so that its update does.
fn stubborn(version: u8) -> String {
    format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: stubborn}}\nspec:\n  \
         command: [sh, -c, \"trap '' TERM; while true; do sleep 0.1; done\"]\n  \
         stop: {{gracePeriod: 4s}}\n  env: {{VERSION: \"{version}\"}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_goes_on_over_kill_9_of_the_hub() {
    let nats = NatsServer::start("").await;
    let mut hub = HubProcess::start(nats.url()).await;
    let _agent = AgentProcess::start("site", nats.url()).await;
    hub.until_state("site", "connected").await;
    let token = std::fs::read_to_string(hub.token_file()).unwrap();
    let operator = Operator::new(&hub.url(), &token);
    let put = ["--output", "json", "bundle", "put", "site", "slow", "-f", "-", "--wait"];
    operator.run_with(&put, &stubborn(1)).await.expect(0);
    let text = stubborn(2);
    let waiting = operator.run_with(&put, &text);
    let killing = async {
        until("the job to run", || async {
            let jobs = operator.json(&["jobs", "site", "--state", "running"]).await;
            jobs["jobs"][0]["id"].is_string().then_some(())
        })
        .await;
        hub.start_again().await;
    };
    let (ended, ()) = tokio::join!(waiting, killing);
    let ended = ended.expect(0);
    let objects = ended.objects();
    assert_eq!(objects.last().unwrap()["state"], "done");
    let seqs: Vec<_> = objects.iter().filter_map(|object| object["seq"].as_u64()).collect();
    assert!(seqs.windows(2).all(|two| two[0] < two[1]), "each record once: {seqs:?}");
    operator.run(&["bundle", "delete", "site", "slow", "--wait"]).await.expect(0);
}
