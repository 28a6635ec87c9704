//! The real agent is killed at every named point, and at random instants, while bundles are put, paused, resumed, deleted
//! and taken back. What was answered must be there afterwards, every job must have ended once, and the host must bear
//! exactly what was accepted last: on processes, and on containers of a real engine.
//!
//! `TOWLINE_KILLS` says how many random kills there are (10), and `TOWLINE_SEED` which seed the first site has; with the
//! feature `failpoints`, each point is tried, too (`TOWLINE_POINT` names one): to be killed there, to fail there, to stall there.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking")]
#![expect(clippy::panic, reason = "a test says what it expects by panicking")]

mod bus;
mod check;
#[cfg(feature = "failpoints")]
mod docker;
#[cfg(feature = "failpoints")]
#[expect(dead_code, reason = "the tests of runtimes do more to it")]
#[path = "../runtimes/engine.rs"]
mod engine;
mod journal;
mod model;
mod place;
#[cfg(feature = "failpoints")]
mod points;
mod program;
mod random;
mod site;
mod stream;

use std::{fmt::Debug, sync::Arc, time::Duration};

use bus::Bus;
use place::{Place, Processes};
use random::Random;
use site::Site;

/// Kills that one site sees before it is looked at: so many that they meet what earlier ones left.
const OF_ONE_SITE: u64 = 50;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_instants_nothing_accepted_is_lost() {
    let processes: Arc<dyn Place> = Arc::new(Processes);
    killed_at_random_instants(&processes).await;
}

#[expect(clippy::print_stderr, reason = "shown when it fails: how to have the same stream again")]
async fn killed_at_random_instants(place: &Arc<dyn Place>) {
    let mut kills = number_from("TOWLINE_KILLS").unwrap_or(10);
    let bus = Arc::new(Bus::start().await);
    for seed in number_from("TOWLINE_SEED").unwrap_or(7).. {
        eprintln!("seed {seed}; the same stream again with TOWLINE_SEED={seed}");
        let mut site = Site::new(&bus, place).await;
        let mut random = Random::new(seed);
        for _ in 0..kills.min(OF_ONE_SITE) {
            let mut life = site.begin("").await;
            // Also while it starts.
            let instant = Duration::from_millis(random.below(1_500));
            let lived = async {
                life.serves().await.unwrap();
                let far = life.far.clone();
                stream::ask_again(&mut site, &far).await;
                stream::drive(&mut site, &far, &mut random).await;
            };
            tokio::time::timeout(instant, lived).await.unwrap_err();
            life.kill().await;
        }
        check::whole(site).await;
        kills = kills.saturating_sub(OF_ONE_SITE);
        if kills == 0 {
            return;
        }
    }
}

/// Waits until `look` finds something; says otherwise what it found last.
async fn until<T, M: Found<T>>(what: &str, look: impl AsyncFn() -> M) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        match look().await.found() {
            Ok(found) => return found,
            Err(instead) => {
                assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}; {instead}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a look comes to: what was looked for, or what was there instead.
trait Found<T> {
    fn found(self) -> Result<T, String>;
}

impl<T> Found<T> for Option<T> {
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "it is not there".to_owned())
    }
}

impl<T, E: Debug> Found<T> for Result<T, E> {
    fn found(self) -> Result<T, String> {
        self.map_err(|instead| format!("there is {instead:?}"))
    }
}
