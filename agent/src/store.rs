//! What an agent remembers: bundles, jobs, the record of results, direct resources, and the outcomes of mutating calls.
//!
//! One embedded database, `agent.redb`; one transaction per change, durable before anything is answered. One thread
//! writes, and whatever waits for it goes into one transaction. Beside it `identity.json` with the store's id and the last
//! epoch it served under, for a claim must not need an open store; and `agent.lock`, which keeps a second agent out.
//!
//! | table | key → value |
//! |---|---|
//! | `meta` | `store`: its id; `schema`: the layout; `boot`: the boot of the host that all is up since; `epoch`: the last begun |
//! | `direct-definitions`, `direct-facts` | resource id → definition verbatim; what we know of it, as JSON |
//! | `bundles`, `contents` | bundle → its row; bundle and version → documents verbatim |
//! | `workloads`, `workload-definitions` | bundle and workload → its row; the definition that was carried out |
//! | `records` | owner and number → one result; appended, never changed |
//! | `jobs`, `job-numbers`, `open-jobs` | number → job; id → number; numbers of those that have not ended |
//! | `job-notes` | number → what the agent notes of a job that has not ended |
//! | `job-records` | number of job and of record → one step |
//! | `last-changes` | bundle → mark of the last change of its lane, so that none is made twice |
//! | `outcomes`, … | request id → what was answered |

mod disk;
mod file;
mod identity;
pub(crate) mod jobs;
mod lock;
pub(crate) mod once;
pub(crate) mod outcomes;
pub(crate) mod records;
pub(crate) mod rows;
mod schema;
mod writer;

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use towline_bus::clock;
use towline_protocol::{CallError, Code, Epoch, InstanceId, ResourceId, StoreId, WorkloadId, job::Job, wire};

use crate::lock_file::LockFile;

pub(crate) use self::writer::PATIENCE;
use self::{
    disk::Disk,
    file::{File, Opener},
    writer::Writer,
};
pub use self::{
    identity::Identity,
    outcomes::{Outcome, OutcomeKey},
};

/// Definitions, verbatim, by resource id.
const DEFINITIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("direct-definitions");
/// What we know of them, as JSON, by resource id.
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("direct-facts");
/// The owner of resources that no bundle has, in the record; no bundle may be called that.
pub(crate) const DIRECT: &str = "direct";

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Another agent runs on this data directory.
    #[error("{dir} belongs to a running agent (pid {pid}); stop it, or choose another --data-dir")]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// Pid of the other agent, as far as it wrote it down.
        pid: String,
    },
    /// The directory cannot be used.
    #[error("cannot use the data directory {dir}: {source}; it must be writable by this user")]
    Directory {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be read, and could not be set aside either.
    #[error("cannot read {file}: {reason}; move it away to begin with an empty store")]
    Database {
        /// The file.
        file: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// It cannot be opened now, though nothing says that it is damaged. Nothing was changed.
    #[error("cannot open {file}: {reason}; {remedy}")]
    Refused {
        /// The file.
        file: PathBuf,
        /// What the database said.
        reason: String,
        /// What helps.
        remedy: &'static str,
    },
    /// A newer agent made it. Nothing was changed.
    #[error(
        "{file} has layout {found}, and this agent knows {known}: run the agent that made it, or move the file away"
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// The layout that it has.
        found: u64,
        /// The newest layout that this build knows.
        known: u64,
    },
}

/// A change or a look did not succeed. Of a change, nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk, or what is on it.
    #[error("the agent's store failed: {0}")]
    Failed(String),
    /// Too many changes wait for the disk.
    #[error("the agent's store is behind: {0} changes wait for the disk")]
    Behind(usize),
    /// The disk did not answer in time; whether the change is durable is not known.
    #[error("the agent's store did not answer within {0} s")]
    Stalled(u64),
    /// It contradicts itself, so it was not stored: a defect of this agent.
    #[error("the agent's store does not take that: {0}")]
    Unsound(Unsound),
}

/// What no store may hold, for nobody could make sense of it later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// A result whose state this build does not know.
    #[error("found result state {0:?}, allowed are those that this agent knows")]
    State(String),
    /// A result that never was.
    #[error("found a result of {0} without a time")]
    NoTime(String),
    /// A workload that is a resource of another kind.
    #[error("found workload {workload} as resource {resource}, allowed is one of the same kind and name")]
    Kind {
        /// The workload.
        workload: WorkloadId,
        /// The resource that it is said to be.
        resource: ResourceId,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Failed(error.into().to_string())
    }
}

impl StoreError {
    /// As the caller of a change is told: what was asked for was not accepted.
    pub(crate) fn refusal(&self) -> CallError {
        let help = "look at the agent's disk and log, and repeat the call";
        match self {
            Self::Behind(_) => CallError::new(Code::Busy, self.to_string()),
            Self::Failed(_) => CallError::new(Code::Cluster, self.to_string()).with_help(help),
            Self::Unsound(_) => CallError::new(Code::Cluster, self.to_string()),
            Self::Stalled(_) => CallError::unknown_outcome(self.to_string()),
        }
    }
}

