//! Epochs, and who serves: the durable [`Authority`]. An answer is given once the disk has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use towline_bus::authority::{Activation, AuthorityError, ClaimId, Grant, Replicas, next_epoch};
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
    /// Which claim the last epoch was reserved for.
    #[serde(default)]
    reserved_for: Option<ClaimRecord>,
    #[serde(default)]
    active: Option<GrantRecord>,
}

/// A [`ClaimId`] as it is stored.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClaimRecord {
    boot: BootId,
    nonce: u64,
}

impl From<ClaimId> for ClaimRecord {
    fn from(ClaimId { boot, nonce }: ClaimId) -> Self {
        Self { boot, nonce }
    }
}

/// A [`Grant`] as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct GrantRecord {
    epoch: Epoch,
    boot: BootId,
    store: StoreId,
    #[serde(default)]
    since: Option<Epoch>,
    #[serde(default)]
    ended: bool,
}

impl From<Grant> for GrantRecord {
    fn from(Grant { epoch, boot, store, since, ended }: Grant) -> Self {
        Self { epoch, boot, store, since, ended }
    }
}

impl From<GrantRecord> for Grant {
    fn from(GrantRecord { epoch, boot, store, since, ended }: GrantRecord) -> Self {
        Self { epoch, boot, store, since, ended }
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

/// Who is active, in memory, as of the last write that is known to be durable.
#[derive(Debug, Default)]
pub(super) struct ActiveGrants(Mutex<HashMap<InstanceId, Known>>);

#[derive(Debug)]
enum Known {
    Grant(Grant),
    /// The last write may have taken effect: the disk must be asked.
    Doubtful,
}

impl ActiveGrants {
    pub(super) fn read(database: &Database) -> Result<Self, StoreError> {
        let all = all_active(&database.begin_read()?)?;
        let known = all.into_iter().map(|(instance, grant)| (instance, Known::Grant(grant)));
        Ok(Self(Mutex::new(known.collect())))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Known>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn note(&self, instance: InstanceId, active: Option<Grant>) {
        match active {
            Some(grant) => self.lock().insert(instance, Known::Grant(grant)),
            None => self.lock().remove(&instance),
        };
    }
}

fn all_active(transaction: &ReadTransaction) -> Result<Vec<(InstanceId, Grant)>, StoreError> {
    let mut all = Vec::new();
    for row in transaction.open_table(EPOCHS)?.iter()? {
        let (instance, record) = row?;
        if let Some(active) = decode::<EpochRecord>(record.value())?.active {
            all.push((parse(instance.value())?, active.into()));
        }
    }
    Ok(all)
}

impl Store {
    /// Changes one instance's record in place, and keeps in mind who is active from then on.
    async fn change<T, C>(&self, instance: &InstanceId, change: C) -> Result<T, StoreError>
    where
        T: Send + 'static,
        C: FnOnce(&mut EpochRecord) -> Changed<T> + Send + 'static,
    {
        let key = instance.to_string();
        let work = move |transaction: &WriteTransaction| {
            let mut epochs = transaction.open_table(EPOCHS)?;
            let mut record = record_of(&epochs, &key)?;
            let changed = change(&mut record);
            if let Changed::Yes(_) = &changed {
                epochs.insert(key.as_str(), encode(&record).as_slice())?;
            }
            let (Changed::Yes(answer) | Changed::No(answer)) = changed;
            Ok((answer, record.active.map(Grant::from)))
        };
        let (known, instance) = (Arc::clone(&self.active), instance.clone());
        let note = move |written: &Result<(T, Option<Grant>), StoreError>| match written {
            Ok((_, active)) => known.note(instance, active.clone()),
            Err(_) => {
                known.lock().insert(instance, Known::Doubtful);
            }
        };
        Ok(self.write_and_note(work, note).await?.0)
    }
}

/// What came of looking at a record, and whether it is to be written.
enum Changed<T> {
    Yes(T),
    No(T),
}

#[async_trait]
impl Authority for Store {
    /// The data directory belongs to one process.
    fn replicas(&self) -> Replicas {
        Replicas::One
    }

    async fn reserve(
        &self,
        instance: &InstanceId,
        claim: ClaimId,
        above: Option<Epoch>,
    ) -> Result<Epoch, AuthorityError> {
        let now_unix_ms = clock::unix_ms();
        let reserved = self.change(instance, move |record| {
            let claim = ClaimRecord::from(claim);
            if let Some(epoch) = record.reserved.filter(|_| record.reserved_for.as_ref() == Some(&claim)) {
                return Changed::No(Ok(epoch));
            }
            // A refusal writes nothing, and must not fail the writes that share the transaction.
            match next_epoch(record.reserved, above, now_unix_ms) {
                Ok(epoch) => {
                    (record.reserved, record.reserved_for) = (Some(epoch), Some(claim));
                    Changed::Yes(Ok(epoch))
                }
                Err(refusal) => Changed::No(Err(refusal)),
            }
        });
        reserved.await.map_err(|error| refused(&error))?
    }

    async fn activate(
        &self,
        instance: &InstanceId,
        expected: Option<Epoch>,
        grant: Grant,
    ) -> Result<Activation, AuthorityError> {
        let outcome = self.change(instance, move |record| {
            let active = record.active.as_ref().map(|active| active.epoch);
            if active != expected || active >= Some(grant.epoch) {
                return Changed::No(Activation::Lost { active: record.active.clone().map(Grant::from) });
            }
            record.reserved = record.reserved.max(Some(grant.epoch));
            record.active = Some(grant.into());
            Changed::Yes(Activation::Won)
        });
        match outcome.await {
            Err(StoreError::Unknown { .. }) => Ok(Activation::Unknown),
            outcome => outcome.map_err(|error| refused(&error)),
        }
    }

    async fn end(&self, instance: &InstanceId, epoch: Epoch) -> Result<(), AuthorityError> {
        let ended = self.change(instance, move |record| {
            let Some(active) = record.active.as_mut().filter(|active| active.epoch == epoch) else {
                return Changed::No(());
            };
            active.ended = true;
            Changed::Yes(())
        });
        ended.await.map_err(|error| refused(&error))
    }

    /// From memory, but after a write that failed.
    async fn active(&self, instance: &InstanceId) -> Result<Option<Grant>, AuthorityError> {
        match self.active.lock().get(instance) {
            Some(Known::Grant(grant)) => return Ok(Some(grant.clone())),
            None => return Ok(None),
            Some(Known::Doubtful) => {}
        }
        let instance = instance.to_string();
        let found = self.read(move |transaction| record_of(&transaction.open_table(EPOCHS)?, &instance));
        Ok(found.await.map_err(|error| refused(&error))?.active.map(Grant::from))
    }

    async fn all_active(&self) -> Result<Vec<(InstanceId, Grant)>, AuthorityError> {
        self.read(all_active).await.map_err(|error| refused(&error))
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), AuthorityError> {
        let forgotten = self.change(instance, |record| match record.active.take() {
            Some(_) => Changed::Yes(()),
            None => Changed::No(()),
        });
        forgotten.await.map_err(|error| refused(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn grant(epoch: Epoch) -> Grant {
        let (boot, store) = (BootId::new(Uuid::new_v4()), StoreId::new(Uuid::new_v4()));
        Grant { epoch, boot, store, since: Some(epoch), ended: false }
    }

    fn claim(nonce: u64) -> ClaimId {
        ClaimId { boot: BootId::new(Uuid::from_u128(1)), nonce }
    }

    #[tokio::test]
    async fn epochs_only_grow_over_restarts_and_deletion() {
        let dir = tempfile::tempdir().unwrap();
        let instance: InstanceId = "acme/shop".parse().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.reserve(&instance, claim(1), None).await.unwrap();
        assert!(first.get() > 1_600_000_000_000, "a new store starts at Unix milliseconds");
        let won = grant(first);
        assert_eq!(store.activate(&instance, None, won.clone()).await, Ok(Activation::Won));
        store.close().await;

        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.active(&instance).await, Ok(Some(won.clone())));
        assert_eq!(store.all_active().await, Ok(vec![(instance.clone(), won)]));
        let second = store.reserve(&instance, claim(2), None).await.unwrap();
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
        assert_eq!(store.reserve(&instance, claim(3), None).await.ok(), second.next());
        store.close().await;
    }

    #[tokio::test]
    async fn an_activation_is_a_compare_and_set() {
        let dir = tempfile::tempdir().unwrap();
        let instance: InstanceId = "shop".parse().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.reserve(&instance, claim(4), None).await.unwrap();
        let second = store.reserve(&instance, claim(5), None).await.unwrap();
        let newer = grant(second);
        assert_eq!(store.activate(&instance, None, newer.clone()).await, Ok(Activation::Won));
        let lost = Ok(Activation::Lost { active: Some(newer) });
        assert_eq!(store.activate(&instance, None, grant(first)).await, lost);
        assert_eq!(store.activate(&instance, Some(second), grant(first)).await, lost, "epochs never go back");
        store.close().await;
    }

    #[tokio::test]
    async fn a_claim_that_comes_again_gets_the_same_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let instance: InstanceId = "shop".parse().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.reserve(&instance, claim(1), None).await.unwrap();
        assert_eq!(store.reserve(&instance, claim(1), None).await, Ok(first));
        store.close().await;
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.reserve(&instance, claim(1), None).await, Ok(first));
        assert_eq!(store.reserve(&instance, claim(2), None).await.ok(), first.next());
        store.close().await;
    }

    /// A renewal costs a look into memory, not at the disk.
    #[tokio::test]
    async fn who_is_active_is_told_at_once() {
        use futures::FutureExt as _;
        let dir = tempfile::tempdir().unwrap();
        let instance: InstanceId = "shop".parse().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.active(&instance).now_or_never(), Some(Ok(None)));
        let epoch = store.reserve(&instance, claim(1), None).await.unwrap();
        assert_eq!(store.active(&instance).now_or_never(), Some(Ok(None)), "reserved is not active");
        let won = grant(epoch);
        store.activate(&instance, None, won.clone()).await.unwrap();
        assert_eq!(store.active(&instance).now_or_never(), Some(Ok(Some(won.clone()))));
        store.end(&instance, epoch).await.unwrap();
        let ended = Grant { ended: true, ..won };
        assert_eq!(store.active(&instance).now_or_never(), Some(Ok(Some(ended.clone()))));
        store.active.lock().insert(instance.clone(), Known::Doubtful);
        assert_eq!(store.active(&instance).now_or_never(), None, "in doubt the disk is asked");
        assert_eq!(store.active(&instance).await, Ok(Some(ended)));
        store.forget(&instance).await.unwrap();
        assert_eq!(store.active(&instance).now_or_never(), Some(Ok(None)));
        store.close().await;
    }

    #[tokio::test]
    async fn a_claimer_that_saw_the_last_epoch_is_refused_without_harm() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let last = Epoch::new(towline_protocol::limits::EPOCH_MAX).unwrap();
        let refused = store.reserve(&"greedy".parse().unwrap(), claim(1), Some(last)).await;
        assert!(refused.is_err());
        assert!(store.reserve(&"modest".parse().unwrap(), claim(2), None).await.is_ok());
        store.close().await;
    }
}
