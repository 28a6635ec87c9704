//! Changes that are made again because nobody knows whether they were: a disk that fails may have them all the same.

use redb::{TableDefinition, WriteTransaction};

use super::StoreError;

/// The mark of the last change of each bundle's lane, by bundle.
const LAST: TableDefinition<'_, &str, u128> = TableDefinition::new("last-changes");

/// Makes a change of the lane of `bundle`, unless the last one has the same mark: then it was made before. A lane makes one
/// change after the other, so the last is all that can be in doubt.
pub(crate) fn once(
    transaction: &WriteTransaction,
    bundle: &str,
    mark: u128,
    change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let known = transaction.open_table(LAST)?.insert(bundle, mark)?.map(|known| known.value());
    if known == Some(mark) { Ok(()) } else { change(transaction) }
}

/// Forgets the lane of a bundle that is forgotten.
pub(super) fn forget(transaction: &WriteTransaction, bundle: &str) -> Result<(), StoreError> {
    transaction.open_table(LAST)?.remove(bundle)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use towline_protocol::bundle::ResultState;

    use super::{
        super::{Store, records},
        *,
    };

    #[tokio::test]
    async fn z_s4_what_is_made_again_after_a_doubtful_failure_is_recorded_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = |bundle: &'static str, mark: u128| {
            store.write(move |transaction| {
                once(transaction, bundle, mark, |transaction| {
                    let entry = records::Entry {
                        at_unix_ms: 1,
                        version: 1,
                        workload: None,
                        state: ResultState::Ok,
                        message: None,
                        job: None,
                    };
                    records::append(transaction, bundle, entry).map(drop)
                })
            })
        };
        for (bundle, mark) in [("a", 1), ("b", 2), ("a", 1), ("a", 3), ("a", 3), ("b", 2)] {
            made(bundle, mark).await.unwrap();
        }
        let count = |bundle| store.read(|look| records::after(look, bundle, 0, 9)).unwrap().len();
        assert_eq!((count("a"), count("b")), (2, 1));
    }
}
