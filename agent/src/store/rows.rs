//! Bundles and their workloads, as they were accepted and carried out.

use std::collections::BTreeMap;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use towline_protocol::{
    ContentDigest, JobId, Name, ResourceId, WorkloadId,
    bundle::{BundlePhase, Envelope, ResultState, WorkloadResult},
    wire,
};

use super::{StoreError, Unsound, decode};
use crate::engine::Room;

/// Rows of bundles, by name.
const BUNDLES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bundles");
/// Documents as submitted, by bundle and version.
const CONTENTS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("contents");
/// Rows of workloads, by bundle and id.
const WORKLOADS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("workloads");
/// The definition of a workload that was carried out last, verbatim, by bundle and id.
const CARRIED_OUT: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("workload-definitions");

/// Contents kept of a bundle: the one in force, the one that comes, and a few to look back at.
const CONTENTS_OF_ONE: usize = 10;

/// What is known of a bundle besides its workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BundleRow {
    pub(crate) name: Name,
    #[serde(default)]
    pub(crate) description: String,
    pub(crate) phase: BundlePhase,
    /// The last accepted version.
    pub(crate) accepted: u64,
    /// The digest of its content.
    pub(crate) digest: ContentDigest,
    /// The job that was accepted with it.
    pub(crate) put: JobId,
    /// That job was taken back: the same content is a change again.
    #[serde(default)]
    pub(crate) void: bool,
    /// The version that is to hold, for its job has begun; 0 before the first.
    #[serde(default)]
    pub(crate) target: u64,
    /// The last version that was carried out without an error.
    #[serde(default)]
    pub(crate) applied: Option<u64>,
    /// The last job about it.
    pub(crate) job: JobId,
    /// Since when it stands so.
    pub(crate) since_unix_ms: u64,
    /// Why it is being deleted.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// Put with the version, and given back with it.
    #[serde(default)]
    pub(crate) envelope: Option<Envelope>,
    /// The accepted version is carried out whole, also where nothing changed.
    #[serde(default)]
    pub(crate) forced: bool,
    /// The accepted version may take over direct resources.
    #[serde(default)]
    pub(crate) adopt: bool,
    /// How it stood when its last job began: what holds again if that is taken back.
    #[serde(default)]
    pub(crate) begun: Option<Begun>,
}

/// How a bundle stood when a job about it began. Stored, for the agent may end between beginning and taking back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) job: JobId,
    pub(crate) target: u64,
    pub(crate) phase: BundlePhase,
}

/// What is known of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkloadRow {
    pub(crate) id: WorkloadId,
    pub(crate) resource: ResourceId,
    /// The version that changed it last.
    pub(crate) version: u64,
    /// The digest of the definition that was carried out; none before the first success.
    #[serde(default)]
    pub(crate) holds: Option<ContentDigest>,
    /// The result of the last operation that changed something.
    pub(crate) result: WorkloadResult,
    /// Failures in a row.
    #[serde(default)]
    pub(crate) attempts: u64,
    /// What it must not outlive, and what it must not start before.
    #[serde(default)]
    pub(crate) depends_on: Vec<WorkloadId>,
    /// Its place in the start order; the way down is the reverse.
    #[serde(default)]
    pub(crate) rank: u64,
    /// Other bundles may have it, too.
    #[serde(default)]
    pub(crate) shared: bool,
    /// The room that it is promised.
    #[serde(default)]
    pub(crate) needs: Room,
    /// A monitor gave it up: it is not tried again by itself.
    #[serde(default)]
    pub(crate) given_up: bool,
    /// An operation on it was begun, and what came of it was not recorded: the row alone does not say what is there.
    #[serde(default)]
    pub(crate) in_doubt: bool,
    /// What its manager wants to be told again.
    #[serde(default)]
    pub(crate) data: serde_json::Value,
}

impl WorkloadRow {
    /// The row of a workload that was not carried out yet.
    pub(crate) fn new(id: WorkloadId, resource: ResourceId, version: u64, result: WorkloadResult) -> Self {
        Self {
            id,
            resource,
            version,
            holds: None,
            result,
            attempts: 0,
            depends_on: Vec::new(),
            rank: 0,
            shared: false,
            needs: Room::default(),
            given_up: false,
            in_doubt: false,
            data: serde_json::Value::Null,
        }
    }

    /// Whether it may be otherwise than its result says, or failed since: it is brought about anew.
    pub(crate) fn is_failing(&self) -> bool {
        self.attempts > 0 || self.in_doubt
    }

    /// Whether it is to be stopped when its bundle pauses: all that is not known to be, for also of what failed some may run.
    pub(crate) fn is_to_pause(&self) -> bool {
        !self.given_up && (self.result.state != ResultState::Paused || self.in_doubt)
    }
}

pub(super) fn open(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(BUNDLES)?;
    transaction.open_table(CONTENTS)?;
    transaction.open_table(WORKLOADS)?;
    transaction.open_table(CARRIED_OUT)?;
    Ok(())
}

pub(crate) fn put_bundle(transaction: &WriteTransaction, row: &BundleRow) -> Result<(), StoreError> {
    transaction.open_table(BUNDLES)?.insert(row.name.as_str(), wire::encode(row).as_slice())?;
    Ok(())
}

/// Keeps the content of a version, and forgets that of the lowest versions beyond what is kept, `target` excepted.
pub(crate) fn put_content(
    transaction: &WriteTransaction,
    bundle: &Name,
    version: u64,
    target: u64,
    content: &[u8],
) -> Result<(), StoreError> {
    let mut contents = transaction.open_table(CONTENTS)?;
    contents.insert((bundle.as_str(), version), content)?;
    let mut versions = Vec::new();
    for entry in contents.range((bundle.as_str(), 0)..=(bundle.as_str(), u64::MAX))? {
        versions.push(entry?.0.value().1);
    }
    let surplus = versions.len().saturating_sub(CONTENTS_OF_ONE);
    for old in versions.into_iter().filter(|old| *old != version && *old != target).take(surplus) {
        contents.remove((bundle.as_str(), old))?;
    }
    Ok(())
}