/// A direct resource: applied by a call, owned by no bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The definition, byte for byte as submitted.
    pub definition: Bytes,
    /// What we know of it.
    pub facts: Facts,
}

/// What is known of a resource besides its definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// BLAKE3 of the definition, in hex.
    pub digest: String,
    /// Label of the units that carry it out: changes only when they must be replaced.
    pub generation: String,
    /// It was accepted and is not carried out yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// When it was applied, in Unix milliseconds.
    pub applied_ms: u64,
    /// Why the last attempt to carry it out failed, if it did.
    #[serde(default)]
    pub failure: Option<String>,
}

/// One change of one resource.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is (re)defined.
    Put(String, Arc<Resource>),
    /// It is gone.
    Remove(String),
}

/// The store. Reads block for the disk; call them where that is allowed.
#[derive(Debug)]
pub struct Store {
    file: Arc<File>,
    writer: Writer,
    dir: PathBuf,
    id: StoreId,
    set_aside: Option<PathBuf>,
    disk: Arc<Disk>,
    _lock: LockFile,
}

impl Store {
    /// Opens the store in `dir`, made when absent, and locks it until it is dropped or the process ends. One of an older
    /// layout is brought to today's. One that is damaged is set aside whole, and an empty one takes its place; see
    /// [`Store::set_aside`].
    ///
    /// # Errors
    /// That another agent has it, that the directory cannot be used, or that a newer agent made it.
    pub fn open(dir: &Path) -> Result<Self, OpenStoreError> {
        Self::open_with(dir, Opener::default())
    }

    /// As [`Store::open`], for an agent of `instance`: another agent of it that has been stopped for longer than its lease
    /// is killed, for it holds what it can do nothing with. Waits to be sure of that.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_for(dir: &Path, instance: &InstanceId) -> Result<Self, OpenStoreError> {
        Self::open_as(dir, Opener::default(), Some(instance))
    }

    /// As [`Store::open`], over another way to reach the file.
    pub(crate) fn open_with(dir: &Path, opener: Opener) -> Result<Self, OpenStoreError> {
        Self::open_as(dir, opener, None)
    }

    fn open_as(dir: &Path, opener: Opener, instance: Option<&InstanceId>) -> Result<Self, OpenStoreError> {
        let unusable = |source| OpenStoreError::Directory { dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let lock = lock::take(dir, instance)?;
        let (file, id, set_aside) = file::open(dir, opener)?;
        let file = Arc::new(file);
        let disk = Arc::default();
        let writer = Writer::start(Arc::clone(&file), Arc::clone(&disk)).map_err(unusable)?;
        let store = Self { file, writer, dir: dir.to_owned(), id, set_aside, disk, _lock: lock };
        let before = match Identity::read(dir) {
            // The id stands in the database; without the epoch the next claim is one of a new agent.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "the identity beside the store is written anew");
                None
            }
            read => read.map_err(unusable)?,
        };
        // Another store's last epoch says nothing of ours, but epochs never go back, so it does no harm either.
        let last_epoch = before.and_then(|before| before.last_epoch);
        store.write_identity(last_epoch).map_err(unusable)?;
        Ok(store)
    }

    /// Where the store that was found damaged lies now, if it was when this one was opened.
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Runs `look` over one consistent state of the store.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.file.read(look)
    }

    /// Makes one change, all or nothing, together with whatever else waits; durable when it returns. The change must not
    /// fail by itself: an error of one fails all that share its transaction. Once it is queued it is made, also if the
    /// future is dropped.
    ///
    /// # Errors
    /// When the database cannot be written, or too many wait: then nothing has changed. [`StoreError::Stalled`] when
    /// that is not known.
    pub(crate) async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        self.writer.write(work).await
    }

    /// As [`Store::write`], but waits until it is known whether the change was made, however long the disk takes: for who
    /// would otherwise undo in memory what is written all the same.
    ///
    /// # Errors
    /// When the database cannot be written, or too many wait.
    pub(crate) async fn write_out<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        self.writer.write_out(work).await
    }

    /// The store's id, random and made with it.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// The last epoch this store served under.
    pub fn last_epoch(&self) -> Option<Epoch> {
        Identity::read(&self.dir).ok().flatten().and_then(|identity| identity.last_epoch)
    }

    /// Notes the epoch that this store serves under from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_last_epoch(&self, epoch: Epoch) -> io::Result<()> {
        self.write_identity(Some(epoch))
    }

    /// All direct resources, by id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn resources(&self) -> Result<BTreeMap<String, Arc<Resource>>, StoreError> {
        self.read(resources)
    }

    /// Makes `changes` and remembers `outcome`, all or nothing; durable when it returns. Forgets outcomes that are older
    /// than 48 h at `now_ms` (Unix milliseconds), and the oldest when there are too many.
    ///
    /// # Errors
    /// When the database cannot be written, or too many changes wait: then nothing has changed. [`StoreError::Stalled`]
    /// when that is not known.
    pub async fn commit(
        &self,
        changes: Vec<Change>,
        outcome: Option<(OutcomeKey, Outcome)>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.commit_call(changes, outcome, None, now_ms).await
    }

    /// As [`Store::commit`], on behalf of a call: its job is named in the record of each change, and stored when it has
    /// ended.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) async fn commit_call(
        &self,
        changes: Vec<Change>,
        outcome: Option<(OutcomeKey, Outcome)>,
        call: Option<Job>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let work = move |transaction: &WriteTransaction| {
            for change in &changes {
                make(transaction, change)?;
                records::of_direct(transaction, change, call.as_ref().map(|call| call.id), now_ms)?;
            }
            if let Some(ended) = call.filter(|call| call.state.is_terminal()) {
                jobs::add_ended(transaction, ended)?;
            }
            if let Some((key, outcome)) = outcome {
                outcomes::remember(transaction, &key, &outcome, now_ms)?;
            }
            Ok(())
        };
        self.write(work).await
    }

    /// Why the last change was not written, or that one waits for the disk for longer than any should; none when all is well.
    pub fn failure(&self) -> Option<StoreError> {
        self.disk.failure(clock::now())
    }

    /// The remembered outcome of an earlier call with this request id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn outcome(&self, request: &str) -> Result<Option<(OutcomeKey, Outcome)>, StoreError> {
        self.read(|transaction| outcomes::recall(transaction, request))
    }

    fn write_identity(&self, last_epoch: Option<Epoch>) -> io::Result<()> {
        Identity { store: self.id, last_epoch }.write(&self.dir)
    }
}

