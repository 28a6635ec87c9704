//! What the hub remembers: one redb file, `hub.redb`, in its data directory.
//!
//! | table | key → value |
//! |---|---|
//! | `meta` | name → number; `schema` is the version of this layout |
//! | `epochs` | instance → highest reserved epoch, active grant |
//! | `instances` | instance → its record |
//! | `events` | sequence → event |
//! | `event_ids` | (instance, epoch, kind, heartbeat) → sequence, so that each event is written once |
//! | `pins` | (instance, request id) → the store that saw the first attempt, and when |
//! | `pins_by_age` | (when, instance, request id) → nothing: the order in which pins go |
//!
//! Values are MessagePack with named fields, as on the wire, so a newer build adds fields without a new schema. All
//! writes go through one thread that commits what waits together; reads run on the blocking pool, but for who is active,
//! which every renewal asks: that is kept in memory.

mod epochs;
mod events;
mod instances;
mod pins;
mod writer;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use towline_protocol::wire;

use crate::data_dir::{ClaimDataDirError, DataDir};
use crate::limits;

use epochs::ActiveGrants;
pub use events::{EventFilter, EventPage, StoredEvent};
pub use instances::{InstanceRecord, Origin};
pub use pins::Pin;
use writer::Writer;

/// The version of the tables' layout.
const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SCHEMA_KEY: &str = "schema";

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, Error)]
pub enum OpenStoreError {
    /// The directory cannot be this hub's.
    #[error(transparent)]
    DataDir(#[from] ClaimDataDirError),
    /// The file is there, and cannot be read as a store.
    #[error(
        "the store `{}` cannot be opened ({reason}): restore it from a backup, or move it away; epochs begin at the \
         present time then, so agents come back all the same",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// Another build made it.
    #[error(
        "the store `{}` has layout {found}, and this build knows {SCHEMA}: run the build that made it, or restore a \
         backup of layout {SCHEMA}",
        path.display()
    )]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// The layout that it has.
        found: u64,
    },
}

/// Why the store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// It failed before anything was written.
    #[error("the hub's store failed: {reason}")]
    Failed {
        /// What the database said.
        reason: String,
    },
    /// It failed while it was committing: nobody knows whether the write is durable.
    #[error("the hub's store failed while committing: {reason}")]
    Unknown {
        /// What the database said.
        reason: String,
    },
    /// It is closed, because the hub stops.
    #[error("the hub's store is closed: the hub stops")]
    Closed,
}

impl StoreError {
    fn failed(reason: impl std::fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string() }
    }
}

macro_rules! from_redb {
    ($($error:ty),+) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::failed(error)
            }
        })+
    };
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError);

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<Path>,
    open: Arc<Mutex<Option<Open>>>,
    active: Arc<ActiveGrants>,
}

/// What is there while the store is open. The lock on the directory goes last.
#[derive(Debug)]
struct Open {
    database: Arc<Database>,
    writer: Writer,
    _data_dir: DataDir,
}

