//! Whether the files of apps are as declared: looked at from time to time, and mended where an app says `drift: repair`.
//!
//! A look reads each file, so it is not part of repair, which looks every few seconds. Who wants it now applies the
//! definition again, or has a bundle retried. A unit runs on while its files are mended: it read what was declared when it
//! started, and an app that writes to its own file must not be restarted for that over and over.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use towline_bus::{clock, clock::Moment};
use towline_protocol::Name;

use super::{Direct, entry::Entry};
use crate::{
    manifest::Drift,
    runtime::{Astray, RuntimeError, UnitSpec},
};

/// Between two looks at the files of one app, unless configured otherwise.
pub(crate) const EVERY: Duration = Duration::from_secs(300);

/// Between two looks for apps that are due.
const LOOK: Duration = Duration::from_secs(1);

/// Apps whose files are looked at at the same time: it is no hurry, and disks and engines have other work.
const AT_ONCE: usize = 4;

/// Files named in a sentence; of more, only how many they are.
const NAMED: usize = 3;

/// What is known of the files of all apps.
#[derive(Debug)]
pub(super) struct FileLooks {
    every: Duration,
    apps: Mutex<BTreeMap<String, Looked>>,
    /// Somebody does not want to wait.
    asked: Notify,
}

/// What is known of the files of one app.
#[derive(Debug, Clone)]
struct Looked {
    /// When to look again.
    due: Moment,
    drift: Option<String>,
}

impl FileLooks {
    /// Looks at each app once in `every`.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, apps: Mutex::default(), asked: Notify::new() }
    }

    /// How files of an app differ from its definition, as of the last look; none if they do not.
    pub(super) fn drift(&self, id: &str) -> Option<String> {
        self.apps().get(id)?.drift.clone()
    }

    fn apps(&self) -> MutexGuard<'_, BTreeMap<String, Looked>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a look has found; says whether that is new.
    pub(super) fn note(&self, id: &str, drift: Option<String>, now: Moment) -> bool {
        let looked = Looked { due: now + self.every, drift: drift.clone() };
        let before = self.apps().insert(id.to_owned(), looked).and_then(|before| before.drift);
        drift.is_some() && before.is_none()
    }

    /// Puts the next look off: this one could not be.
    fn put_off(&self, id: &str, now: Moment) {
        if let Some(looked) = self.apps().get_mut(id) {
            looked.due = now + self.every;
        }
    }

    /// Of `present`, those whose time has come; whatever else was known is forgotten.
    fn due(&self, present: Vec<String>, now: Moment) -> Vec<String> {
        let mut apps = self.apps();
        let known = std::mem::take(&mut *apps);
        let mut due = Vec::new();
        for id in present {
            let looked = known.get(&id).cloned().unwrap_or(Looked { due: now, drift: None });
            if looked.due <= now {
                due.push(id.clone());
            }
            apps.insert(id, looked);
        }
        due
    }

    fn look_now(&self, wanted: impl Fn(&str) -> bool, now: Moment) {
        let mut apps = self.apps();
        apps.iter_mut().filter(|(id, _)| wanted(id)).for_each(|(_, looked)| looked.due = now);
        drop(apps);
        self.asked.notify_one();
    }
}

/// Looks until the agent ends.
pub(super) async fn run(direct: Direct) {
    let stopping = direct.inner.tasks.stopping().clone();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = async || {
        tokio::select! {
            _ = ticks.tick() => {}
            () = direct.inner.file_looks.asked.notified() => {}
        }
    };
    while stopping.run_until_cancelled(due()).await.is_some() {
        let due = direct.inner.file_looks.due(direct.apps_with_files(), clock::now());
        let looks = due.into_iter().map(|id| {
            let direct = direct.clone();
            async move { direct.look_at_files(&id).await }
        });
        let all = stream::iter(looks).buffer_unordered(AT_ONCE).collect::<Vec<()>>();
        all.await;
    }
}

impl Direct {
    /// Has the files of a bundle's apps looked at without waiting for their time.
    pub(crate) fn look_at_files_of(&self, bundle: &Name) {
        let owned = |entry: &Entry| entry.owner.as_ref() == Some(bundle);
        let of_bundle: Vec<String> =
            self.entries().iter().filter(|(_, entry)| owned(entry)).map(|(id, _)| id.clone()).collect();
        self.inner.file_looks.look_now(|id| of_bundle.iter().any(|owned| owned == id), clock::now());
    }

    /// How files of an app differ from its definition, as of the last look; none if they do not.
    pub(crate) fn file_drift(&self, id: &str) -> Option<String> {
        self.inner.file_looks.drift(id)
    }