fn resources(transaction: &ReadTransaction) -> Result<BTreeMap<String, Arc<Resource>>, StoreError> {
    let definitions = transaction.open_table(DEFINITIONS)?;
    let facts = transaction.open_table(FACTS)?;
    let mut resources = BTreeMap::new();
    for entry in definitions.iter()? {
        let (id, definition) = entry?;
        let failed = |why: String| StoreError::Failed(format!("the facts of {} {why}", id.value()));
        let facts = facts.get(id.value())?.ok_or_else(|| failed("are missing".to_owned()))?;
        let facts = serde_json::from_slice(facts.value())
            .map_err(|error| failed(format!("are not readable: {error}")))?;
        let resource = Resource { definition: Bytes::copy_from_slice(definition.value()), facts };
        resources.insert(id.value().to_owned(), Arc::new(resource));
    }
    Ok(resources)
}

pub(crate) fn make(transaction: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    let mut definitions = transaction.open_table(DEFINITIONS)?;
    let mut facts = transaction.open_table(FACTS)?;
    match change {
        Change::Put(id, resource) => {
            definitions.insert(id.as_str(), resource.definition.as_ref())?;
            let json =
                serde_json::to_vec(&resource.facts).map_err(|error| StoreError::Failed(error.to_string()))?;
            facts.insert(id.as_str(), json.as_slice())?;
        }
        Change::Remove(id) => {
            definitions.remove(id.as_str())?;
            facts.remove(id.as_str())?;
        }
    }
    Ok(())
}

/// Notes the boot of the host.
pub(crate) fn note_boot(transaction: &WriteTransaction, boot: &str) -> Result<(), StoreError> {
    transaction.open_table(schema::META)?.insert("boot", boot)?;
    Ok(())
}

/// Notes the epoch that this store was told to go under, with whatever follows from that in the same transaction.
pub(crate) fn note_epoch(transaction: &WriteTransaction, epoch: Epoch) -> Result<(), StoreError> {
    transaction.open_table(schema::META)?.insert("epoch", epoch.to_string().as_str())?;
    Ok(())
}

/// The epoch that this store was told last to go under; none before the first. Unlike [`Store::last_epoch`], which was only
/// reserved, perhaps.
pub(crate) fn noted_epoch(transaction: &ReadTransaction) -> Result<Option<Epoch>, StoreError> {
    let Some(epoch) = transaction.open_table(schema::META)?.get("epoch")? else { return Ok(None) };
    let number = epoch.value().parse().ok().and_then(|number| Epoch::new(number).ok());
    number.map(Some).ok_or_else(|| StoreError::Failed(format!("epoch {:?} is not readable", epoch.value())))
}

/// The boot of the host that was noted last, if one was.
pub(crate) fn noted_boot(transaction: &ReadTransaction) -> Result<Option<String>, StoreError> {
    let boot = transaction.open_table(schema::META)?.get("boot")?;
    Ok(boot.map(|boot| boot.value().to_owned()))
}

/// Reads a value that [`wire::encode`] wrote: named fields, so that builds may add some without a new layout.
fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    wire::decode(bytes).map_err(|error| StoreError::Failed(format!("{what} is not readable: {error}")))
}

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod tests;
