//! Direct resources: what `apply` and `sync` brought here, owned by no bundle.
//!
//! ```text
//! apply ─► check ─► converge (plan, step, plan again …) ─► store, with the call's outcome ─► answer
//!                      └─ a failure undoes what this call did, and the definition before it stays in force
//! ```
//!
//! A call ends with its answer and is never repeated later. What *is* done later, where an app says `drift: repair`, is
//! starting units again that were lost behind our back. Work on one resource is serial, on several it is parallel.
//!
//! Deleting what is absent succeeds: what was wanted holds, and a retry of half a sync must not fail on the half that
//! was done.

mod apply;
mod converge;
mod entry;
mod file_looks;
mod generation;
mod gone;
mod health;
mod journal;
mod logs;
mod mends;
mod owned;
mod plan;
mod prove;
mod repair;
mod services;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prometheus::IntCounterVec;
use tokio::sync::{Semaphore, watch};
use towline_bus::{
    clock::{self, Moment},
    subscription::Vitals,
    task::Tasks,
};
use towline_protocol::{
    CallError, Code, Effect, ItemError,
    job::JobKind,
    platform::{Definition, SyncAction},
};

pub(crate) use self::file_looks::EVERY as LOOK_AT_FILES;
pub(crate) use self::logs::on_the_wire;
pub(crate) use self::{apply::Failure, owned::Owned};
use self::{entry::Entry, journal::Journal};
pub use crate::calls::Caller;
use crate::{
    calls::{self, Calls},
    owners::Owners,
    runtime::Runtime,
    store::{Store, StoreError},
};

/// Definitions of one call that are carried out at the same time.
const AT_ONCE: usize = 16;

/// How long work under way may take to be undone or finished when the agent ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Direct resources over a runtime. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Direct {
    inner: Arc<Inner>,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("runtime", &self.inner.runtime).finish_non_exhaustive()
    }
}

struct Inner {
    runtime: Arc<dyn Runtime>,
    store: Arc<Store>,
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
    /// One lock per resource that is being worked on.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    calls: Calls,
    /// What bundles have.
    owners: Owners,
    /// Places for definitions that are carried out after their call has ended.
    later: Semaphore,
    applied: Mutex<[u8; 32]>,
    /// What of that is each bundle's.
    bundles: Mutex<BTreeMap<String, [u8; 32]>>,
    vitals: watch::Sender<Vitals>,
    drift: IntCounterVec,
    file_looks: file_looks::FileLooks,
    /// When repair last looked.
    beat: Mutex<Moment>,
    mends: Mutex<mends::Mends>,
    sightings: Mutex<gone::Sightings>,
    /// What else does not come on, if something does not.
    stalled: OnceLock<Box<dyn Fn(Moment) -> Option<String> + Send + Sync>>,
    tasks: Tasks,
}