impl Store {
    /// Opens the store of a data directory, and makes both if they are not there. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory is not writable or belongs to a running hub, or the file is not a store of this layout.
    pub fn open(data_dir: &Path) -> Result<Self, OpenStoreError> {
        let data_dir = DataDir::claim(data_dir)?;
        let path = data_dir.path().join("hub.redb");
        let database = open_database(&path)?;
        check_schema(&database, &path)?;
        let active = ActiveGrants::read(&database)
            .map_err(|error| OpenStoreError::Unreadable { path: path.clone(), reason: error.to_string() })?;
        let database = Arc::new(database);
        let writer = Writer::start(Arc::clone(&database))
            .map_err(|error| OpenStoreError::Unreadable { path: path.clone(), reason: error.to_string() })?;
        let open = Open { database, writer, _data_dir: data_dir };
        Ok(Self { path: path.into(), open: Arc::new(Mutex::new(Some(open))), active: Arc::new(active) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether writes are accepted: not once it is closed, nor after the disk failed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.lock().as_ref().is_some_and(|open| open.writer.is_well())
    }

    /// Commits what was handed in, then closes the file and gives the directory back. Later calls answer `closed`.
    pub async fn close(&self) {
        let Some(Open { database, writer, _data_dir: data_dir }) = self.lock().take() else { return };
        let closing = tokio::task::spawn_blocking(move || {
            writer.finish();
            drop(database);
            drop(data_dir);
        });
        if closing.await.is_err() {
            tracing::error!("closing the store panicked");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.open.lock().expect("no holder of this lock panics")
    }

    /// Runs `work` in a write transaction and answers once it is durable. Other writes may share the transaction. A
    /// dropped call may have taken effect.
    async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let queue = self.lock().as_ref().map(|open| open.writer.queue()).ok_or(StoreError::Closed)?;
        queue.write(work).await
    }

    /// Like [`Self::write`]; `note` is run before any caller is told, whether it was written or not.
    async fn write_and_note<T, W, N>(&self, work: W, note: N) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
        N: FnOnce(&Result<T, StoreError>) + Send + 'static,
    {
        let queue = self.lock().as_ref().map(|open| open.writer.queue()).ok_or(StoreError::Closed)?;
        queue.write_and_note(work, note).await
    }

    /// Runs `work` in a read transaction, away from the threads that serve everybody.
    async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let database =
            self.lock().as_ref().map(|open| Arc::clone(&open.database)).ok_or(StoreError::Closed)?;
        let reading = tokio::task::spawn_blocking(move || work(&database.begin_read()?));
        reading.await.map_err(|_| StoreError::failed("a read panicked"))?
    }
}

fn open_database(path: &Path) -> Result<Database, OpenStoreError> {
    let unreadable = |reason: String| OpenStoreError::Unreadable { path: path.to_owned(), reason };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| unreadable(error.to_string()))?;
    Database::builder().set_cache_size(limits::STORE_CACHE_BYTES).create_file(file).map_err(|error| {
        match error {
            DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() == io::ErrorKind::InvalidData =>
            {
                unreadable("it is not a redb file".to_owned())
            }
            error => unreadable(error.to_string()),
        }
    })
}

/// Makes the tables in a new file, and refuses those of another layout.
fn check_schema(database: &Database, path: &Path) -> Result<(), OpenStoreError> {
    let found: Result<u64, StoreError> = (|| {
        let transaction = database.begin_write()?;
        let found = {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(SCHEMA_KEY)?.map(|found| found.value());
            if found.is_none() {
                meta.insert(SCHEMA_KEY, SCHEMA)?;
            }
            found.unwrap_or(SCHEMA)
        };
        if found == SCHEMA {
            epochs::make_tables(&transaction)?;
            events::make_tables(&transaction)?;
            instances::make_tables(&transaction)?;
            pins::make_tables(&transaction)?;
            transaction.commit().map_err(StoreError::failed)?;
        }
        Ok(found)
    })();
    match found {
        Ok(SCHEMA) => Ok(()),
        Ok(found) => Err(OpenStoreError::OtherSchema { path: path.to_owned(), found }),
        Err(error) => Err(OpenStoreError::Unreadable { path: path.to_owned(), reason: error.to_string() }),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    wire::encode(value)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    wire::decode(bytes).map_err(|error| StoreError::failed(format!("a record is damaged: {error}")))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(key: &str) -> Result<T, StoreError> {
    key.parse().map_err(|error| StoreError::failed(format!("a key is damaged: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_of_another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store
            .write(|transaction| {
                transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA + 1)?;
                Ok(())
            })
            .await
            .unwrap();
        store.close().await;
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenStoreError::OtherSchema { found: 2, .. }), "{error}");
        assert!(error.to_string().contains("this build knows 1"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hub.redb"), "this is not a database, and it is long enough to see")
            .unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenStoreError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("backup"), "{error}");
    }

    #[tokio::test]
    async fn a_closed_store_says_so_and_gives_its_directory_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.is_writable());
        assert!(matches!(
            Store::open(dir.path()),
            Err(OpenStoreError::DataDir(ClaimDataDirError::InUse { .. }))
        ));
        store.close().await;
        assert!(!store.is_writable());
        assert_eq!(store.write(|_| Ok(())).await, Err(StoreError::Closed));
        Store::open(dir.path()).unwrap();
    }
}
