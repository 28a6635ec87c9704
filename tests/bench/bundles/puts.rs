//! Durable puts: against a bare write and fsync of the same bytes on the same disk, one at a time.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use towline_tests::nats::NatsServer;

use super::documents::idle_app;
use super::site::{Site, put};
use crate::report::{Bar, median, millis, percentile, report};

const PAIRS: usize = 5;
const MEASURED: Duration = Duration::from_secs(2);

/// Each task puts one version after the other of a bundle of its own. They are carried out meanwhile, as they would be.
pub(crate) async fn run(server: &NatsServer) {
    let site = Site::start(server, "puts").await;
    let edition = Arc::new(AtomicUsize::new(0));
    // The store grows to its size, and every bundle is there.
    puts(&site, &edition, 64).await;
    let mut bare_rates = Vec::new();
    for at_once in [1, 64] {
        let (mut rates, mut ratios, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let bare = bare(site.data_dir.path()).await;
            let mut samples = puts(&site, &edition, at_once).await;
            let rate = samples.len() as f64 / MEASURED.as_secs_f64();
            ratios.push(rate / bare);
            rates.push(rate);
            bare_rates.push(bare);
            latencies.push(millis(percentile(&mut samples, 0.5)));
        }
        report(&format!("put_rate_ratio_{at_once}"), median(&mut ratios), "ratio", Bar::None);
        report(&format!("put_rate_{at_once}"), median(&mut rates), "puts/s", Bar::None);
        report(&format!("put_p50_{at_once}"), median(&mut latencies), "ms", Bar::None);
    }
    report("fsync_rate", median(&mut bare_rates), "writes/s", Bar::None);
    site.end().await;
}

async fn puts(site: &Site, edition: &Arc<AtomicUsize>, at_once: usize) -> Vec<Duration> {
    let until = Instant::now() + MEASURED;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..at_once {
        let (remote, edition) = (site.remote.clone(), Arc::clone(edition));
        tasks.spawn(async move {
            let mut samples = Vec::new();
            while Instant::now() < until {
                let content = idle_app(&format!("app-{number}"), edition.fetch_add(1, Ordering::Relaxed));
                let begun = Instant::now();
                put(&remote, &format!("bundle-{number}"), content).await;
                samples.push(begun.elapsed());
            }
            samples
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Writes and flushes the bytes of a put again and again; how often in a second.
async fn bare(folder: &Path) -> f64 {
    let path = folder.join("bare");
    let writing = move || {
        let content = idle_app("app-0", 1_000);
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let (begun, mut written) = (Instant::now(), 0_u32);
        while begun.elapsed() < MEASURED {
            file.write_all(content.as_bytes()).unwrap();
            file.sync_all().unwrap();
            written += 1;
        }
        f64::from(written) / begun.elapsed().as_secs_f64()
    };
    tokio::task::spawn_blocking(writing).await.unwrap()
}
