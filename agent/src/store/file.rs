//! The database file: opened, checked, set aside when it is damaged, opened again after the disk failed.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase as _, WriteTransaction};
use towline_bus::clock;
use towline_protocol::StoreId;

use super::{OpenStoreError, StoreError, schema};

/// Name of the file in the data directory.
const FILE: &str = "agent.redb";

/// Memory that the database may keep pages in: an idle agent has 25 MiB in all.
const CACHE: usize = 2 * 1024 * 1024;

/// How the database is reached; tests put a disk that fails between.
#[derive(Clone)]
pub(crate) struct Opener(Arc<Open>);

type Open = dyn Fn(&Path) -> Result<Database, DatabaseError> + Send + Sync;

impl Opener {
    #[cfg(test)]
    pub(crate) fn new(
        open: impl Fn(&Path) -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }
}

impl Default for Opener {
    fn default() -> Self {
        Self(Arc::new(|path| Database::builder().set_cache_size(CACHE).create(path)))
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

/// The database, as long as the disk lets us have it.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    opener: Opener,
    /// None after the disk failed; whoever comes next tries to open it again.
    database: RwLock<Option<Database>>,
}

impl File {
    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.reopen()?;
        }
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| self.away())?;
        look(&database.begin_read()?)
    }

    /// Runs `work` in one transaction. The database refuses everything after one failure of the disk, so it is let go
    /// then, and opened again by whoever comes next.
    pub(super) fn write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.reopen()?;
        let written = self.try_write(work);
        // What was refused is no fault of the disk.
        if written.as_ref().is_err_and(|error| !matches!(error, StoreError::Unsound(_))) {
            self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        }
        written
    }

    fn try_write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = database.as_ref().ok_or_else(|| self.away())?.begin_write()?;
        work(&transaction)?;
        transaction.commit()?;
        Ok(())
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some((self.opener.0)(&self.path)?);
        }
        Ok(())
    }

    fn away(&self) -> StoreError {
        StoreError::Failed(format!("{} is not open since the disk failed", self.path.display()))
    }
}

/// What stands between a path and a database that can be used.
enum Trouble {
    /// The system said no; the file may be sound.
    System(io::Error),
    /// What is in the file is not what we wrote.
    Damage(String),
    /// Another build made it.
    Newer(u64),
    /// It is sound, as far as anybody knows, and cannot be opened now; what helps.
    Refused(String, &'static str),
}

/// Opens the database in `dir`; one that is damaged is renamed first, and an empty one made in its place. Says which id
/// it has, and where the damaged one lies.
pub(super) fn open(dir: &Path, opener: Opener) -> Result<(File, StoreId, Option<PathBuf>), OpenStoreError> {
    let path = dir.join(FILE);
    let failed = |trouble| match trouble {
        Trouble::System(source) => OpenStoreError::Directory { dir: dir.to_owned(), source },
        Trouble::Damage(reason) => OpenStoreError::Database { file: path.clone(), reason },
        Trouble::Newer(found) => OpenStoreError::Newer { file: path.clone(), found, known: schema::VERSION },
        Trouble::Refused(reason, remedy) => OpenStoreError::Refused { file: path.clone(), reason, remedy },
    };
    let mut set_aside = None;
    let opened = match sound(&path, &opener) {
        Err(Trouble::Damage(reason)) => {
            let aside = aside(&path);
            fs::rename(&path, &aside).map_err(|error| failed(Trouble::System(error)))?;
            tracing::error!(
                file = %path.display(),
                reason,
                "the store is damaged; it was set aside as {} and an empty one begun: units run on and are shown; put \
                 back a backup while the agent is stopped, or put the bundles again",
                aside.display()
            );
            set_aside = Some(aside);
            sound(&path, &opener)
        }
        opened => opened,
    };
    let (database, id) = opened.map_err(failed)?;
    // Definitions may hold secrets.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(|source| OpenStoreError::Directory { dir: dir.to_owned(), source })?;
    Ok((File { path, opener, database: RwLock::new(Some(database)) }, id, set_aside))
}

/// The database, checked page by page, with today's layout.
fn sound(path: &Path, opener: &Opener) -> Result<(Database, StoreId), Trouble> {
    let open = || -> Result<(Database, StoreId), Trouble> {
        let mut database = (opener.0)(path).map_err(|error| trouble(error.into()))?;
        database.check_integrity().map_err(|error| trouble(error.into()))?;
        let id = schema::prepare(&database).map_err(|error| match error {
            schema::PrepareError::Newer(found) => Trouble::Newer(found),
            schema::PrepareError::Redb(error) => trouble(error),
        })?;
        Ok((database, id))
    };
    // A page that makes no sense at all is met with a panic deep inside.
    catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err(Trouble::Damage("reading it panicked".to_owned())))
}

fn trouble(error: redb::Error) -> Trouble {
    let reason = error.to_string();
    match error {
        redb::Error::Io(source)
            if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Trouble::System(source)
        }
        // None of these says that what is in the file is wrong: an empty store in its place would lose it for nothing.
        redb::Error::DatabaseAlreadyOpen => Trouble::Refused(reason, "end the process that has it open"),
        redb::Error::UpgradeRequired(_) => Trouble::Refused(reason, "run the agent that made it"),
        redb::Error::RepairAborted => Trouble::Refused(reason, "start the agent again, and let it finish"),
        redb::Error::PreviousIo => Trouble::Refused(reason, "look at the disk, and start the agent again"),
        _ => Trouble::Damage(reason),
    }
}

/// A free name beside `path` that says what it is, and since when.
fn aside(path: &Path) -> PathBuf {
    let now = i64::try_from(clock::unix_ms()).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let now = now.map_or_else(String::new, |now| now.strftime("%Y%m%dT%H%M%SZ").to_string());
    let name = |number: u32| match number {
        0 => path.with_file_name(format!("{FILE}.damaged-{now}")),
        number => path.with_file_name(format!("{FILE}.damaged-{now}-{number}")),
    };
    (0..).map(name).find(|name| !name.exists()).unwrap_or_else(|| name(0))
}