impl Direct {
    /// Takes up the resources of `store` on `runtime`, and begins to bring units back that were lost meanwhile, each
    /// counted in `drift` by kind. The files of each app are looked at once in `look_at_files`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(
        store: Arc<Store>,
        runtime: Arc<dyn Runtime>,
        drift: IntCounterVec,
        look_at_files: Duration,
    ) -> Result<Self, StoreError> {
        let resources = store.resources()?;
        let kind = runtime.kind();
        let entries: BTreeMap<String, Arc<Entry>> =
            resources.into_iter().map(|(id, resource)| (id, Arc::new(Entry::read(kind, resource)))).collect();
        let mut applied = [0; 32];
        entries.iter().for_each(|(id, entry)| combine(&mut applied, share(id, entry)));
        let (vitals, _) = watch::channel(vitals(applied));
        let tasks = Tasks::new();
        let inner = Inner {
            runtime,
            calls: Calls::new(Arc::clone(&store), tasks.clone()),
            owners: Owners::default(),
            store,
            entries: Mutex::new(entries),
            locks: Mutex::default(),
            later: Semaphore::new(AT_ONCE),
            applied: Mutex::new(applied),
            bundles: Mutex::default(),
            vitals,
            drift,
            file_looks: file_looks::FileLooks::new(look_at_files),
            beat: Mutex::new(clock::now()),
            mends: Mutex::default(),
            sightings: Mutex::default(),
            stalled: OnceLock::new(),
            tasks,
        };
        let direct = Self { inner: Arc::new(inner) };
        direct.inner.tasks.spawn("drift", repair::run(direct.clone()));
        direct.inner.tasks.spawn("files", file_looks::run(direct.clone()));
        direct.inner.tasks.spawn("health", health::run(direct.clone()));
        Ok(direct)
    }

    /// Applies definitions, and returns when what they define runs (or, where asked so, when they are accepted).
    ///
    /// They are begun in the order of the call, up to sixteen at a time, and none waits for another: what was applied directly
    /// has no order among itself (`dependsOn` is refused outside a bundle), for it may come in any number of calls. What comes of
    /// them is the same each time, whatever their order: errors and exports are by id. Who wants an order has two: a bundle's
    /// declared one, and that of the actions of a [`Direct::sync`].
    ///
    /// Goes on if it is dropped. The same request id is done once: a repetition waits for the same outcome, or is told
    /// it.
    ///
    /// # Errors
    /// [`Code::Cluster`] with an error by id; definitions that are not in it were applied.
    pub async fn apply(&self, caller: &Caller, definitions: &[Definition]) -> Result<(), CallError> {
        let question = calls::question("apply", definitions);
        let (direct, definitions, cancelled) = (self.clone(), definitions.to_vec(), caller.cancelled.clone());
        self.once(caller, JobKind::Apply, question, move |journal| async move {
            direct.apply_all(definitions, journal, cancelled).await
        })
        .await
    }

    /// Runs actions in order: for each, delete, then apply. A failed delete skips its own apply; the rest goes on.
    ///
    /// Goes on if it is dropped; done once, as [`Direct::apply`].
    ///
    /// # Errors
    /// [`Code::Cluster`] with an error by id; actions that are not in it were done.
    pub async fn sync(&self, caller: &Caller, actions: &[SyncAction]) -> Result<(), CallError> {
        let question = calls::question("sync", actions);
        let (direct, actions, cancelled) = (self.clone(), actions.to_vec(), caller.cancelled.clone());
        self.once(caller, JobKind::Sync, question, move |journal| async move {
            direct.sync_all(actions, journal, cancelled).await
        })
        .await
    }

    /// All direct resources, verbatim, as one stream of documents that can be applied again.
    pub fn export(&self) -> Bytes {
        let mut out = Vec::new();
        for entry in self.entries().values().filter(|entry| entry.owner.is_none()) {
            out.extend_from_slice(b"---\n");
            out.extend_from_slice(&entry.resource.definition);
            if !out.ends_with(b"\n") {
                out.push(b'\n');
            }
        }
        out.into()
    }

    /// What heartbeats say: the digest of all that is applied changes whenever a definition does.
    pub fn vitals(&self) -> watch::Receiver<Vitals> {
        self.inner.vitals.subscribe()
    }

    /// Calls under way, of bundles, too: a request id is one call's, whatever it asks.
    pub(crate) fn calls(&self) -> Calls {
        self.inner.calls.clone()
    }

    /// Counts what is carried out of a bundle into the digest of all that is.
    pub(crate) fn tell_applied(&self, bundle: &str, digest: Option<[u8; 32]>) {
        let mut shares = self.inner.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        let share = digest.map(|digest| {
            *blake3::Hasher::new_keyed(&digest).update(bundle.as_bytes()).finalize().as_bytes()
        });
        let before = match share {
            Some(share) => shares.insert(bundle.to_owned(), share),
            None => shares.remove(bundle),
        };
        let mut applied = self.inner.applied.lock().unwrap_or_else(PoisonError::into_inner);
        share.into_iter().chain(before).for_each(|share| combine(&mut applied, share));
        let digest = Bytes::copy_from_slice(&*applied);
        self.inner.vitals.send_modify(|vitals| vitals.applied = digest);
    }

    /// What bundles have, for the engine to say.
    pub(crate) fn owners(&self) -> Owners {
        self.inner.owners.clone()
    }

    /// The runtime underneath.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.inner.runtime
    }

    /// Waits for work under way and ends all tasks; units run on.
    pub async fn close(&self) {
        if !self.inner.tasks.stop(PATIENCE).await {
            tracing::warn!(
                "work on direct resources did not end in time; what it did is settled at the next start"
            );
        }
    }

    /// Does `work` once per request id; what it puts into its journal and its outcome are one transaction.
    async fn once<W, F>(
        &self,
        caller: &Caller,
        kind: JobKind,
        question: String,
        work: W,
    ) -> Result<(), CallError>
    where
        W: FnOnce(Arc<tokio::sync::Mutex<Journal>>) -> F + Send + 'static,
        F: Future<Output = Result<(), CallError>> + Send + 'static,
    {
        let (store, request) = (Arc::clone(&self.inner.store), caller.request.clone());
        let whole = move |key| async move {
            let journal = Arc::new(tokio::sync::Mutex::new(Journal::new(store, kind, request)));
            let outcome = work(Arc::clone(&journal)).await;
            let Some(journal) = Arc::into_inner(journal) else {
                return Err(CallError::unknown_outcome("the call's journal is still in use"));
            };
            let finished = journal.into_inner().finish(key, &outcome).await;
            finished.map_err(|error| error.refusal().with_effect(Effect::Unknown))?;
            outcome.map(|()| None)
        };
        self.inner.calls.once(caller, question, whole).await.map(drop)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts or removes an entry; says whether there was one.
    fn change(&self, id: &str, entry: Option<Arc<Entry>>) -> bool {
        // What a bundle has counts with the bundle.
        let share = |entry: &Arc<Entry>| entry.owner.is_none().then(|| share(id, entry));
        let added = entry.as_ref().and_then(share);
        let mut entries = self.entries();
        let before = match entry {
            Some(entry) => entries.insert(id.to_owned(), entry),
            None => entries.remove(id),
        };
        let removed = before.as_ref().and_then(share);
        // Under the lock of the entries, so that changes are told in their order.
        let mut applied = self.inner.applied.lock().unwrap_or_else(PoisonError::into_inner);
        added.into_iter().chain(removed).for_each(|share| combine(&mut applied, share));
        let digest = Bytes::copy_from_slice(&*applied);
        self.inner.vitals.send_modify(|vitals| vitals.applied = digest);
        before.is_some()
    }

    /// What is known of units that are missing.
    fn sightings(&self) -> MutexGuard<'_, gone::Sightings> {
        self.inner.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        self.entries().get(id).cloned()
    }

    /// Locks one resource. Locks that nobody holds or waits for are forgotten on the way.
    async fn lock(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.inner.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(id.to_owned()).or_default())
        };
        lock.lock_owned().await
    }

    /// Whether work on this resource is under way.
    fn is_busy(&self, id: &str) -> bool {
        let locks = self.inner.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.get(id).is_some_and(|lock| lock.try_lock().is_err())
    }
}

