//! From a put to a process that runs: against bare fork and exec of the same command.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use towline_tests::nats::NatsServer;

use super::documents::sleeper;
use super::site::{Site, delete, done, put};
use crate::children::Owned;
use crate::report::{Bar, millis, percentile, report};

const WARM_UP: usize = 5;
const SAMPLES: usize = 200;

pub(crate) async fn run(server: &NatsServer) {
    let site = Site::start(server, "started").await;
    let (mut starts, mut forks) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + SAMPLES {
        let begun = Instant::now();
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        forks.push(begun.elapsed());
        drop(Owned(child));
        let bundle = format!("bundle-{number}");
        let begun = Instant::now();
        let accepted = put(&site.remote, &bundle, sleeper("app", number)).await;
        // Its end says that the unit is started, and is durable.
        done(&site.remote, accepted.job.unwrap()).await;
        starts.push(begun.elapsed());
        delete(&site.remote, &bundle).await;
    }
    let (mut starts, mut forks) = (starts.split_off(WARM_UP), forks.split_off(WARM_UP));
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (start, fork): (Duration, Duration) =
            (percentile(&mut starts, share), percentile(&mut forks, share));
        report(
            &format!("put_started_{name}_ratio"),
            start.as_secs_f64() / fork.as_secs_f64(),
            "ratio",
            Bar::None,
        );
        report(&format!("put_started_{name}"), millis(start), "ms", Bar::None);
        report(&format!("fork_exec_{name}"), millis(fork), "ms", Bar::None);
    }
    site.end().await;
}
