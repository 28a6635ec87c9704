//! Which store saw the first attempt of a mutating call. A retry is pinned to it: another store would do the work again.

use redb::{ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use towline_protocol::{InstanceId, RequestId, StoreId};

use super::{Store, StoreError, decode, encode};
use crate::limits;

const PINS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pins");
const PINS_BY_AGE: TableDefinition<'_, (u64, &str, &str), ()> = TableDefinition::new("pins_by_age");

pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(PINS)?;
    transaction.open_table(PINS_BY_AGE)?;
    Ok(())
}

/// Where and when a request id was used first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The store that saw the first attempt.
    pub store: StoreId,
    /// When it was made, in Unix milliseconds.
    pub at_unix_ms: u64,
}

/// How a pin is kept.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Kept {
    store: StoreId,
    at_unix_ms: u64,
    /// A second attempt goes by it as well, so the first one cannot take it back any more.
    #[serde(default)]
    is_shared: bool,
}

impl Kept {
    const fn pin(self) -> Pin {
        Pin { store: self.store, at_unix_ms: self.at_unix_ms }
    }
}

impl Store {
    /// The pin of a request id, if it was used in the last 48 hours.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn pin(&self, instance: &InstanceId, id: &RequestId) -> Result<Option<Pin>, StoreError> {
        let (instance, id) = (instance.to_string(), id.clone());
        self.read(move |transaction| {
            let table = transaction.open_table(PINS)?;
            let found = table.get((instance.as_str(), id.as_str()))?;
            found.map(|found| decode::<Kept>(found.value()).map(Kept::pin)).transpose()
        })
        .await
    }

    /// Pins a request id unless it is pinned. Returns the pin that stands, and whether this made it. Durable before the answer.
    ///
    /// # Errors
    /// When the store fails; the call must not be sent then.
    pub async fn pin_first(
        &self,
        instance: &InstanceId,
        id: &RequestId,
        pin: Pin,
    ) -> Result<(Pin, bool), StoreError> {
        let (instance, id) = (instance.to_string(), id.clone());
        self.write(move |transaction| {
            prune(transaction, pin.at_unix_ms, limits::PINS_MAX)?;
            let mut pins = transaction.open_table(PINS)?;
            let key = (instance.as_str(), id.as_str());
            let first = pins.get(key)?.map(|first| decode::<Kept>(first.value())).transpose()?;
            let Some(first) = first else {
                let kept = Kept { store: pin.store, at_unix_ms: pin.at_unix_ms, is_shared: false };
                pins.insert(key, encode(&kept).as_slice())?;
                let mut by_age = transaction.open_table(PINS_BY_AGE)?;
                by_age.insert((pin.at_unix_ms, instance.as_str(), id.as_str()), ())?;
                return Ok((pin, true));
            };
            if !first.is_shared {
                pins.insert(key, encode(&Kept { is_shared: true, ..first }).as_slice())?;
            }
            Ok((first.pin(), false))
        })
        .await
    }

    /// Takes back the pin of an attempt that came to nothing, unless another attempt has gone by it since: that one may have
    /// done the work.
    ///
    /// # Errors
    /// When the store fails; the pin may stand then, which costs a retry elsewhere and nothing else.
    pub async fn unpin(&self, instance: &InstanceId, id: &RequestId, made: Pin) -> Result<(), StoreError> {
        let (instance, id) = (instance.to_string(), id.clone());
        self.write(move |transaction| {
            let mut pins = transaction.open_table(PINS)?;
            let key = (instance.as_str(), id.as_str());
            let found = pins.get(key)?.map(|found| decode::<Kept>(found.value())).transpose()?;
            if found.is_none_or(|found| found.is_shared || found.pin() != made) {
                return Ok(());
            }
            pins.remove(key)?;
            let mut by_age = transaction.open_table(PINS_BY_AGE)?;
            by_age.remove((made.at_unix_ms, instance.as_str(), id.as_str()))?;
            Ok(())
        })
        .await
    }
}

/// Drops what is too old, and what is too much.
fn prune(transaction: &WriteTransaction, now_unix_ms: u64, keep: u64) -> Result<(), StoreError> {
    let kept_ms = u64::try_from(limits::PIN_KEPT.as_millis()).unwrap_or(u64::MAX);
    let too_old = now_unix_ms.saturating_sub(kept_ms);
    let mut pins = transaction.open_table(PINS)?;
    let mut by_age = transaction.open_table(PINS_BY_AGE)?;
    for _ in 0..limits::PINS_PRUNED_AT_ONCE {
        let is_full = by_age.len()? >= keep;
        let Some((key, _)) = by_age.first()? else { break };
        let (at_unix_ms, instance, id) = key.value();
        if at_unix_ms >= too_old && !is_full {
            break;
        }
        let (instance, id) = (instance.to_owned(), id.to_owned());
        drop(key);
        pins.remove((instance.as_str(), id.as_str()))?;
        by_age.remove((at_unix_ms, instance.as_str(), id.as_str()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn pin(at_unix_ms: u64) -> Pin {
        Pin { store: StoreId::new(Uuid::new_v4()), at_unix_ms }
    }

    #[tokio::test]
    async fn the_first_pin_stands_until_it_is_too_old() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let instance: InstanceId = "shop".parse().unwrap();
        let id: RequestId = "deploy-1".parse().unwrap();
        let first = pin(1_000);
        assert_eq!(store.pin(&instance, &id).await, Ok(None));
        assert_eq!(store.pin_first(&instance, &id, first).await, Ok((first, true)));
        assert_eq!(store.pin_first(&instance, &id, pin(2_000)).await, Ok((first, false)));
        assert_eq!(store.pin(&instance, &id).await, Ok(Some(first)));
        assert_eq!(
            store.pin(&"other".parse().unwrap(), &id).await,
            Ok(None),
            "a key belongs to its instance"
        );

        let later = pin(2_000 + 48 * 3_600 * 1_000);
        assert_eq!(store.pin_first(&instance, &id, later).await, Ok((later, true)));
        store.close().await;
    }

    #[tokio::test]
    async fn a_pin_is_taken_back_by_its_maker_alone_and_while_nobody_else_goes_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let instance: InstanceId = "shop".parse().unwrap();
        let id: RequestId = "deploy-1".parse().unwrap();
        let first = pin(1_000);
        store.pin_first(&instance, &id, first).await.unwrap();
        store.unpin(&instance, &id, pin(1_000)).await.unwrap();
        assert_eq!(store.pin(&instance, &id).await, Ok(Some(first)), "somebody else's");
        store.unpin(&instance, &id, first).await.unwrap();
        assert_eq!(store.pin(&instance, &id).await, Ok(None));

        store.pin_first(&instance, &id, first).await.unwrap();
        store.pin_first(&instance, &id, pin(2_000)).await.unwrap();
        store.unpin(&instance, &id, first).await.unwrap();
        assert_eq!(store.pin(&instance, &id).await, Ok(Some(first)), "a second attempt goes by it");
        store.close().await;
    }

    #[tokio::test]
    async fn pins_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let instance: InstanceId = "shop".parse().unwrap();
        for number in 0..6_u64 {
            let id: RequestId = format!("id-{number}").parse().unwrap();
            store.pin_first(&instance, &id, pin(number)).await.unwrap();
            store.write(|transaction| prune(transaction, 10, 4)).await.unwrap();
        }
        assert_eq!(store.pin(&instance, &"id-0".parse().unwrap()).await, Ok(None));
        assert!(store.pin(&instance, &"id-5".parse().unwrap()).await.unwrap().is_some());
        store.close().await;
    }
}
