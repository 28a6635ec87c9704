//! `make bench`: the figures that the design promises, one JSON object a line.
//!
//! A figure is a ratio wherever there is something to compare with; the baseline does the same work in the same run. What
//! is measured runs in processes of its own: this one is the hub's side, its children are agents or raw responders.
//!
//! `towline-bench [FILTER]` runs the groups whose name contains FILTER.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench reports on standard output")]
#![expect(clippy::disallowed_methods, reason = "a bench owns its tasks and its clock")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench that cannot go on ends"
)]

mod agent;
mod bundles;
mod calls;
mod children;
mod cost;
mod docker;
mod fleet;
mod raw;
mod report;
mod transfers;

use towline_tests::nats::NatsServer;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "child") {
        return children::run(&args[1..]).await;
    }
    let filter = args.first().cloned().unwrap_or_default();
    let server = NatsServer::start("").await;
    let groups =
        ["calls", "services", "cost", "absence", "transfers", "takeover", "fleet", "agent", "docker"];
    for group in groups.into_iter().chain(bundles::GROUPS) {
        if !group.contains(&filter) {
            continue;
        }
        eprintln!("{group} …");
        match group {
            "calls" => calls::run(&server).await,
            "services" => calls::services(&server).await,
            "cost" => cost::run(&server).await,
            "absence" => calls::absence(&server).await,
            "transfers" => transfers::run(&server).await,
            "takeover" => fleet::takeover(&server).await,
            "fleet" => fleet::run(&server).await,
            "agent" => agent::run(&server).await,
            "docker" => docker::run(&server).await,
            bundles => bundles::run(bundles, &server).await,
        }
    }
}
