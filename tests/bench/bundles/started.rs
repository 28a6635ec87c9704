//! From a put to a process that runs, and to a hundred of them: against bare fork and exec of the same command.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use towline_tests::nats::NatsServer;

use super::documents::{sleeper, sleepers};
use super::site::{Site, delete, done, put};
use crate::children::Owned;
use crate::report::{Bar, median, millis, percentile, report};

const WARM_UP: usize = 5;
const SAMPLES: usize = 200;

/// Units at once, and pairs of them and of bare processes.
const UNITS: usize = 100;
const PAIRS: usize = 5;

pub(crate) async fn run(server: &NatsServer) {
    let site = Site::start(server, "started").await;
    let (mut starts, mut forks) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + SAMPLES {
        let begun = Instant::now();
        let child = sleep();
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
    many(&site).await;
    site.end().await;
}

/// As many units as one app asks for, until all of them run, against as many forks of the same command.
async fn many(site: &Site) {
    let (mut units, mut forks, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first pair finds everything cold.
    for round in 0..=PAIRS {
        let begun = Instant::now();
        let children: Vec<Owned> = (0..UNITS).map(|_| Owned(sleep())).collect();
        let fork = begun.elapsed();
        drop(children);
        let begun = Instant::now();
        let accepted = put(&site.remote, "many", sleepers("many", UNITS)).await;
        done(&site.remote, accepted.job.unwrap()).await;
        let unit = begun.elapsed();
        delete(&site.remote, "many").await;
        if round > 0 {
            ratios.push(unit.as_secs_f64() / fork.as_secs_f64());
            units.push(millis(unit));
            forks.push(millis(fork));
        }
    }
    report(&format!("process_{UNITS}_units_ratio"), median(&mut ratios), "ratio", Bar::None);
    report(&format!("process_{UNITS}_units"), median(&mut units), "ms", Bar::None);
    report(&format!("fork_exec_{UNITS}"), median(&mut forks), "ms", Bar::None);
}

fn sleep() -> Child {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
}
