//! Thousands of resources, shown: from the command line through hub and agent and back.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use towline_bus::Platform;
use towline_tests::chain::{binary, instance};
use towline_tests::http_platform::HttpPlatform;
use towline_tests::nats::{NatsServer, free_port};
use towline_tests::wait::until;

use super::documents::{file, idle_app};
use super::site::{agent, done, put, terminate};
use crate::children::Owned;
use crate::report::{Bar, millis, percentile, report};

const RESOURCES: usize = 6_000;
const WARM_UP: usize = 3;
const SAMPLES: usize = 21;

pub(crate) async fn run(server: &NatsServer) {
    let (hub_dir, agent_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let _hub = hub(server, &address, hub_dir.path());
    let agent = agent(server, "listing", agent_dir.path(), free_port());
    let (url, token_file) = (format!("http://{address}"), hub_dir.path().join("token"));
    let token = until("the hub's token", async || std::fs::read_to_string(&token_file).ok()).await;
    let platform = HttpPlatform::new(&url, token.trim(), &instance("listing"));
    until("an agent that serves", async || platform.ping(&Default::default()).await.ok()).await;

    // Without processes: it is the listing that is measured, and so many would measure the machine.
    let apps: String = (0..RESOURCES).map(|number| idle_app(&format!("app-{number}"), 0)).collect();
    let accepted = put(&platform, "apps", apps).await;
    done(&platform, accepted.job.unwrap()).await;
    let cli = Cli { url: &url, token_file: &token_file };
    cli.measure("list_services_6000", &["services", "listing"], "default/App/app-");
    cli.measure("list_services_6000_json", &["services", "listing", "--output", "json"], "default/App/app-");
    cli.measure("list_bundle_status_6000", &["bundle", "status", "listing", "apps"], "App/app-");

    let content: String =
        (0..RESOURCES).map(|number| file(&format!("file-{number}"), files.path())).collect();
    let accepted = put(&platform, "files", content).await;
    done(&platform, accepted.job.unwrap()).await;
    cli.measure("list_bundle_status_6000_files", &["bundle", "status", "listing", "files"], "File/file-");
    terminate(agent);
}

fn hub(server: &NatsServer, address: &str, data_dir: &Path) -> Owned {
    let hub = Command::new(binary("towline-hub"))
        .args(["--nats", &server.url(), "--listen", address, "--metrics-listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Owned(hub.unwrap())
}

/// The command line, against one hub.
struct Cli<'a> {
    url: &'a str,
    token_file: &'a Path,
}

impl Cli<'_> {
    /// Runs a command again and again, each in a process of its own, and reports its median. `mark` is in the line of each
    /// resource, and nowhere else.
    fn measure(&self, name: &str, args: &[&str], mark: &str) {
        let mut samples = Vec::new();
        for _ in 0..WARM_UP + SAMPLES {
            let begun = Instant::now();
            let output = Command::new(binary("towline"))
                .args(args)
                .args(["--hub", self.url, "--token-file"])
                .arg(self.token_file)
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .unwrap();
            samples.push(begun.elapsed());
            assert!(output.status.success());
            let shown = String::from_utf8(output.stdout).unwrap();
            assert!(shown.matches(mark).count() >= RESOURCES, "{} of them", shown.matches(mark).count());
        }
        let p50 = percentile(&mut samples.split_off(WARM_UP), 0.5);
        report(name, millis(p50), "ms", Bar::AtMost(200.0));
    }
}
