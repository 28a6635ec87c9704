//! Which apps' units change, for those who look after them: they need not wait for their next look.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::broadcast::{self, error::RecvError, error::TryRecvError},
    time::{Instant, sleep, sleep_until},
};

/// Changes that a watcher may be behind; one that is behind by more looks at everything.
const QUEUE: usize = 1_024;
/// Changes that follow each other so closely are one.
const TOGETHER: Duration = Duration::from_millis(100);
/// Between two looks because of changes: what ends as soon as it is started must not keep a processor busy.
const SPACE: Duration = Duration::from_secs(1);

/// Where changes are told. Clones are one.
#[derive(Debug, Clone)]
pub struct Changes(broadcast::Sender<String>);

/// Hears of changes.
#[derive(Debug)]
pub struct Watcher {
    heard: broadcast::Receiver<String>,
    /// When it last told of some.
    last: Option<Instant>,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Units of these apps.
    These(BTreeSet<String>),
    /// Too much to be told one by one.
    Much,
}

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::channel(QUEUE).0)
    }
}

impl Changes {
    /// A unit of `app` has changed.
    pub fn tell(&self, app: &str) {
        // Nobody need be there to hear it.
        self.0.send(app.to_owned()).ok();
    }

    /// Hears of what changes from now on.
    pub fn watch(&self) -> Watcher {
        Watcher { heard: self.0.subscribe(), last: None }
    }
}

impl Watcher {
    /// Waits for a change, and for those that follow it closely; none when there will be no more. Not cancel safe: what was
    /// heard meanwhile is lost, so whoever drops it looks at everything.
    pub async fn next(&mut self) -> Option<Changed> {
        let mut these = BTreeSet::new();
        let mut much = false;
        match self.heard.recv().await {
            Ok(app) => drop(these.insert(app)),
            Err(RecvError::Lagged(_)) => much = true,
            Err(RecvError::Closed) => return None,
        }
        sleep(TOGETHER).await;
        if let Some(last) = self.last {
            sleep_until(last + SPACE).await;
        }
        loop {
            match self.heard.try_recv() {
                Ok(app) => drop(these.insert(app)),
                Err(TryRecvError::Lagged(_)) => much = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        self.last = Some(Instant::now());
        Some(if much { Changed::Much } else { Changed::These(these) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn these(apps: &[&str]) -> Option<Changed> {
        Some(Changed::These(apps.iter().map(|app| (*app).to_owned()).collect()))
    }

    #[tokio::test]
    async fn what_changes_together_is_told_together() {
        let changes = Changes::default();
        let mut watcher = changes.watch();
        ["b", "a", "b"].iter().for_each(|app| changes.tell(app));
        assert_eq!(watcher.next().await, these(&["a", "b"]));
        let begun = Instant::now();
        changes.tell("c");
        assert_eq!(watcher.next().await, these(&["c"]));
        assert!(begun.elapsed() >= SPACE);
        (0..=QUEUE).for_each(|_| changes.tell("d"));
        assert_eq!(watcher.next().await, Some(Changed::Much));
        drop(changes);
        assert_eq!(watcher.next().await, None);
    }
}
