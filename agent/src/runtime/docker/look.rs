//! Finding out how things stand, and hearing when they change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bollard::{
    models::{ContainerSummary, EventMessage},
    query_parameters::{EventsOptions, InspectContainerOptions},
};
use futures::{FutureExt as _, StreamExt as _, stream};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use towline_bus::clock::{self, Moment};

use super::{
    endpoint::Endpoint,
    engine::{QUICK, Refusal},
    host::{DockerHost, Seen},
    labels, view,
};
use crate::runtime::{RuntimeError, UnitStatus};

/// Between two looks although no event came: for what was missed.
const EVERY: Duration = Duration::from_secs(10);

/// Between two tries to hear an engine that does not answer.
const AGAIN: Duration = Duration::from_secs(2);

/// Closer looks at the same time.
const AT_ONCE: usize = 8;

/// Events after which a container may stand otherwise. There are many more: what looks into one, or runs a command there, as the
/// engine's own checks do, makes three of them each time. A new name is how far a container with hooks has come.
const STIRS: [&str; 8] = ["start", "die", "destroy", "pause", "unpause", "rename", "health_status", "update"];

/// Looks at each event, and every now and then, until the agent ends.
pub(super) async fn watch(host: DockerHost, stopping: CancellationToken) {
    while !stopping.is_cancelled() {
        let listened = stopping.run_until_cancelled(listen(&host)).await;
        if let Some(Err(refusal)) = listened {
            host.note_trouble(&host.blame(refusal.of("listening to the engine")));
        }
        stopping.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
    }
}

async fn listen(host: &DockerHost) -> Result<(), Refusal> {
    let client = host.inner.engine.client().await?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![host.label_filter()]),
        ("event".to_owned(), STIRS.map(str::to_owned).to_vec()),
    ]);
    let mut events =
        client.events(Some(EventsOptions { filters: Some(filters), ..EventsOptions::default() }));
    loop {
        // What happened before we listened, and what goes without an event.
        if host.look(None, clock::now()).await.is_err() {
            return Ok(());
        }
        host.show_mark().await;
        // However many events there are meanwhile.
        let due = Instant::now() + EVERY;
        while let Ok(event) = timeout_at(due, events.next()).await {
            let mut stirred = BTreeSet::from([concerned(event)?]);
            // Of those that have come by now, several may be about one container, and one look tells of all.
            while let Some(event) = events.next().now_or_never() {
                stirred.insert(concerned(event)?);
            }
            let looks = stirred.into_iter().map(|id| async move { host.inspect(&id).await });
            let seen: Vec<Result<_, RuntimeError>> =
                stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
            if seen.iter().any(Result::is_err) {
                break;
            }
        }
    }
}

/// The container that an event is about.
fn concerned(event: Option<Result<EventMessage, bollard::errors::Error>>) -> Result<String, Refusal> {
    let event = event.ok_or_else(|| Refusal::Silent("it ended its events".to_owned()))?;
    Ok(event.map_err(Refusal::from)?.actor.unwrap_or_default().id.unwrap_or_default())
}

impl DockerHost {
    /// The label of all that is the instance's.
    pub(super) fn label_filter(&self) -> String {
        format!("{}={}", labels::INSTANCE, self.inner.instance)
    }

    /// Looks at all units, or at those of one app: one call, and one for each that changed. None where all were looked at since
    /// `since`: what we change ourselves is known without.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] when the engine does not answer for all.
    pub(super) async fn look(&self, app: Option<&str>, since: Moment) -> Result<(), RuntimeError> {
        let mut all_seen = self.inner.looking.lock().await;
        if all_seen.is_some_and(|begun| begun >= since) && self.known().trouble.is_none() {
            return Ok(());
        }
        let begun = clock::now();
        let looked = self.look_now(app).await.map_err(|error| self.blame(error));
        match &looked {
            Ok(()) => self.learn(|known| {
                known.trouble = None;
                match app {
                    None => {
                        known.looked = true;
                        known.doubts.clear();
                        *all_seen = Some(begun);
                    }
                    Some(app) => drop(known.doubts.remove(app)),
                }
            }),
            Err(error) => {
                *all_seen = None;
                self.note_trouble(error);
            }
        }
        looked
    }