/// The digest of one entry as it counts in the digest of all.
fn share(id: &str, entry: &Entry) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // An id holds no zero byte.
    hasher.update(id.as_bytes()).update(b"\0").update(entry.resource.facts.digest.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The digest of all: every entry's share, combined so that one may change without looking at the others.
fn combine(applied: &mut [u8; 32], share: [u8; 32]) {
    applied.iter_mut().zip(share).for_each(|(sum, byte)| *sum ^= byte);
}

fn vitals(applied: [u8; 32]) -> Vitals {
    Vitals { applied: Bytes::copy_from_slice(&applied), ..Vitals::default() }
}

/// The whole of several results: which failed, and whether anything was done.
fn summary(errors: BTreeMap<String, ItemError>, asked: usize, undone: bool) -> Result<(), CallError> {
    if errors.is_empty() {
        return Ok(());
    }
    let effect = if undone && errors.len() >= asked { Effect::None } else { Effect::Partial };
    let cancelled = errors.values().all(|error| error.code == Code::Cancelled);
    let error = CallError::cluster(errors, effect);
    Err(if cancelled { CallError { code: Code::Cancelled, ..error } } else { error })
}

/// The refusal of something a person wrote.
fn invalid(text: impl Into<String>) -> ItemError {
    ItemError::new(Code::Invalid, text)
}
