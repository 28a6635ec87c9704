//! Bundles: how fast a real agent accepts them and carries them out, shows them, and takes them up again.

mod burst;
mod documents;
mod jobs;
mod listing;
mod opening;
mod puts;
pub(crate) mod site;
mod started;

use towline_tests::nats::NatsServer;

/// The groups, each with an agent of its own.
pub(crate) const GROUPS: [&str; 6] = [
    "bundles-puts",
    "bundles-started",
    "bundles-burst",
    "bundles-listing",
    "bundles-opening",
    "bundles-jobs",
];

pub(crate) async fn run(group: &str, server: &NatsServer) {
    match group {
        "bundles-puts" => puts::run(server).await,
        "bundles-started" => started::run(server).await,
        "bundles-burst" => burst::run(server).await,
        "bundles-listing" => listing::run(server).await,
        "bundles-opening" => opening::run(server).await,
        _ => jobs::run(server).await,
    }
}