/// Forgets the contents of a bundle that is gone, but for the version that is to come after it.
pub(crate) fn drop_contents(
    transaction: &WriteTransaction,
    bundle: &Name,
    to_come: Option<u64>,
) -> Result<(), StoreError> {
    let mut contents = transaction.open_table(CONTENTS)?;
    let all = (bundle.as_str(), 0)..=(bundle.as_str(), u64::MAX);
    contents.retain_in(all, |(_, version), _| Some(version) == to_come)?;
    Ok(())
}

/// Forgets a bundle that has long gone, with its record.
pub(crate) fn forget(transaction: &WriteTransaction, bundle: &Name) -> Result<(), StoreError> {
    drop_contents(transaction, bundle, None)?;
    transaction.open_table(BUNDLES)?.remove(bundle.as_str())?;
    super::once::forget(transaction, bundle.as_str())?;
    super::records::forget(transaction, bundle.as_str())
}

/// Stores how a workload stands; with `definition`, what was carried out.
///
/// # Errors
/// [`StoreError::Unsound`] for a workload that is a resource of another kind.
pub(crate) fn put_workload(
    transaction: &WriteTransaction,
    bundle: &Name,
    row: &WorkloadRow,
    definition: Option<&Bytes>,
) -> Result<(), StoreError> {
    if row.resource.as_str().split_once('/').map(|(_, rest)| rest) != Some(row.id.as_str()) {
        let (workload, resource) = (row.id.clone(), row.resource.clone());
        return Err(StoreError::Unsound(Unsound::Kind { workload, resource }));
    }
    let key = (bundle.as_str(), row.id.as_str());
    transaction.open_table(WORKLOADS)?.insert(key, wire::encode(row).as_slice())?;
    if let Some(definition) = definition {
        transaction.open_table(CARRIED_OUT)?.insert(key, definition.as_ref())?;
    }
    Ok(())
}

/// Forgets a workload that is gone; its records stay.
pub(crate) fn remove_workload(
    transaction: &WriteTransaction,
    bundle: &Name,
    workload: &WorkloadId,
) -> Result<(), StoreError> {
    let key = (bundle.as_str(), workload.as_str());
    transaction.open_table(WORKLOADS)?.remove(key)?;
    transaction.open_table(CARRIED_OUT)?.remove(key)?;
    Ok(())
}

/// The workloads of one bundle.
pub(crate) type Workloads = BTreeMap<WorkloadId, WorkloadRow>;

/// What a store knows of bundles.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) bundles: Vec<(BundleRow, Workloads)>,
    /// A row was not readable: what is not in here may be known all the same.
    pub(crate) skipped: bool,
}

/// Every bundle with its workloads. A row that is not readable is left out, and said so: the others are none the worse.
pub(crate) fn load(transaction: &ReadTransaction) -> Result<Loaded, StoreError> {
    let mut found = Loaded::default();
    let bundles = transaction.open_table(BUNDLES)?;
    let workloads = transaction.open_table(WORKLOADS)?;
    for entry in bundles.iter()? {
        let (name, value) = entry?;
        let Some(row) = readable::<BundleRow>(name.value(), value.value()) else {
            found.skipped = true;
            continue;
        };
        let mut rows = BTreeMap::new();
        for entry in workloads.range((name.value(), "")..)? {
            let (key, value) = entry?;
            let (bundle, id) = key.value();
            if bundle != name.value() {
                break;
            }
            match readable::<WorkloadRow>(&format!("{bundle}: {id}"), value.value()) {
                Some(row) => drop(rows.insert(row.id.clone(), row)),
                None => found.skipped = true,
            }
        }
        found.bundles.push((row, rows));
    }
    Ok(found)
}

fn readable<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Option<T> {
    decode(what, bytes)
        .inspect_err(|error| tracing::error!(%error, "set aside: put the bundle again to replace it"))
        .ok()
}

/// The content of a version, if it is kept.
pub(crate) fn content(
    transaction: &ReadTransaction,
    bundle: &Name,
    version: u64,
) -> Result<Option<Bytes>, StoreError> {
    let contents = transaction.open_table(CONTENTS)?;
    Ok(contents.get((bundle.as_str(), version))?.map(|bytes| Bytes::copy_from_slice(bytes.value())))
}

/// The definitions of workloads that were carried out last.
pub(crate) struct Held(ReadOnlyTable<(&'static str, &'static str), &'static [u8]>);

impl Held {
    pub(crate) fn open(transaction: &ReadTransaction) -> Result<Self, StoreError> {
        Ok(Self(transaction.open_table(CARRIED_OUT)?))
    }

    /// That of one workload, if it was carried out.
    pub(crate) fn definition(
        &self,
        bundle: &Name,
        workload: &WorkloadId,
    ) -> Result<Option<Bytes>, StoreError> {
        let found = self.0.get((bundle.as_str(), workload.as_str()))?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(bytes.value())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn z_e12_a_row_that_is_not_readable_is_said_to_be_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(!store.read(load).unwrap().skipped);
        let torn = |transaction: &WriteTransaction| {
            transaction.open_table(BUNDLES)?.insert("shop", b"torn".as_slice())?;
            Ok(())
        };
        store.write(torn).await.unwrap();
        let found = store.read(load).unwrap();
        assert!(found.skipped && found.bundles.is_empty());
    }
}
