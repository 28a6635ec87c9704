//! A store that has seen very many jobs. Of jobs the newest are kept; what their puts were answered is kept by time and by
//! bytes, so many puts at once are the worst case. The file grows by doubling.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use towline_tests::nats::NatsServer;

use super::documents::idle_app;
use super::site::{Site, put};
use crate::report::{Bar, report};

/// As many as are kept.
const KEPT: usize = 10_000;
const JOBS: usize = 100_000;
const BUNDLES: usize = 64;

pub(crate) async fn run(server: &NatsServer) {
    let site = Site::start(server, "jobs").await;
    let edition = Arc::new(AtomicUsize::new(0));
    // Twice, for then the first ones are being forgotten.
    put_until(&site, &edition, 2 * KEPT).await;
    report("store_after_20000_jobs", size(site.data_dir.path()), "MiB", Bar::None);
    put_until(&site, &edition, JOBS).await;
    report("store_after_100000_jobs", size(site.data_dir.path()), "MiB", Bar::None);
    site.end().await;
}

/// Puts bundles, a version after the other, until there were so many jobs.
async fn put_until(site: &Site, edition: &Arc<AtomicUsize>, jobs: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..BUNDLES {
        let (remote, edition) = (site.remote.clone(), Arc::clone(edition));
        tasks.spawn(async move {
            loop {
                let edition = edition.fetch_add(1, Ordering::Relaxed);
                if edition >= jobs {
                    break;
                }
                put(&remote, &format!("bundle-{number}"), idle_app(&format!("app-{number}"), edition)).await;
            }
        });
    }
    tasks.join_all().await;
}

/// What the store takes on the disk, in MiB.
fn size(data_dir: &Path) -> f64 {
    std::fs::metadata(data_dir.join("agent.redb")).unwrap().len() as f64 / 1_048_576.0
}
