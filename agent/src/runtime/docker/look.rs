//! Finding out how things stand, and hearing when they change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bollard::{
    Docker,
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
    host::{DockerHost, Seen, Unclear},
    labels, view,
};
use crate::runtime::{RuntimeError, UnitStatus};

/// Between two looks although no event came: for what was missed.
const EVERY: Duration = Duration::from_secs(10);

/// Between two tries to hear an engine that does not answer.
const AGAIN: Duration = Duration::from_secs(2);

/// How long a look waits for what the engine tells of one container while it answers for others: a container that it cannot look
/// at is to hold up none of them.
const CLOSER: Duration = Duration::from_secs(5);

/// The same for one of which it told nothing the last time.
const CLOSER_AGAIN: Duration = Duration::from_secs(2);

/// Closer looks at the same time.
const AT_ONCE: usize = 8;

/// Events after which a container may stand otherwise. There are many more: what looks into one, or runs a command there, as the
/// engine's own checks do, makes three of them each time. A new name is how far a container with hooks has come.
const STIRS: [&str; 8] = ["start", "die", "destroy", "pause", "unpause", "rename", "health_status", "update"];

/// Of what nothing is known any more, and why.
enum Lost {
    /// Of this container.
    Unit(RuntimeError),
    /// Of all: the engine is silent.
    Host(RuntimeError),
}

impl From<Lost> for RuntimeError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Unit(error) | Lost::Host(error) => error,
        }
    }
}

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
            let looks = stirred
                .into_iter()
                .map(|id| async move { host.look_closer(&id, None, host.patience(&id)).await });
            let seen: Vec<Result<_, Lost>> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
            if seen.iter().any(|seen| matches!(seen, Err(Lost::Host(_)))) {
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
    /// A container that the engine cannot look at is no error of the look: see [`DockerHost::clear_up`].
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] when the engine does not answer.
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
        let listed: BTreeMap<String, ContainerSummary> =
            listed.into_iter().filter_map(|summary| Some((summary.id.clone()?, summary))).collect();
        let changed: Vec<(String, ContainerSummary)> = {
            let known = self.known();
            let same: HashMap<&str, &str> =
                known.units.values().map(|seen| (seen.container.as_str(), seen.mark.as_str())).collect();
            let is_new = |(id, summary): &(&String, &ContainerSummary)| {
                same.get(id.as_str()).is_none_or(|mark| *mark != view::mark(summary))
            };
            listed.iter().filter(is_new).map(|(id, summary)| (id.clone(), summary.clone())).collect()
        };
        let looks = changed.into_iter().map(|(id, summary)| async move {
            self.look_closer(&id, Some(&summary), self.patience(&id)).await
        });
        let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
        let mut seen = Ok(());
        while let Some(looked) = looks.next().await {
            if let Err(Lost::Host(error)) = looked {
                // It would take as long for each of the others.
                seen = Err(error);
                break;
            }
        }
        self.learn(|known| {
            known.units.retain(|_, seen| {
                listed.contains_key(&seen.container)
                    || !before.contains(&seen.container)
                    || app.is_some_and(|app| seen.status.app != app)
            });
        });
        if app.is_none() {
            let known = self.known();
            self.inner.hook_log.keep(|unit| known.units.contains_key(unit));
        }
        seen
    }

    /// Looks at one container now; none if it is gone, or not ours.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] when the engine does not answer, or not for this one.
    pub(super) async fn inspect(&self, container: &str) -> Result<Option<UnitStatus>, RuntimeError> {
        Ok(self.look_closer(container, None, QUICK).await?)
    }

    /// How long a look waits for one container.
    fn patience(&self, container: &str) -> Duration {
        let known = self.known();
        let found = known.units.values().find(|seen| seen.container == container);
        if found.is_some_and(|seen| seen.unclear.is_some()) { CLOSER_AGAIN } else { CLOSER }
    }

    /// With what a list has told, if one has: then it is not looked at for that once more.
    async fn look_closer(
        &self,
        container: &str,
        listed: Option<&ContainerSummary>,
        patience: Duration,
    ) -> Result<Option<UnitStatus>, Lost> {
        let question =
            async |client: Docker| client.inspect_container(container, None::<InspectContainerOptions>).await;
        let seen = match self.inner.engine.ask(patience, question).await {
            Ok(found) => {
                let mark = listed.map_or_else(|| view::mark_to_be(&found), view::mark);
                view::unit(&found, mark, &self.inner.instance, Timestamp::now()).map(|seen| self.placed(seen))
            }
            Err(Refusal::NotFound(_)) => None,
            Err(refusal) => return Err(self.lose_sight(container, listed, refusal).await),
        };
        Ok(self.note_seen(container, seen))
    }

    fn note_seen(&self, container: &str, mut seen: Option<Seen>) -> Option<UnitStatus> {
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
        let was_unclear = before.as_ref().is_some_and(|seen| seen.unclear.is_some());
        let before = before.map(|seen| seen.status);
        if (before != status || was_unclear)
            && let Some(changed) = status.as_ref().or(before.as_ref())
        {
            self.inner.changes.tell(&changed.app);
        }
        status
    }

    /// The engine did not tell how a container stands. What it says of one is about that one; all are lost only with an engine
    /// that says nothing of anything.
    async fn lose_sight(&self, container: &str, listed: Option<&ContainerSummary>, refusal: Refusal) -> Lost {
        let reason = match refusal {
            Refusal::Silent(reason) => {
                let heard = self.inner.engine.ask(QUICK - CLOSER, async |client: Docker| client.ping().await);
                if let Err(Refusal::Silent(_)) = heard.await {
                    let error = self.blame(Refusal::Silent(reason).of("cannot look at a container"));
                    self.note_trouble(&error);
                    return Lost::Host(error);
                }
                reason
            }
            Refusal::NotFound(message) | Refusal::Said { message, .. } | Refusal::Fenced(message) => {
                format!("it says only: {message}")
            }
        };
        let runtime = format!("{}, asked about container {container:.12},", self.engine_name());
        let unclear = Unclear { runtime, reason };
        let error = unclear.error();
        let found = listed.and_then(|summary| {
            view::unseen(summary, &self.inner.instance, unclear.clone(), Timestamp::now())
        });
        let found = found.map(|seen| self.placed(seen));
        let newly =
            self.learn(|known| match known.units.values_mut().find(|seen| seen.container == container) {
                Some(seen) => {
                    // The next look tries again.
                    seen.mark.clear();
                    let was_clear = seen.unclear.replace(unclear).is_none();
                    was_clear.then(|| seen.status.app.clone())
                }
                None => found.map(|seen| {
                    let app = seen.status.app.clone();
                    known.units.insert(seen.status.unit.clone(), seen);
                    app
                }),
            });
        if let Some(app) = newly {
            tracing::warn!(%error, app, "one unit is shown as unknown until it answers");
            self.inner.changes.tell(&app);
        }
        Lost::Unit(error)
    }

    /// Asks once more about the units of an app of which a look was told nothing, and waits as long as for any other answer: nobody
    /// else waits with it.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] when the engine still does not tell of one of them.
    pub(super) async fn clear_up(&self, app: &str) -> Result<(), RuntimeError> {
        let unclear: Vec<String> = {
            let known = self.known();
            let of_app = known.units.values().filter(|seen| seen.status.app == app);
            of_app.filter(|seen| seen.unclear.is_some()).map(|seen| seen.container.clone()).collect()
        };
        for container in unclear {
            self.inspect(&container).await?;
        }
        Ok(())
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