    async fn look_now(&self, app: Option<&str>) -> Result<(), RuntimeError> {
        // What is made from here on may not be in the list, and is there all the same.
        let before: BTreeSet<String> =
            self.known().units.values().map(|seen| seen.container.clone()).collect();
        let mut wanted = vec![self.label_filter()];
        wanted.extend(app.map(|app| format!("{}={app}", labels::APP)));
        let listed = self.inner.engine.labelled(wanted).await?;
        let marks: BTreeMap<String, String> = listed.iter().filter_map(marked).collect();
        let changed: Vec<(String, String)> = {
            let known = self.known();
            let same: HashMap<&str, &str> =
                known.units.values().map(|seen| (seen.container.as_str(), seen.mark.as_str())).collect();
            let is_new = |(id, mark): &(&String, &String)| same.get(id.as_str()) != Some(&mark.as_str());
            marks.iter().filter(is_new).map(|(id, mark)| (id.clone(), mark.clone())).collect()
        };
        let looks =
            changed.into_iter().map(|(id, mark)| async move { self.look_closer(&id, Some(mark)).await });
        let results: Vec<Result<Option<UnitStatus>, RuntimeError>> =
            stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
        self.learn(|known| {
            known.units.retain(|_, seen| {
                marks.contains_key(&seen.container)
                    || !before.contains(&seen.container)
                    || app.is_some_and(|app| seen.status.app != app)
            });
        });
        if app.is_none() {
            let known = self.known();
            self.inner.hook_log.keep(|unit| known.units.contains_key(unit));
        }
        results.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Looks at one container now; none if it is gone, or not ours.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] when the engine does not answer.
    pub(super) async fn inspect(&self, container: &str) -> Result<Option<UnitStatus>, RuntimeError> {
        self.look_closer(container, None).await
    }

    /// With the mark that a list has told, if one has: then it is not looked at for that once more.
    async fn look_closer(
        &self,
        container: &str,
        mark: Option<String>,
    ) -> Result<Option<UnitStatus>, RuntimeError> {
        let question = async |client: bollard::Docker| {
            client.inspect_container(container, None::<InspectContainerOptions>).await
        };
        let mut seen = match self.inner.engine.ask(QUICK, question).await {
            Ok(found) => {
                let mark = mark.unwrap_or_else(|| view::mark_to_be(&found));
                view::unit(&found, mark, &self.inner.instance, Timestamp::now()).map(|seen| self.placed(seen))
            }
            Err(Refusal::NotFound(_)) => None,
            Err(refusal) => {
                let error = self.blame(refusal.of("cannot look at a container"));
                self.note_trouble(&error);
                return Err(error);
            }
        };
        let (before, status) = self.learn(|known| {
            let before = known.units.values().find(|seen| seen.container == container).cloned();
            if let Some(seen) = &mut seen {
                seen.keep_verdict(before.as_ref());
            }
            let status = seen.as_ref().map(|seen| seen.status.clone());
            match seen {
                Some(seen) => drop(known.units.insert(seen.status.unit.clone(), seen)),
                None => known.units.retain(|_, seen: &mut Seen| seen.container != container),
            }
            (before, status)
        });
        let before = before.map(|seen| seen.status);
        if before != status
            && let Some(changed) = status.as_ref().or(before.as_ref())
        {
            self.inner.changes.tell(&changed.app);
        }
        Ok(status)
    }

    /// With the name of this host, where it has one, and as its start stands.
    fn placed(&self, mut seen: Seen) -> Seen {
        seen.show_start(self.is_starting(&seen.container));
        seen.status.host = self.inner.config.name.as_ref().map(ToString::to_string);
        if let Some(check) = &mut seen.check {
            match (&self.inner.config.endpoint, self.inner.engine.ports()) {
                (Endpoint::Socket(_), _) => {}
                (_, Some(socket)) => check.is_behind(&socket),
                (_, None) => check.is_elsewhere(),
            }
        }
        seen
    }

    /// What is known may not be so any more.
    fn note_trouble(&self, error: &RuntimeError) {
        let reason = error.to_string();
        let is_new = self.learn(|known| known.trouble.replace(reason.clone()).is_none());
        if is_new {
            tracing::warn!(%error, "units are shown as unknown until it answers");
        }
    }
}

fn marked(summary: &ContainerSummary) -> Option<(String, String)> {
    Some((summary.id.clone()?, view::mark(summary)))
}
