//! The mark: the right to act on this host (DESIGN section 3.6, decision 0014).
//!
//! An epoch says who is heard; the mark says who may change what runs here. It is a file that every agent of the instance on
//! this host shares, and shows the highest epoch that acted. Each change is made in a *turn*: a shared lock, under which the
//! mark is read. Whoever raises the mark writes it first, so that no older epoch begins anything any more, and then waits
//! until all turns have ended; a holder that is frozen in the middle of one is killed.
//!
//! ```text
//! go for epoch 7 ─► prepare ─► raise: write 7, wait for turns ─► settle ─► acts
//!                                 └─ 8 is shown already ─► waits: "another agent acts for this instance: epoch 8"
//! ```

mod file;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use towline_bus::clock;
use towline_protocol::{CallError, Code, Epoch, InstanceId, ItemError, StoreId};

use self::{file::Place, rules::Shown};
pub(crate) use self::{
    file::Turn,
    rules::{Right, right},
};
use crate::holder::{Holder, Stopped};

/// The longest that one turn takes: a unit may take 30 s to start, its supervisor before it 10 s to go, and disks are slow.
const TURN_MAX: Duration = Duration::from_secs(45);
/// What is added before a holder is taken for stuck that is not stopped: nothing that takes its time is to be killed.
const MARGIN: Duration = Duration::from_secs(5);
/// How long a holder that was killed may take to let go.
const DYING: Duration = Duration::from_secs(5);
/// Between two looks whether all turns have ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long to ask for a turn while somebody waits for all to end; that is over in a moment, unless they froze in it.
const ASKING: Duration = Duration::from_secs(10);
/// How long a call waits for an agent that prepares to act.
const PREPARING: Duration = Duration::from_secs(10);

/// The directory of marks cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the directory of marks {dir}: {source}; choose another --mark-dir, the same for every agent of this instance on this host"
)]
pub struct OpenMarkError {
    dir: PathBuf,
    source: io::Error,
}

/// What a mark tells those who only look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// The data directory of the agent that raised it, where it says so.
    pub(crate) home: Option<PathBuf>,
    /// That agent, or one that acted before it, runs.
    pub(crate) is_held: bool,
}

/// What the mark in the file `path` tells; none if it is none.
pub(crate) fn tell(path: &Path) -> Option<Told> {
    let shown = Shown::read(&std::fs::read(path).ok()?).ok()?;
    let is_held = std::iter::once(&shown.holder).chain(&shown.before).any(|holder| holder.find().is_some());
    Some(Told { home: shown.home, is_held })
}

/// Reads a mark and writes it again: as it stands, and as another holder leaves it that raises it by one epoch.
pub(crate) fn reread(text: &[u8]) -> Option<[Vec<u8>; 2]> {
    let shown = Shown::read(text).ok()?;
    let me = Holder { pid: shown.holder.pid.wrapping_add(1), ..shown.holder.clone() };
    let next = shown.epoch.get().checked_add(1).and_then(|next| Epoch::new(next).ok());
    let raised = next.and_then(|next| rules::raised(Some(shown.clone()), next, shown.store, &me).ok());
    Some([shown.write().ok()?, raised.and_then(|raised| raised.write().ok()).unwrap_or_default()])
}

/// This agent may not act; nothing was done. The sentence says who may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Fenced(String);

impl From<Fenced> for ItemError {
    fn from(Fenced(why): Fenced) -> Self {
        Self::new(Code::Fenced, why)
    }
}

/// Why a mark was not raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RaiseError {
    /// It shows a higher epoch.
    #[error("another agent acts for this instance: epoch {0}")]
    Above(Epoch),
    /// It cannot be read or written, or somebody does not let go.
    #[error("{0}")]
    Failed(String),
}

/// How this agent stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Acts,
    /// It was told to act, and makes sure that nobody else does.
    Prepares(Epoch),
    /// It may not; why.
    Waits(String),
}

