//! The layout of the store, and how one of an older layout becomes one of today's.
//!
//! | version | what changed |
//! |---|---|
//! | 1 | direct resources and outcomes alone; it bears no version |
//! | 2 | bundles, jobs, the record of results; each direct resource begins its record with how it stood |

use redb::{Database, ReadableTable as _, TableDefinition, WriteTransaction};
use towline_protocol::StoreId;

use super::{DEFINITIONS, FACTS, jobs, outcomes, records, rows};

/// The layout of this build.
pub(super) const VERSION: u64 = 2;

pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const STORE: &str = "store";
const SCHEMA: &str = "schema";

/// Why a database does not have today's layout.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("it has layout {0}")]
    Newer(u64),
    #[error(transparent)]
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for PrepareError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

fn corrupted(what: &str, why: impl std::fmt::Display) -> PrepareError {
    PrepareError::Redb(redb::Error::Corrupted(format!("{what}: {why}")))
}

/// Brings `database` to today's layout in one transaction, makes every table, so that readers find them, and reads its
/// id, or makes one.
pub(super) fn prepare(database: &Database) -> Result<StoreId, PrepareError> {
    let transaction = database.begin_write()?;
    let (id, found) = {
        let mut meta = transaction.open_table(META)?;
        let known = meta.get(STORE)?.map(|id| id.value().to_owned());
        let found = match (meta.get(SCHEMA)?, &known) {
            (Some(version), _) => {
                version.value().parse().map_err(|error| corrupted("the version of its layout", error))?
            }
            (None, Some(_)) => 1,
            (None, None) => VERSION,
        };
        if found > VERSION {
            return Err(PrepareError::Newer(found));
        }
        let id = match known {
            Some(text) => text.parse().map_err(|error| corrupted("the store's id", error))?,
            None => StoreId::new(uuid::Uuid::new_v4()),
        };
        meta.insert(STORE, id.to_string().as_str())?;
        meta.insert(SCHEMA, VERSION.to_string().as_str())?;
        (id, found)
    };
    transaction.open_table(DEFINITIONS)?;
    transaction.open_table(FACTS)?;
    outcomes::open(&transaction)?;
    rows::open(&transaction)?;
    records::open(&transaction)?;
    jobs::open(&transaction)?;
    if found < 2 {
        begin_records(&transaction)?;
    }
    transaction.commit()?;
    Ok(id)
}

/// 1 → 2: how each direct resource stands becomes the first of its records.
fn begin_records(transaction: &WriteTransaction) -> Result<(), PrepareError> {
    let facts = transaction.open_table(FACTS)?;
    for entry in facts.iter()? {
        let (id, json) = entry?;
        let facts = serde_json::from_slice(json.value())
            .map_err(|error| corrupted(&format!("the facts of {}", id.value()), error))?;
        records::begin_direct(transaction, id.value(), &facts)
            .map_err(|error| corrupted("the record", error))?;
    }
    Ok(())
}
