//! Epochs, and who serves: the durable [`Authority`]. An answer is given once the disk has it.

use async_trait::async_trait;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use towline_bus::authority::{Activation, AuthorityError, Grant, next_epoch};
use towline_bus::{Authority, clock};
use towline_protocol::{BootId, Epoch, InstanceId, StoreId};

use super::{Store, StoreError, decode, encode, parse};

const EPOCHS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("epochs");

pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(EPOCHS)?;
    Ok(())
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct EpochRecord {
    #[serde(default)]
    reserved: Option<Epoch>,
    #[serde(default)]
    active: Option<GrantRecord>,
}

/// A [`Grant`] as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct GrantRecord {
    epoch: Epoch,
    boot: BootId,
    store: StoreId,
    #[serde(default)]
    ended: bool,
}

impl From<Grant> for GrantRecord {
    fn from(Grant { epoch, boot, store, ended }: Grant) -> Self {
        Self { epoch, boot, store, ended }
    }
}

impl From<GrantRecord> for Grant {
    fn from(GrantRecord { epoch, boot, store, ended }: GrantRecord) -> Self {
        Self { epoch, boot, store, ended }
    }
}

fn record_of(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    instance: &str,
) -> Result<EpochRecord, StoreError> {
    match table.get(instance)? {
        Some(found) => decode(found.value()),
        None => Ok(EpochRecord::default()),
    }
}

fn refused(error: &StoreError) -> AuthorityError {
    AuthorityError { reason: error.to_string() }
}

#[async_trait]
impl Authority for Store {
    async fn reserve(&self, instance: &InstanceId, above: Option<Epoch>) -> Result<Epoch, AuthorityError> {
        let instance = instance.to_string();
        let now_unix_ms = clock::unix_ms();
        let reserved = self.write(move |transaction| {
            let mut epochs = transaction.open_table(EPOCHS)?;
            let mut record = record_of(&epochs, &instance)?;
            // A refusal writes nothing, and must not fail the writes that share the transaction.
            let epoch = match next_epoch(record.reserved, above, now_unix_ms) {
                Ok(epoch) => epoch,
                Err(refusal) => return Ok(Err(refusal)),
            };
            record.reserved = Some(epoch);
            epochs.insert(instance.as_str(), encode(&record).as_slice())?;
            Ok(Ok(epoch))
        });
        reserved.await.map_err(|error| refused(&error))?
    }

    async fn activate(
        &self,
        instance: &InstanceId,
        expected: Option<Epoch>,
        grant: Grant,
    ) -> Result<Activation, AuthorityError> {
        let instance = instance.to_string();
        let outcome = self.write(move |transaction| {
            let mut epochs = transaction.open_table(EPOCHS)?;
            let mut record = record_of(&epochs, &instance)?;
            let active = record.active.as_ref().map(|active| active.epoch);
            if active != expected || active >= Some(grant.epoch) {
                return Ok(Activation::Lost { active: record.active.map(Grant::from) });
            }
            record.reserved = record.reserved.max(Some(grant.epoch));
            record.active = Some(grant.into());
            epochs.insert(instance.as_str(), encode(&record).as_slice())?;
            Ok(Activation::Won)
        });
        match outcome.await {
            Err(StoreError::Unknown { .. }) => Ok(Activation::Unknown),
            outcome => outcome.map_err(|error| refused(&error)),
        }
    }

    async fn end(&self, instance: &InstanceId, epoch: Epoch) -> Result<(), AuthorityError> {
        let instance = instance.to_string();
        let ended = self.write(move |transaction| {
            let mut epochs = transaction.open_table(EPOCHS)?;
            let mut record = record_of(&epochs, &instance)?;
            if let Some(active) = record.active.as_mut().filter(|active| active.epoch == epoch) {
                active.ended = true;
                epochs.insert(instance.as_str(), encode(&record).as_slice())?;
            }
            Ok(())
        });
        ended.await.map_err(|error| refused(&error))
    }

