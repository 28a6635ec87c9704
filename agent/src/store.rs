//! What an agent remembers: direct resources, and the outcomes of mutating calls.
//!
//! One embedded database, `agent.redb`; one transaction per change, durable before anything is answered. Beside it
//! `identity.json` with the store's id and the last epoch it served under, for a claim must not need an open store; and
//! `agent.lock`, which keeps a second agent out.

mod identity;
mod lock;
mod outcomes;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use towline_protocol::{Epoch, StoreId};

use self::lock::Lock;
pub use self::{
    identity::Identity,
    outcomes::{Outcome, OutcomeKey},
};

/// Definitions, verbatim, by resource id.
const DEFINITIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("direct-definitions");
/// What we know of them, as JSON, by resource id.
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("direct-facts");
/// The store's id, once.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

/// Memory that the database may keep pages in: an idle agent has 25 MiB in all.
const CACHE: usize = 2 * 1024 * 1024;

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
    /// The database cannot be read.
    #[error("cannot read {file}: {reason}; move it away to begin with an empty store")]
    Database {
        /// The file.
        file: PathBuf,
        /// What the database said.
        reason: String,
    },
}

/// A change or a look did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the agent's store failed: {0}")]
pub struct StoreError(String);

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

impl StoreError {
    /// The thread that wrote did not come back.
    pub(crate) fn interrupted() -> Self {
        Self("a write was interrupted".to_owned())
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

/// The store. Its calls block for a disk write; call them where that is allowed.
#[derive(Debug)]
pub struct Store {
    database: Database,
    dir: PathBuf,
    id: StoreId,
    /// Why the last change was not written, if it was not.
    failure: Mutex<Option<StoreError>>,
    _lock: Lock,
}

impl Store {
    /// Opens the store in `dir`, made when absent, and locks it until it is dropped or the process ends.
    ///
    /// # Errors
    /// That another agent has it, that the directory cannot be used, or that the database is damaged.
    pub fn open(dir: &Path) -> Result<Self, OpenStoreError> {
        let unusable = |source| OpenStoreError::Directory { dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let lock = Lock::take(dir)?;
        let file = dir.join("agent.redb");
        let damaged = |error: redb::Error| match error {
            redb::Error::Io(source) if source.kind() != io::ErrorKind::InvalidData => unusable(source),
            other => OpenStoreError::Database { file: file.clone(), reason: other.to_string() },
        };
        let database =
            Database::builder().set_cache_size(CACHE).create(&file).map_err(|error| damaged(error.into()))?;
        let id = store_id(&database).map_err(damaged)?;
        // Definitions may hold secrets.
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(unusable)?;
        let store = Self { database, dir: dir.to_owned(), id, failure: Mutex::default(), _lock: lock };
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
        let transaction = self.database.begin_read()?;
        let definitions = transaction.open_table(DEFINITIONS)?;
        let facts = transaction.open_table(FACTS)?;
        let mut resources = BTreeMap::new();
        for entry in definitions.iter()? {
            let (id, definition) = entry?;
            let facts =
                facts.get(id.value())?.ok_or_else(|| StoreError(format!("no facts of {}", id.value())))?;
            let facts = serde_json::from_slice(facts.value()).map_err(|error| {
                StoreError(format!("the facts of {} are not readable: {error}", id.value()))
            })?;
            let resource = Resource { definition: Bytes::copy_from_slice(definition.value()), facts };
            resources.insert(id.value().to_owned(), Arc::new(resource));
        }
        Ok(resources)
    }

    /// Makes `changes` and remembers `outcome`, all or nothing; durable when it returns. Forgets outcomes that are older
    /// than 48 h at `now_ms` (Unix milliseconds), and the oldest when there are too many.
    ///
    /// # Errors
    /// When the database cannot be written: then nothing has changed.
    pub fn commit(
        &self,
        changes: &[Change],
        outcome: Option<(&OutcomeKey, &Outcome)>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let written = self.write(changes, outcome, now_ms);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = written.clone().err();
        written
    }

    /// Why the last change was not written; none when it was.
    pub fn failure(&self) -> Option<StoreError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(
        &self,
        changes: &[Change],
        outcome: Option<(&OutcomeKey, &Outcome)>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        for change in changes {
            make(&transaction, change)?;
        }
        if let Some((key, outcome)) = outcome {
            outcomes::remember(&transaction, key, outcome, now_ms)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The remembered outcome of an earlier call with this request id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn outcome(&self, request: &str) -> Result<Option<(OutcomeKey, Outcome)>, StoreError> {
        outcomes::recall(&self.database.begin_read()?, request)
    }

    fn write_identity(&self, last_epoch: Option<Epoch>) -> io::Result<()> {
        Identity { store: self.id, last_epoch }.write(&self.dir)
    }
}

fn make(transaction: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    let mut definitions = transaction.open_table(DEFINITIONS)?;
    let mut facts = transaction.open_table(FACTS)?;
    match change {
        Change::Put(id, resource) => {
            definitions.insert(id.as_str(), resource.definition.as_ref())?;
            let json = serde_json::to_vec(&resource.facts).map_err(|error| StoreError(error.to_string()))?;
            facts.insert(id.as_str(), json.as_slice())?;
        }
        Change::Remove(id) => {
            definitions.remove(id.as_str())?;
            facts.remove(id.as_str())?;
        }
    }
    Ok(())
}

/// Reads the id, or makes it, and every table with it, so that readers find them.
fn store_id(database: &Database) -> Result<StoreId, redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(DEFINITIONS)?;
    transaction.open_table(FACTS)?;
    outcomes::open(&transaction)?;
    let id = {
        let mut meta = transaction.open_table(META)?;
        let known = meta.get("store")?.map(|id| id.value().parse());
        match known {
            Some(Ok(id)) => id,
            Some(Err(error)) => return Err(redb::Error::Corrupted(format!("the store's id: {error}"))),
            None => {
                let id = StoreId::new(uuid::Uuid::new_v4());
                meta.insert("store", id.to_string().as_str())?;
                id
            }
        }
    };
    transaction.commit()?;
    Ok(id)
}

#[cfg(test)]
mod tests;
