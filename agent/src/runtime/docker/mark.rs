//! The mark on an engine: the right to change something there, which at most one epoch has (DESIGN section 3.6, decision 0020).
//!
//! The mark of this machine (`crate::mark`) holds between agents of one machine. An engine may be reached from several, by agents
//! that share nothing but it; so the engine itself shows who acts: volumes without content, one for each epoch. The highest
//! counts. Nothing is changed later than [`FRESH`] after a look that showed our own epoch there.
//!
//! ```text
//! look ─► a higher one: fenced
//!    ├──► none of ours: show it, look again
//!    └──► ours, and one of another store before it: wait until nothing of that can be under way, remove it, look again
//! ```

mod register;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    Docker,
    models::VolumeCreateRequest,
    query_parameters::{ListVolumesOptions, RemoveVolumeOptions},
};
use towline_bus::{clock, clock::Moment};
use towline_protocol::Epoch;

pub(super) use self::register::Entry;
use self::register::{Verdict, judge};
use super::engine::{Engine, QUICK, Refusal};
use crate::mark::Mark;

/// How long a look may be relied on.
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// Between two looks whether the mark still shows, while there is nothing to do: somebody may have tidied up.
const SHOWN: Duration = Duration::from_secs(30);

/// What an older agent began within [`FRESH`] of its last look is over by then: nothing that changes an engine may take longer
/// than [`QUICK`] to be begun.
const OVER: Duration = Duration::from_secs(5 + QUICK.as_secs() + 1);

/// Looks until all is settled: a raise takes three, and each may meet another agent's.
const LOOKS: usize = 8;

/// The marks of one instance on one engine, as this agent sees them.
#[derive(Debug)]
pub(super) struct EngineMark {
    instance: String,
    agents: Mark,
    seen: tokio::sync::Mutex<Seen>,
    /// Under which epoch it acts, and when that was asked.
    acts: Mutex<Option<(Option<Epoch>, Moment)>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Which epoch was seen to be shown last, and when.
    shown: Option<(Option<Epoch>, Moment)>,
    /// The highest epoch that was ever seen there.
    highest: Option<Epoch>,
    /// From when on nothing can be under way of what was before this epoch.
    settled: Option<(Epoch, Moment)>,
}

/// What is to be done now.
enum Next {
    Acts,
    LookAgain,
    Wait(Duration),
}

impl EngineMark {
    pub(super) fn new(instance: String, agents: Mark) -> Self {
        Self { instance, agents, seen: tokio::sync::Mutex::default(), acts: Mutex::default() }
    }

    /// Waits until this agent may change something on `engine`, which takes a moment, or half a minute where it follows upon
    /// an agent with another store. A look is relied on that began less than `age` ago; with none there is another.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when another one may, or that the engine does not answer.
    pub(super) async fn acquire(&self, engine: &Engine, age: Duration) -> Result<(), Refusal> {
        for _ in 0..LOOKS {
            // Not locked while it waits: others may look, and wait, too.
            let next = self.step(engine, age).await?;
            match next {
                Next::Acts => return Ok(()),
                Next::LookAgain => {}
                Next::Wait(time) => tokio::time::sleep(time).await,
            }
        }
        Err(Refusal::Fenced("another agent is just taking over this engine".to_owned()))
    }

    /// Whether the last look may be relied on.
    pub(super) fn is_fresh(&self) -> bool {
        self.acts_since(FRESH)
    }

    fn acts_since(&self, age: Duration) -> bool {
        let own = self.agents.epoch();
        self.acts().is_some_and(|(epoch, asked)| epoch == own && clock::now().since(asked) < age)
    }

    fn acts(&self) -> MutexGuard<'_, Option<(Option<Epoch>, Moment)>> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the epoch of this agent as soon as it has the right, so that an older one stops even while there is nothing to do.
    pub(super) async fn keep(&self, engine: &Engine) -> Result<(), Refusal> {
        let shown = self.seen.lock().await.shown;
        if shown.is_some_and(|(epoch, at)| epoch == self.agents.epoch() && clock::now().since(at) < SHOWN) {
            return Ok(());
        }
        for _ in 0..LOOKS {
            if !matches!(self.step(engine, FRESH).await?, Next::LookAgain) {
                break;
            }
        }
        Ok(())
    }

    async fn step(&self, engine: &Engine, age: Duration) -> Result<Next, Refusal> {
        let locked = tokio::time::timeout(QUICK, self.seen.lock()).await;
        let mut seen =
            locked.map_err(|_| Refusal::Silent("it does not tell who may change it".to_owned()))?;
        let (own, store) = (self.agents.epoch(), self.agents.store());
        let now = clock::now();
        if self.acts_since(age) {
            return Ok(Next::Acts);
        }
        seen.shown = None;
        let found = self.found(engine).await?;
        seen.highest = found.iter().map(|entry| entry.epoch).max().max(seen.highest);
        let verdict = judge(&found, own, store, seen.highest);
        // Until now the last look counted, as long as it may: others have turns by it.
        *self.acts() = (verdict == Verdict::Acts).then_some((own, now));
        match verdict {
            Verdict::Acts => {
                seen.shown = Some((own, now));
                Ok(Next::Acts)
            }
            Verdict::Fenced(epoch) => {
                Err(Refusal::Fenced(format!("another agent acts for this instance: epoch {epoch}")))
            }
            Verdict::Raise(entry) => {
                self.show(engine, entry).await?;
                Ok(Next::LookAgain)
            }
            Verdict::Settle { before, waits } => {
                let settled = match seen.settled.filter(|(epoch, _)| Some(*epoch) == own) {
                    Some((_, settled)) => settled,
                    None => now + if waits { OVER } else { Duration::ZERO },
                };
                seen.settled = own.map(|own| (own, settled));
                if settled > now {
                    return Ok(Next::Wait(settled.since(now)));
                }
                for entry in before {
                    self.remove(engine, entry).await?;
                }
                Ok(Next::LookAgain)
            }
        }
    }

    async fn found(&self, engine: &Engine) -> Result<Vec<Entry>, Refusal> {
        let label = format!("{}={}", register::INSTANCE, self.instance);
        let filters = Some(HashMap::from([("label".to_owned(), vec![label])]));
        let question = async |client: Docker| client.list_volumes(Some(ListVolumesOptions { filters })).await;
        let listed = engine.ask(QUICK, question).await?;
        let volumes = listed.volumes.unwrap_or_default();
        Ok(volumes.iter().filter_map(|volume| Entry::read(&volume.labels, &self.instance)).collect())
    }

    /// Whoever shows the same is us, in an earlier process.
    async fn show(&self, engine: &Engine, entry: Entry) -> Result<(), Refusal> {
        let volume = VolumeCreateRequest {
            name: Some(entry.name(&self.instance)),
            labels: Some(entry.write(&self.instance)),
            ..VolumeCreateRequest::default()
        };
        engine.ask(QUICK, async |client: Docker| client.create_volume(volume).await).await.map(drop)
    }

    async fn remove(&self, engine: &Engine, entry: Entry) -> Result<(), Refusal> {
        let name = entry.name(&self.instance);
        let question = async |client: Docker| client.remove_volume(&name, None::<RemoveVolumeOptions>).await;
        match engine.ask(QUICK, question).await {
            Ok(()) | Err(Refusal::NotFound(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }
}
