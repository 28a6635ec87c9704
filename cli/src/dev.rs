//! `towline dev`: hub, agent and process runtime in one process, on a bus in memory; no NATS, no configuration.
//!
//! ```text
//!   files ──watch──► plan (applied against wanted) ──HTTP──► hub ──memory bus──► agent ──► units
//!                                                             ▲
//!   second terminal: towline services local ──────HTTP────────┘   (finds it by the context file)
//! ```
//! All that it does to the instance goes through the HTTP API, as any client's would.

mod applier;
mod bundles;
mod changes;
mod data_dir;
mod follow;
mod house;
mod memory;
pub(crate) mod orphans;
mod plan;
mod readiness;
mod signals;
mod watched;

use std::time::Duration;

use towline_bus::clock;
use towline_hub::api::types::ServiceList;

use self::applier::Applier;
use self::house::{House, Site};
use self::readiness::Readiness;
use self::signals::Signals;
use self::watched::Watched;
use crate::args::{DevArgs, Global};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::show::{Screen, services_table};
use crate::target::Target;

pub(crate) const EXAMPLES: &str = "\
Examples:
  towline dev                          the example that ships: a web server and a ticker
  towline dev ./apps                   your own manifests; what you save is applied again
  towline dev --once --timeout 30s     start all of it, show it, stop it: exit 0 if all has started
  towline dev --listen 127.0.0.1:0     on any free port

While it runs, commands in other terminals find it by themselves: `towline services local`.";

/// How long `--once` waits until all has started.
const START_TIME: Duration = Duration::from_secs(60);

/// How long all must have been started before it counts: an app that fails at once was never there.
const SETTLED: Duration = Duration::from_millis(500);

/// Between two looks at how the services stand while they start.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs all of it until a signal comes, or with `--once` until all has started. Nothing is left behind.
///
/// # Errors
/// What is wrong with the manifests, what could not be started, or what could not be stopped.
pub(crate) async fn run(args: DevArgs, global: &Global) -> Result<(), Failure> {
    let screen = Screen::new(global);
    let mut signals =
        Signals::listen().map_err(|error| Failure::error(format!("cannot listen for signals: {error}")))?;
    let watched = Watched::open(args.path.as_deref())?;
    let time = global.timeout.unwrap_or(START_TIME);

    let opening = House::open(&args);
    let mut house = Box::pin(opening).await?;
    let ended = tokio::select! {
        ended = Box::pin(work(&args, house.site(), watched, &screen, time)) => ended,
        failed = house.failed() => Err(failed),
        signal = signals.next() => {
            screen.note(&format!("{signal}: stopping everything; a second signal ends at once"));
            let early = format!("interrupted by {signal} before all had started");
            if args.once { Err(Failure::error(early)) } else { Ok(()) }
        }
    };
    let stopped = tokio::select! {
        stopped = Box::pin(house.close()) => stopped,
        failure = insisted(&mut signals, &screen) => Err(failure),
    };
    // The first thing that went wrong is the one worth telling.
    ended.and(stopped)
}

/// Waits for the second signal. The first may have come before, or come while everything stops anyway.
async fn insisted(signals: &mut Signals, screen: &Screen) -> Failure {
    while signals.count() < 2 {
        let signal = signals.next().await;
        if signals.count() == 1 {
            screen.note(&format!(
                "{signal}: everything is being stopped already; a second signal ends at once"
            ));
        }
    }
    Failure::error("ended at once by a second signal").with_help(
        "units end by themselves once their directory has gone; in a --data-dir, the next `towline dev` stops them",
    )
}

/// Applies, waits, shows, and follows.
async fn work(
    args: &DevArgs,
    site: Site,
    watched: Watched,
    screen: &Screen,
    time: Duration,
) -> Result<(), Failure> {
    let client = Client::new(Target::of_dev(&site.context)?, None)?;
    let mut applier = Applier::new(client, site.context.instance.clone(), site.memory(), watched.resources());
    let started = tokio::time::timeout(time, start(&mut applier, &watched, &site, screen)).await;
    let started = match started {
        Ok(started) => started,
        Err(_) => Err(late(&applier.services().await.unwrap_or_default(), &watched, time)),
    };
    if args.once && started.is_err() {
        // Why it did not start is the one thing to tell; the table helps if there is one.
        let services = applier.services().await.unwrap_or_default();
        return if services.services.is_empty() {
            started
        } else {
            show_services(&services, screen).and(started)
        };
    }
    show_services(&applier.services().await?, screen)?;
    if args.once {
        return Ok(());
    }
    let is_pending = started.as_ref().is_err_and(follow::is_passing);
    if let Err(failure) = started {
        // What is wrong can be mended while the rest runs.
        screen.note(failure.render().trim_end());
    }
    screen.note(&site.introduction(watched.first_app()));
    follow::run(applier, watched, is_pending, screen).await
}

/// Applies what is watched, and waits until all of it has started.
async fn start(
    applier: &mut Applier,
    watched: &Watched,
    site: &Site,
    screen: &Screen,
) -> Result<(), Failure> {
    let progress = screen.progress("starting hub and agent");
    site.await_presence().await?;
    let wanted: Vec<_> = watched.resources().iter().map(|resource| resource.id.clone()).collect();
    let looking = applier.looker();
    let applying = applier.apply(watched.resources());
    let mut applying = std::pin::pin!(applying);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut applied = false;
    let mut complete_since = None;
    loop {
        tokio::select! {
            done = &mut applying, if !applied => {
                done?;
                applied = true;
            }
            _ = looks.tick() => {
                // A look that fails is no reason to give up: the caller bounds the time.
                let Ok(services) = looking.services().await else { continue };
                let readiness = Readiness::of(&services, &wanted);
                progress.say(readiness.to_string());
                let now = clock::now();
                complete_since = (applied && readiness.is_complete()).then(|| complete_since.unwrap_or(now));
                if complete_since.is_some_and(|since| now.since(since) >= SETTLED) {
                    return Ok(());
                }
            }
        }
    }
}

fn late(services: &ServiceList, watched: &Watched, time: Duration) -> Failure {
    let wanted: Vec<_> = watched.resources().iter().map(|resource| resource.id.clone()).collect();
    let readiness = Readiness::of(services, &wanted);
    let message = format!("not all has started within {}: {readiness}", humantime::format_duration(time));
    Failure::new(Exit::TimedOut, message)
        .with_details(readiness.missing)
        .with_help("wait longer with --timeout, or see what the apps write: `towline dev` without --once, then `towline logs`")
}

fn show_services(services: &ServiceList, screen: &Screen) -> Result<(), Failure> {
    if screen.is_json() {
        return screen.item(services, |_| String::new());
    }
    screen.line(&services_table(services, clock::unix_ms(), screen.style()))
}
