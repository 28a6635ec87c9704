//! Which instances there are.

use std::collections::BTreeMap;

use redb::{ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use towline_protocol::{InstanceId, wire_enum};

use super::{Store, StoreError, decode, encode};

const INSTANCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("instances");

pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(INSTANCES)?;
    Ok(())
}

wire_enum! {
    /// How an instance came to be on record.
    pub enum Origin {
        /// Somebody created it through the API.
        Created = "created",
        /// An agent claimed it first.
        FirstSeen = "first_seen",
    }
}

/// What the hub has on record of an instance, whether or not anybody serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// The operator's own words about it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was put on record, in Unix milliseconds.
    pub created_unix_ms: u64,
    /// How it came to be there.
    pub origin: Origin,
}

impl Store {
    /// Writes a record, in place of the one that is there. Durable before the answer.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_instance(&self, record: InstanceRecord) -> Result<(), StoreError> {
        self.write(move |transaction| {
            let id = record.id.to_string();
            transaction.open_table(INSTANCES)?.insert(id.as_str(), encode(&record).as_slice())?;
            Ok(())
        })
        .await
    }

    /// Removes a record. Durable before the answer. Returns whether it was there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_instance(&self, instance: &InstanceId) -> Result<bool, StoreError> {
        let id = instance.to_string();
        self.write(move |transaction| Ok(transaction.open_table(INSTANCES)?.remove(id.as_str())?.is_some()))
            .await
    }

    /// All records.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn all_instances(&self) -> Result<Vec<InstanceRecord>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(INSTANCES)?;
            table.iter()?.map(|row| decode(row?.1.value())).collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_outlive_the_hub() {
        let dir = tempfile::tempdir().unwrap();
        let record = InstanceRecord {
            id: "acme/shop".parse().unwrap(),
            labels: BTreeMap::from([("site".to_owned(), "Zürich".to_owned())]),
            created_unix_ms: 1_700_000_000_000,
            origin: Origin::Created,
        };
        let store = Store::open(dir.path()).unwrap();
        store.put_instance(record.clone()).await.unwrap();
        store.close().await;
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.all_instances().await, Ok(vec![record.clone()]));
        assert_eq!(store.remove_instance(&record.id).await, Ok(true));
        assert_eq!(store.remove_instance(&record.id).await, Ok(false));
        store.close().await;
    }
}
