//! What goes on after the start: files that change, services that change, events.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use towline_bus::clock;
use towline_hub::api::types::{Event, ServiceList};

use super::applier::{Applier, Looker};
use super::changes::changes;
use super::watched::Watched;
use crate::failure::{Exit, Failure};
use crate::show::{Screen, time_of_day};
use crate::time::Since;

/// Between two looks at the files. A change is applied once two looks agree, so half a second after it was written.
const FILES_EVERY: Duration = Duration::from_millis(250);

/// Between two looks at the services.
const SERVICES_EVERY: Duration = Duration::from_millis(500);

/// Before a stream of events that was cut is opened again.
const EVENTS_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Follows until it is dropped; `is_pending` says that what is watched was not applied yet. What fails for a while is told and tried again: a laptop that was asleep must not lose
/// what runs on it.
///
/// # Errors
/// When standard output is gone.
pub(super) async fn run(
    applier: Applier,
    watched: Watched,
    is_pending: bool,
    screen: &Screen,
) -> Result<(), Failure> {
    let looker = applier.looker();
    tokio::select! {
        () = follow_files(applier, watched, is_pending, screen) => Ok(()),
        ended = follow_services(&looker, screen) => ended,
        () = follow_events(&looker, screen) => Ok(()),
    }
}

async fn follow_files(mut applier: Applier, mut watched: Watched, mut is_pending: bool, screen: &Screen) {
    let mut looks = tokio::time::interval(FILES_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let is_retry = match watched.look_again() {
            Some(Ok(())) => false,
            Some(Err(failure)) => {
                tell(screen, &format!("files changed: {}", failure.render().trim_end()));
                screen.note("what ran before runs on; save again once it is mended");
                continue;
            }
            None if is_pending => true,
            None => continue,
        };
        let outcome = applier.apply(watched.resources()).await;
        is_pending = outcome.as_ref().is_err_and(is_passing);
        match outcome {
            Ok(done) => {
                tell(screen, &format!("files changed: {} applied, {} deleted", done.applied, done.deleted));
            }
            Err(_) if is_pending && is_retry => {}
            Err(failure) => {
                tell(screen, &format!("files changed: {}", failure.render().trim_end()));
                screen.note(if is_pending {
                    "trying again"
                } else {
                    "what failed is tried again with the next change"
                });
            }
        }
    }
}

/// Whether it only did not get through: then it is tried again. What was refused waits for the next change.
pub(super) fn is_passing(failure: &Failure) -> bool {
    // A conflict is one of sessions here; those over resources come by id.
    matches!(failure.exit(), Exit::Unavailable | Exit::UnknownOutcome | Exit::TimedOut | Exit::Conflict)
}

async fn follow_services(looker: &Looker, screen: &Screen) -> Result<(), Failure> {
    let mut looks = tokio::time::interval(SERVICES_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<ServiceList> = None;
    let mut is_out = false;
    loop {
        looks.tick().await;
        let now = match looker.services().await {
            Ok(now) => now,
            Err(failure) => {
                if !is_out {
                    tell(screen, &format!("{}; trying again", failure.message()));
                }
                is_out = true;
                continue;
            }
        };
        if std::mem::take(&mut is_out) {
            tell(screen, "the services can be seen again");
        }
        if let Some(before) = &before {
            show_changes(before, &now, screen)?;
        }
        before = Some(now);
    }
}

fn show_changes(before: &ServiceList, now: &ServiceList, screen: &Screen) -> Result<(), Failure> {
    let told = changes(before, now, screen.style());
    if screen.is_json() && !told.is_empty() {
        return screen.item(now, |_| String::new());
    }
    told.iter().try_for_each(|line| screen.line(&stamped(line)))
}

async fn follow_events(looker: &Looker, screen: &Screen) {
    let since = Since::from_unix_ms(clock::unix_ms());
    let mut last = None;
    loop {
        if let Ok(mut stream) = looker.events(since, last.clone()).await {
            while let Ok(Some(event)) = stream.next().await {
                if let Ok(Event { instance, kind, detail, .. }) = serde_json::from_str(&event.data) {
                    tell(screen, &format!("{instance} {kind}: {detail}"));
                }
                // A gap has no id, and history must not come again.
                last = event.id.or(last);
            }
        }
        tokio::time::sleep(EVENTS_AGAIN_AFTER).await;
    }
}

fn tell(screen: &Screen, text: &str) {
    screen.note(&stamped(text));
}

fn stamped(text: &str) -> String {
    format!("{}  {text}", time_of_day(clock::unix_ms()))
}