    async fn active(&self, instance: &InstanceId) -> Result<Option<Grant>, AuthorityError> {
        let instance = instance.to_string();
        let found = self.read(move |transaction| record_of(&transaction.open_table(EPOCHS)?, &instance));
        Ok(found.await.map_err(|error| refused(&error))?.active.map(Grant::from))
    }

    async fn all_active(&self) -> Result<Vec<(InstanceId, Grant)>, AuthorityError> {
        let all = self.read(|transaction| {
            let mut all = Vec::new();
            for row in transaction.open_table(EPOCHS)?.iter()? {
                let (instance, record) = row?;
                if let Some(active) = decode::<EpochRecord>(record.value())?.active {
                    all.push((parse(instance.value())?, active.into()));
                }
            }
            Ok(all)
        });
        all.await.map_err(|error| refused(&error))
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), AuthorityError> {
        let instance = instance.to_string();
        let forgotten = self.write(move |transaction| {
            let mut epochs = transaction.open_table(EPOCHS)?;
            let mut record = record_of(&epochs, &instance)?;
            if record.active.take().is_some() {
                epochs.insert(instance.as_str(), encode(&record).as_slice())?;
            }
            Ok(())
        });
        forgotten.await.map_err(|error| refused(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn grant(epoch: Epoch) -> Grant {
        Grant { epoch, boot: BootId::new(Uuid::new_v4()), store: StoreId::new(Uuid::new_v4()), ended: false }
    }

    #[tokio::test]
    async fn epochs_only_grow_over_restarts_and_deletion() {
        let dir = tempfile::tempdir().unwrap();
        let instance: InstanceId = "acme/shop".parse().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.reserve(&instance, None).await.unwrap();
        assert!(first.get() > 1_600_000_000_000, "a new store starts at Unix milliseconds");
        let won = grant(first);
        assert_eq!(store.activate(&instance, None, won.clone()).await, Ok(Activation::Won));
        store.close().await;

        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.active(&instance).await, Ok(Some(won.clone())));
        assert_eq!(store.all_active().await, Ok(vec![(instance.clone(), won)]));
        let second = store.reserve(&instance, None).await.unwrap();
        assert_eq!(Some(second), first.next());
        store.end(&instance, second).await.unwrap();
        assert_eq!(
            store.active(&instance).await.unwrap().map(|grant| grant.ended),
            Some(false),
            "not its epoch"
        );
        store.end(&instance, first).await.unwrap();
        assert_eq!(store.active(&instance).await.unwrap().map(|grant| grant.ended), Some(true));
        store.forget(&instance).await.unwrap();
        assert_eq!(store.active(&instance).await, Ok(None));
        assert_eq!(store.reserve(&instance, None).await.ok(), second.next());
        store.close().await;
    }

    #[tokio::test]
    async fn an_activation_is_a_compare_and_set() {
        let dir = tempfile::tempdir().unwrap();
        let instance: InstanceId = "shop".parse().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.reserve(&instance, None).await.unwrap();
        let second = store.reserve(&instance, None).await.unwrap();
        let newer = grant(second);
        assert_eq!(store.activate(&instance, None, newer.clone()).await, Ok(Activation::Won));
        let lost = Ok(Activation::Lost { active: Some(newer) });
        assert_eq!(store.activate(&instance, None, grant(first)).await, lost);
        assert_eq!(store.activate(&instance, Some(second), grant(first)).await, lost, "epochs never go back");
        store.close().await;
    }

    #[tokio::test]
    async fn a_claimer_that_saw_the_last_epoch_is_refused_without_harm() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let last = Epoch::new(towline_protocol::limits::EPOCH_MAX).unwrap();
        let refused = store.reserve(&"greedy".parse().unwrap(), Some(last)).await;
        assert!(refused.is_err());
        assert!(store.reserve(&"modest".parse().unwrap(), None).await.is_ok());
        store.close().await;
    }
}
