//! What a mark means. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use towline_protocol::{Epoch, StoreId};

use crate::holder::Holder;

/// Earlier holders that a mark names at most; a raise that finds more before it keeps the newest.
const BEFORE_MAX: usize = 16;

/// What stands in a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// The highest epoch that acted for the instance.
    pub(crate) epoch: Epoch,
    /// The store that it acted from.
    pub(crate) store: StoreId,
    /// The process that raised it.
    pub(crate) holder: Holder,
    /// The data directory of that store, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) home: Option<PathBuf>,
    /// Holders before it that may have been in the middle of an operation, oldest first.
    #[serde(default)]
    pub(crate) before: Vec<Holder>,
}

impl Shown {
    /// Reads a mark.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// As it stands in its file.
    ///
    /// # Errors
    /// That its data directory is no text.
    pub(crate) fn write(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// Whether an agent may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Nobody newer has acted.
    Acts,
    /// Another agent has, under this epoch.
    Fenced(Epoch),
}

/// Whether an agent that acts under `own` may act where the epoch `shown` is. Where there is none, nobody ever has.
pub(crate) fn right(shown: Option<Epoch>, own: Option<Epoch>) -> Right {
    match shown {
        Some(shown) if own.is_none_or(|own| own < shown) => Right::Fenced(shown),
        _ => Right::Acts,
    }
}

/// The mark as `me` leaves it when it raises it to `epoch`.
///
/// # Errors
/// The epoch that is shown, if that is higher: a mark is never lowered.
pub(crate) fn raised(mark: Option<Shown>, epoch: Epoch, store: StoreId, me: &Holder) -> Result<Shown, Epoch> {
    let mut before = Vec::new();
    if let Some(mark) = mark {
        if mark.epoch > epoch {
            return Err(mark.epoch);
        }
        before = mark.before;
        before.push(mark.holder);
        before.retain(|holder| holder != me);
        before.drain(..before.len().saturating_sub(BEFORE_MAX));
    }
    Ok(Shown { epoch, store, holder: me.clone(), home: None, before })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch(number: u64) -> Epoch {
        Epoch::new(number).unwrap()
    }

    fn holder(pid: i32) -> Holder {
        Holder { pid, ..Holder::me(Some("acme/site".to_owned())) }
    }

    fn raise(mark: Option<Shown>, number: u64, pid: i32) -> Result<Shown, Epoch> {
        raised(mark, epoch(number), StoreId::new(uuid::Uuid::from_u128(1)), &holder(pid))
    }

    #[test]
    fn who_is_not_below_the_mark_acts() {
        let shown = Some(raise(None, 5, 1).unwrap().epoch);
        assert_eq!(right(None, None), Right::Acts, "nobody ever acted");
        assert_eq!(right(None, Some(epoch(3))), Right::Acts);
        assert_eq!(right(shown, None), Right::Fenced(epoch(5)), "somebody did, and it was not us");
        assert_eq!(right(shown, Some(epoch(4))), Right::Fenced(epoch(5)));
        assert_eq!(right(shown, Some(epoch(5))), Right::Acts);
        assert_eq!(right(shown, Some(epoch(6))), Right::Acts);
    }

    #[test]
    fn a_mark_names_who_came_before_and_nobody_twice() {
        let mark = raise(Some(raise(None, 5, 1).unwrap()), 6, 2).unwrap();
        assert_eq!((mark.holder.pid, mark.before), (2, vec![holder(1)]));
        let again = raise(Some(raise(None, 5, 1).unwrap()), 5, 1).unwrap();
        assert_eq!(again.before, []);
    }

    proptest! {
        #[test]
        fn a_mark_never_falls(asked in proptest::collection::vec((1_u64..50, 0_i32..4), 1..60)) {
            let mut mark: Option<Shown> = None;
            for (number, pid) in asked {
                let shown = mark.as_ref().map(|mark| mark.epoch);
                match raise(mark.clone(), number, pid) {
                    Ok(next) => {
                        prop_assert!(shown.is_none_or(|shown| shown <= next.epoch));
                        prop_assert!(next.before.len() <= BEFORE_MAX && !next.before.contains(&next.holder));
                        mark = Some(next);
                    }
                    Err(above) => prop_assert_eq!(Some(above), shown.filter(|shown| *shown > epoch(number))),
                }
            }
        }
    }
}
