//! What goes on after the start: files that change, services that change, events.

use std::time::Duration;

use towline_bus::clock;
use towline_hub::api::types::{Event, ServiceList};

use super::applier::{Applier, Looker};
use super::changes::changes;
use super::watched::Watched;
use crate::client::SseEvent;
use crate::failure::Failure;
use crate::show::{Screen, time_of_day};
use crate::time::Since;

/// Between two looks at the files. A change is applied once two looks agree, so half a second after it was written.
const FILES_EVERY: Duration = Duration::from_millis(250);

/// Between two looks at the services.
const SERVICES_EVERY: Duration = Duration::from_millis(500);

/// Follows until it is dropped.
///
/// # Errors
/// When the hub or the agent of this very process answers no more, or standard output is gone.
pub(super) async fn run(applier: Applier, watched: Watched, screen: &Screen) -> Result<(), Failure> {
    let looker = applier.looker();
    tokio::select! {
        ended = follow_files(applier, watched, screen) => ended,
        ended = follow_services(&looker, screen) => ended,
        ended = follow_events(&looker, screen) => ended,
    }
}

async fn follow_files(mut applier: Applier, mut watched: Watched, screen: &Screen) -> Result<(), Failure> {
    let mut looks = tokio::time::interval(FILES_EVERY);
    loop {
        looks.tick().await;
        let Some(read) = watched.look_again() else { continue };
        let outcome = match read {
            Ok(()) => applier.apply(watched.resources()).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(done) => {
                tell(screen, &format!("files changed: {} applied, {} deleted", done.applied, done.deleted))
            }
            Err(failure) => {
                tell(screen, &format!("files changed: {}", failure.render().trim_end()));
                screen.note("what ran before runs on; save the file again once it is mended");
            }
        }
    }
}

async fn follow_services(looker: &Looker, screen: &Screen) -> Result<(), Failure> {
    let mut looks = tokio::time::interval(SERVICES_EVERY);
    let mut before: Option<ServiceList> = None;
    loop {
        looks.tick().await;
        let now = looker.services().await?;
        if let Some(before) = &before {
            let told = changes(before, &now, screen.style());
            if screen.is_json() && !told.is_empty() {
                screen.item(&now, |_| String::new())?;
            } else {
                for line in told {
                    screen.line(&stamped(&line))?;
                }
            }
        }
        before = Some(now);
    }
}

async fn follow_events(looker: &Looker, screen: &Screen) -> Result<(), Failure> {
    let mut stream = looker.events(Since::from_unix_ms(clock::unix_ms())).await?;
    while let Some(SseEvent { data, .. }) = stream.next().await? {
        if let Ok(Event { instance, kind, detail, .. }) = serde_json::from_str(&data) {
            tell(screen, &format!("{instance} {kind}: {detail}"));
        }
    }
    Err(Failure::error("the hub ended its stream of events"))
}

fn tell(screen: &Screen, text: &str) {
    screen.note(&stamped(text));
}

fn stamped(text: &str) -> String {
    format!("{}  {text}", time_of_day(clock::unix_ms()))
}
