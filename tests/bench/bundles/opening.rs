//! An agent that is started over the bundles of its last life: against one that has none.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use towline_tests::nats::{NatsServer, free_port};

use super::documents::{file, idle_app};
use super::site::{Site, agent, done, put, terminate};
use crate::children::Owned;
use crate::report::{Bar, median, report};

const BUNDLES: usize = 1_000;
const AT_ONCE: usize = 64;
const ROUNDS: usize = 9;

pub(crate) async fn run(server: &NatsServer) {
    let site = Site::start(server, "opening").await;
    let files = tempfile::tempdir().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..AT_ONCE {
        let (remote, folder) = (site.remote.clone(), files.path().to_owned());
        tasks.spawn(async move {
            for number in (first..BUNDLES).step_by(AT_ONCE) {
                let content =
                    idle_app(&format!("app-{number}"), 0) + &file(&format!("file-{number}"), &folder);
                let accepted = put(&remote, &format!("bundle-{number}"), content).await;
                done(&remote, accepted.job.unwrap()).await;
            }
        });
    }
    tasks.join_all().await;
    let data_dir = site.end().await;
    let empty = tempfile::tempdir().unwrap();
    // Once before: an empty store is made only then.
    open(server, empty.path(), terminate);
    let (mut ordered, mut killed, mut none) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        none.push(open(server, empty.path(), terminate));
        // What is opened here was ended in order, by the round before.
        ordered.push(open(server, data_dir.path(), drop));
        killed.push(open(server, data_dir.path(), terminate));
    }
    let (ordered, none) = (median(&mut ordered), median(&mut none));
    report("open_1000_bundles", ordered, "s", Bar::AtMost(1.0));
    report("open_1000_bundles_after_kill", median(&mut killed), "s", Bar::AtMost(1.0));
    report("open_no_bundles", none, "s", Bar::None);
    report("open_1000_bundles_ratio", ordered / none, "ratio", Bar::None);
}

/// Starts an agent, and has it ended when it is open; seconds from the start of the process until then.
fn open(server: &NatsServer, data_dir: &Path, end: fn(Owned)) -> f64 {
    let metrics = free_port();
    let begun = Instant::now();
    let agent = agent(server, "opening", data_dir, metrics);
    // It listens as soon as it has taken up what was there, and serves then.
    while TcpStream::connect(("127.0.0.1", metrics)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the agent does not open");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed().as_secs_f64();
    end(agent);
    took
}