/// The mark of one instance on this host, as one agent sees it. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Mark {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    me: Holder,
    store: StoreId,
    /// The data directory of the store.
    home: Option<PathBuf>,
    /// The epoch that the store served under when it was opened.
    served: Option<Epoch>,
    /// The epoch that this process acts under, once it has made sure that nobody older does.
    held: Mutex<Option<Epoch>>,
    standing: watch::Sender<Standing>,
}

impl Mark {
    /// The mark of `instance` in `dir`, made when absent, for an agent whose `store` was told to go last under `served`. If
    /// the mark is not above that, the agent acts under it: nobody else has acted since.
    ///
    /// Waits for the disk, and for a holder of that epoch or an older one that is in the middle of an operation.
    ///
    /// # Errors
    /// When the directory cannot be used. A mark that is not readable is none: nobody acts, and the calls say so.
    pub fn open(
        dir: &Path,
        instance: &InstanceId,
        store: StoreId,
        served: Option<Epoch>,
    ) -> Result<Self, OpenMarkError> {
        Self::open_from(dir, instance, store, served, None)
    }

    /// As [`Mark::open`], for an agent whose store is in the data directory `home`: the mark says so, for whoever wonders later
    /// whose it was.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open_from(
        dir: &Path,
        instance: &InstanceId,
        store: StoreId,
        served: Option<Epoch>,
        home: Option<&Path>,
    ) -> Result<Self, OpenMarkError> {
        let unusable = |source| OpenMarkError { dir: dir.to_owned(), source };
        let place = Place::make(dir, instance).map_err(unusable)?;
        let me = Holder::me(Some(instance.to_string()));
        let (standing, _) = watch::channel(Standing::Acts);
        let home = home.and_then(|home| home.canonicalize().ok());
        let inner = Inner { place, me, store, home, served, held: Mutex::default(), standing };
        inner.look_again();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether it can be told who acts: for a look at a configuration.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn check(dir: &Path, instance: &InstanceId) -> Result<(), String> {
        let place = Place::make(dir, instance);
        let unusable = |source| OpenMarkError { dir: dir.to_owned(), source }.to_string();
        place.map_err(unusable)?.read().map(drop)
    }

    /// The data directory of the agent that acts by it, where that is known.
    pub(crate) fn home(&self) -> Option<&Path> {
        self.inner.home.as_deref()
    }

    /// The epoch that this process acts under; none while nobody has told it to.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        *self.inner.held()
    }

    /// The store that it acts from.
    pub(crate) fn store(&self) -> StoreId {
        self.inner.store
    }

    /// A turn to change something. Cancel safe.
    ///
    /// # Errors
    /// That this agent may not act.
    pub(crate) async fn turn(&self) -> Result<Turn, Fenced> {
        let begun = clock::now();
        loop {
            if let Some(turn) = self.aside(Inner::try_turn).await? {
                return Ok(turn);
            }
            if clock::now().since(begun) > ASKING {
                let held = self.inner.place.turns();
                return Err(Fenced(format!("{} does not come free for a turn", held.display())));
            }
            tokio::time::sleep(LOOK / 4).await;
        }
    }

    /// Waits until this agent acts. Cancel safe.
    pub(crate) async fn acts(&self) {
        let mut standing = self.inner.standing.subscribe();
        loop {
            standing.mark_unchanged();
            if self.may_act().await.is_ok() || standing.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether it acts, by what is shown now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn may_act(&self) -> Result<(), Fenced> {
        self.aside(|inner| {
            inner.look_again();
            inner.why_not().map_or(Ok(()), |why| Err(Fenced(why)))
        })
        .await
    }

    /// Whether it acted when it was looked at last.
    pub(crate) fn acted(&self) -> bool {
        *self.inner.standing.borrow() == Standing::Acts
    }

    /// Why it does not act, if it does not, as of the last look.
    pub(crate) fn why_not(&self) -> Option<String> {
        self.inner.why_not()
    }

    /// Whether a call that changes something may begin. Waits a while for an agent that prepares to act.
    ///
    /// # Errors
    /// [`Code::Fenced`] or [`Code::Busy`]: nothing was done.
    pub(crate) async fn permit(&self) -> Result<(), CallError> {
        let mut standing = self.inner.standing.subscribe();
        let settled = standing.wait_for(|standing| !matches!(standing, Standing::Prepares(_)));
        if tokio::time::timeout(PREPARING, settled).await.is_err() {
            let why = self.why_not().unwrap_or_default();
            return Err(CallError::new(Code::Busy, why).with_help("repeat the call in a while"));
        }
        self.may_act().await.map_err(|Fenced(why)| CallError::new(Code::Fenced, why))
    }

    /// Nothing is begun from here on until the mark is raised to `epoch`, and [`Mark::settle`] says that all is prepared.
    pub(crate) fn prepare(&self, epoch: Epoch) {
        self.inner.standing.send_replace(Standing::Prepares(epoch));
    }

    /// Raises the mark to `epoch`. On return nobody older acts any more, nor will again. Waits for the disk, and for turns
    /// under way; whoever is frozen in one is killed.
    ///
    /// # Errors
    /// That a higher epoch is shown, or what is in the way; it can be tried again.
    pub(crate) fn raise(&self, epoch: Epoch) -> Result<(), RaiseError> {
        self.inner.raise(epoch)
    }

    /// It is prepared: acts, if nobody raised the mark further meanwhile. Not if it was told of a newer epoch than `epoch`.
    pub(crate) async fn settle(&self, epoch: Epoch) {
        self.aside(move |inner| {
            let standing = inner.standing_now();
            inner.standing.send_if_modified(|now| {
                let due = *now == Standing::Prepares(epoch);
                if due {
                    *now = standing;
                }
                due
            });
        })
        .await;
    }

    /// Does what waits for the disk on a thread for such things.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        match done.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends, and whoever waits with it.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

fn shown_epoch(mark: Option<&Shown>) -> Option<Epoch> {
    mark.map(|mark| mark.epoch)
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Option<Epoch>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_not(&self) -> Option<String> {
        match &*self.standing.borrow() {
            Standing::Acts => None,
            Standing::Prepares(epoch) => {
                Some(format!("this agent is about to act under epoch {epoch}: it waits for what came before"))
            }
            Standing::Waits(why) => Some(why.clone()),
        }
    }

    /// How it stands by what is shown now, unless it prepares.
    fn standing_now(&self) -> Standing {
        match self.place.read() {
            Err(why) => Standing::Waits(why),
            Ok(mark) => match right(shown_epoch(mark.as_ref()), *self.held()) {
                Right::Acts => Standing::Acts,
                Right::Fenced(epoch) => {
                    Standing::Waits(format!("another agent acts for this instance: epoch {epoch}"))
                }
            },
        }
    }

    /// Looks at the mark, and takes up what the store served under, if nobody has acted since.
    fn look_again(&self) {
        if let Some(served) = self.served.filter(|_| self.held().is_none()) {
            let mark = self.place.read();
            if mark.is_ok_and(|mark| right(shown_epoch(mark.as_ref()), Some(served)) == Right::Acts)
                && let Err(error) = self.raise(served)
            {
                tracing::error!(%error, "this agent cannot act yet");
            }
        }
        let standing = self.standing_now();
        self.standing.send_if_modified(|now| {
            let changed = !matches!(now, Standing::Prepares(_)) && *now != standing;
            if changed {
                match &standing {
                    Standing::Waits(why) => tracing::warn!(why, "units run on, and nothing is changed"),
                    _ => tracing::info!("this agent acts"),
                }
                *now = standing;
            }
            changed
        });
    }

    fn try_turn(&self) -> Result<Option<Turn>, Fenced> {
        let failed = |error: io::Error| {
            Fenced(format!(
                "cannot use {}: {error}; look at the directory of marks",
                self.place.turns().display()
            ))
        };
        let Some(turn) = self.place.turn().map_err(failed)? else { return Ok(None) };
        match self.place.read().map(|mark| right(shown_epoch(mark.as_ref()), *self.held())) {
            Ok(Right::Acts) => Ok(Some(turn)),
            Ok(Right::Fenced(epoch)) => {
                Err(Fenced(format!("another agent acts for this instance: epoch {epoch}")))
            }
            Err(why) => Err(Fenced(why)),
        }
    }

    fn raise(&self, epoch: Epoch) -> Result<(), RaiseError> {
        let failed = RaiseError::Failed;
        let (mark, alone_until_now) = {
            let _alone = self.place.alone(&self.me).map_err(failed)?;
            let shown = self.place.read().map_err(failed)?;
            let mut held = self.held();
            let acted = right(shown_epoch(shown.as_ref()), *held) == Right::Acts;
            // Whoever was older was waited for when that epoch was raised, and has been kept out since.
            let alone_until_now = acted && held.is_some();
            let mark = rules::raised(shown, epoch, self.store, &self.me).map_err(RaiseError::Above)?;
            let mark = Shown { home: self.home.clone(), ..mark };
            if acted {
                // What is under way here goes on: it was ours to do, and is.
                *held = Some(epoch);
            }
            drop(held);
            self.write(&mark)?;
            (mark, alone_until_now)
        };
        if !alone_until_now {
            self.wait_for_turns(&mark)?;
        }
        let _alone = self.place.alone(&self.me).map_err(failed)?;
        match self.place.read().map_err(failed)? {
            Some(shown) if shown.epoch > epoch => return Err(RaiseError::Above(shown.epoch)),
            Some(shown) if shown == mark && !mark.before.is_empty() => {
                // None of them has a turn any more, so none of them need ever be killed for one.
                self.write(&Shown { before: Vec::new(), ..mark })?;
            }
            _ => {}
        }
        *self.held() = Some(epoch);
        Ok(())
    }

    fn write(&self, mark: &Shown) -> Result<(), RaiseError> {
        let failed = |error| RaiseError::Failed(format!("the mark cannot be written: {error}"));
        self.place.write(mark).map_err(failed)
    }

    /// Waits until nobody has a turn that was begun before `mark` was shown.
    #[expect(clippy::disallowed_methods, reason = "it is called where waiting for the disk is allowed")]
    fn wait_for_turns(&self, mark: &Shown) -> Result<(), RaiseError> {
        let failed = |error: io::Error| {
            RaiseError::Failed(format!("cannot use {}: {error}", self.place.turns().display()))
        };
        let begun = clock::now();
        let mut before: Vec<(&Holder, Stopped)> =
            mark.before.iter().map(|holder| (holder, Stopped::default())).collect();
        while !self.place.is_quiet().map_err(failed)? {
            let now = clock::now();
            let stuck = now.since(begun) > TURN_MAX + MARGIN;
            before.retain_mut(|(holder, stopped)| {
                let is_stopped = holder.find().is_some_and(|process| process.stopped);
                let goes = stopped.seen(is_stopped, now) || stuck;
                if goes && holder.instance == self.me.instance {
                    tracing::warn!(
                        pid = holder.pid,
                        "who acted before is frozen in an operation; killing it"
                    );
                    if let Err(error) = holder.kill() {
                        tracing::error!(pid = holder.pid, %error, "it cannot be killed");
                    }
                }
                !goes
            });
            if now.since(begun) > TURN_MAX + MARGIN + DYING {
                return Err(RaiseError::Failed(format!(
                    "somebody unknown does not let go of {}: find it (fuser names it) and end it",
                    self.place.turns().display()
                )));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}
