//! A hundred versions of one bundle at once: how long until the last of them holds.

use std::time::Instant;

use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::bundle::{BundleStatusRequest, PutOutcome};
use towline_tests::nats::NatsServer;

use super::documents::{idle_app, sleeper};
use super::site::{Site, delete, done, put};
use crate::report::{Bar, median, report};

const VERSIONS: usize = 100;
const ROUNDS: usize = 10;

pub(crate) async fn run(server: &NatsServer) {
    let site = Site::start(server, "burst").await;
    // The store grows to its size.
    burst(&site, "warm-up", idle_app).await;
    report("burst_100_versions", rounds(&site, idle_app).await, "s", Bar::AtMost(1.0));
    // Each version that was begun waits to see that its process stays up: that is no work of the engine's.
    report("burst_100_versions_unit", rounds(&site, sleeper).await, "s", Bar::None);
    site.end().await;
}

async fn rounds(site: &Site, content: fn(&str, usize) -> String) -> f64 {
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push(burst(site, &format!("bundle-{round}"), content).await);
    }
    median(&mut rounds)
}

/// Seconds from the first put to the end of the last version's job. The bundle is gone afterwards.
async fn burst(site: &Site, bundle: &str, content: fn(&str, usize) -> String) -> f64 {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for edition in 0..VERSIONS {
        let (remote, bundle, content) = (site.remote.clone(), bundle.to_owned(), content("app", edition));
        tasks.spawn(async move { put(&remote, &bundle, content).await });
    }
    let accepted = tasks.join_all().await;
    assert!(accepted.iter().all(|put| put.outcome == PutOutcome::Accepted));
    let last = accepted.into_iter().max_by_key(|put| put.version).unwrap();
    done(&site.remote, last.job.unwrap()).await;
    let took = begun.elapsed().as_secs_f64();
    let request = BundleStatusRequest { bundle: bundle.parse().unwrap(), after: None, limit: None };
    let status = site.remote.bundle_status(&CallContext::new(), &request).await.unwrap();
    assert_eq!(status.summary.applied, Some(last.version));
    delete(&site.remote, bundle).await;
    took
}