    fn apps_with_files(&self) -> Vec<String> {
        let entries = self.entries();
        entries
            .iter()
            .filter(|(_, entry)| spec_to_look_at(entry).is_some())
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Looks at the files of one app, and mends them if they are to be. One that is worked on has its turn later.
    async fn look_at_files(&self, id: &str) {
        if self.is_busy(id) || self.inner.tasks.stopping().is_cancelled() {
            return;
        }
        let _lock = self.lock(id).await;
        let Some((entry, spec)) =
            self.entry(id).and_then(|entry| Some((entry.clone(), spec_to_look_at(&entry)?)))
        else {
            return;
        };
        // It cannot be told while the runtime does not answer; as soon as it does, it is.
        if self.inner.runtime.trouble(id, spec.manifest.spec.host()).is_some() {
            return;
        }
        let looks = &self.inner.file_looks;
        let found = match self.inner.runtime.look_at_files(&spec).await {
            Ok(found) => found,
            // Then the units are unknown, and what was known of their files stays so.
            Err(error @ RuntimeError::Unknown { .. }) => {
                tracing::debug!(id, %error, "its files are looked at when the runtime answers");
                return looks.put_off(id, clock::now());
            }
            Err(error) => return self.note_unreadable(id, &error),
        };
        let drift = (!found.is_empty()).then(|| sentence(&found));
        if looks.note(id, drift.clone(), clock::now()) {
            self.inner.drift.with_label_values(&["files"]).inc();
            tracing::warn!(id, drift, "files are not as declared");
        }
        let (Some(drift), true) = (drift, repairs(&entry)) else { return };
        // Whoever acts here may have meant them to be as they are.
        if self.inner.runtime.mark().may_act().await.is_err() {
            return;
        }
        // Restoring notes that they are sound.
        if let Err(error) = self.restore_files(id, &spec).await {
            let drift = format!("{drift}; it cannot be mended: {}", error.message);
            tracing::warn!(id, error = error.message, "files cannot be mended");
            looks.note(id, Some(drift), clock::now());
        }
    }

    /// Nobody knows whether they are as declared, so they are not taken for sound.
    fn note_unreadable(&self, id: &str, error: &RuntimeError) {
        if self.inner.file_looks.note(id, Some(format!("files cannot be looked at: {error}")), clock::now()) {
            self.inner.drift.with_label_values(&["files"]).inc();
            tracing::warn!(id, %error, "files cannot be looked at");
        }
    }
}

/// What its files are to be; none where it has none, or nobody is to touch them.
fn spec_to_look_at(entry: &Entry) -> Option<UnitSpec> {
    let spec = entry.unit_spec()?;
    (!entry.paused && !entry.resource.facts.pending && !spec.manifest.spec.files.is_empty()).then_some(spec)
}

fn repairs(entry: &Entry) -> bool {
    entry.manifest.as_ref().is_ok_and(|manifest| manifest.spec.drift == Drift::Repair)
}

/// What is astray, for people.
fn sentence(found: &[Astray]) -> String {
    let mut named: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
    if found.len() > NAMED {
        named.push(format!("and {} more", found.len() - NAMED));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::How;

    fn at(seconds: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn each_is_looked_at_in_its_time_or_when_somebody_asks() {
        let looks = FileLooks::new(Duration::from_secs(300));
        let all = || vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(looks.due(all(), at(10)), all(), "nothing is known of them");
        assert!(looks.note("a", Some("x".to_owned()), at(10)));
        assert!(!looks.note("a", Some("y".to_owned()), at(11)), "it has drifted already");
        assert!(!looks.note("b", None, at(10)));
        assert_eq!(looks.due(all(), at(12)), Vec::<String>::new());
        assert_eq!(looks.drift("a").as_deref(), Some("y"));
        looks.look_now(|id| id == "b", at(13));
        assert_eq!(looks.due(all(), at(13)), ["b"]);
        looks.put_off("b", at(13));
        assert_eq!(looks.due(all(), at(312)), ["a"]);
        assert_eq!(looks.due(all(), at(313)), all());
        assert_eq!(looks.due(vec!["b".to_owned()], at(313)), ["b"]);
        assert_eq!(looks.drift("a"), None, "what is gone is forgotten");
    }

    #[test]
    fn what_is_astray_is_told_without_what_is_in_it() {
        let astray = |number: u32| Astray {
            unit: "web-1".to_owned(),
            path: format!("/etc/{number}").into(),
            how: How::Content,
        };
        let found: Vec<Astray> = (0..5).map(astray).collect();
        assert_eq!(sentence(&found[..1]), "/etc/0 of web-1 has other content");
        assert!(sentence(&found).ends_with("/etc/2 of web-1 has other content, and 2 more"));
    }
}
