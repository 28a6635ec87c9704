//! What an engine shows of who acts on it, and what follows from that. Pure.

use std::collections::HashMap;

use towline_protocol::{Epoch, StoreId};

use crate::mark::{Right, right};

/// Label of a mark: the instance.
pub(super) const INSTANCE: &str = "dev.towline.mark";
/// The epoch.
const EPOCH: &str = "dev.towline.mark.epoch";
/// The store that the epoch was given to.
const STORE: &str = "dev.towline.mark.store";

/// One mark on an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Entry {
    pub(super) epoch: Epoch,
    pub(super) store: StoreId,
}

impl Entry {
    /// The name of the volume that shows it: there can be only one.
    pub(super) fn name(self, instance: &str) -> String {
        format!("towline-mark-{}-{}", instance.replace('/', "."), self.epoch.get())
    }

    /// As the engine keeps it.
    pub(in super::super) fn write(self, instance: &str) -> HashMap<String, String> {
        let labels = [
            (INSTANCE, instance.to_owned()),
            (EPOCH, self.epoch.to_string()),
            (STORE, self.store.to_string()),
        ];
        labels.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Reads it back; none of what is no mark of the instance.
    pub(in super::super) fn read(labels: &HashMap<String, String>, instance: &str) -> Option<Self> {
        if labels.get(INSTANCE).map(String::as_str) != Some(instance) {
            return None;
        }
        let epoch = labels.get(EPOCH)?.parse::<u64>().ok()?;
        Some(Self { epoch: Epoch::new(epoch).ok()?, store: labels.get(STORE)?.parse().ok()? })
    }
}

/// What to do where marks are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This agent acts.
    Acts,
    /// Another one does.
    Fenced(Epoch),
    /// Show this one, then look again.
    Raise(Entry),
    /// It is shown, and these came before it. If `waits`, another store had one of them: whoever it is may be in the middle
    /// of something. When that has been waited for, remove them, then look again.
    Settle { before: Vec<Entry>, waits: bool },
}

/// What follows from `found`, for an agent that acts under `own` from `store`, and saw `highest` here before. A mark may be
/// removed behind our back, and whoever was fenced stays so.
pub(super) fn judge(found: &[Entry], own: Option<Epoch>, store: StoreId, highest: Option<Epoch>) -> Verdict {
    let top = found.iter().copied().max_by_key(|entry| entry.epoch);
    let shown = top.map(|entry| entry.epoch).max(highest);
    if let Right::Fenced(epoch) = right(shown, own) {
        return Verdict::Fenced(epoch);
    }
    // Nobody has ever been told to act, here or elsewhere.
    let Some(own) = own else { return Verdict::Acts };
    match top.filter(|top| top.epoch == own) {
        None => Verdict::Raise(Entry { epoch: own, store }),
        // An epoch is given once; if it was given twice, it is not ours to say which counts.
        Some(top) if top.store != store => Verdict::Fenced(own),
        Some(_) => {
            let before: Vec<Entry> = found.iter().copied().filter(|entry| entry.epoch < own).collect();
            let waits = before.iter().any(|entry| entry.store != store);
            if before.is_empty() { Verdict::Acts } else { Verdict::Settle { before, waits } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u64) -> Epoch {
        Epoch::new(number).unwrap()
    }

    fn store(number: u128) -> StoreId {
        StoreId::new(uuid::Uuid::from_u128(number))
    }

    fn entry(number: u64, of: u128) -> Entry {
        Entry { epoch: epoch(number), store: store(of) }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = entry(7, 1).write("acme/site");
        assert_eq!(Entry::read(&written, "acme/site"), Some(entry(7, 1)));
        assert_eq!(Entry::read(&written, "acme/other"), None);
        assert_eq!(entry(7, 1).name("acme/site"), "towline-mark-acme.site-7");
        for missing in written.keys() {
            let mut labels = written.clone();
            labels.remove(missing);
            assert_eq!(Entry::read(&labels, "acme/site"), None, "without {missing}");
        }
    }

    #[test]
    fn the_highest_acts_once_it_is_shown_and_settled() {
        let judged = |found: &[Entry], own: u64, of: u128| judge(found, Some(epoch(own)), store(of), None);
        assert_eq!(judged(&[], 5, 1), Verdict::Raise(entry(5, 1)));
        assert_eq!(judged(&[entry(5, 1)], 5, 1), Verdict::Acts);
        assert_eq!(judged(&[entry(5, 1)], 6, 2), Verdict::Raise(entry(6, 2)));
        let both = [entry(6, 2), entry(5, 1)];
        assert_eq!(judged(&both, 5, 1), Verdict::Fenced(epoch(6)));
        assert_eq!(judged(&both, 6, 2), Verdict::Settle { before: vec![entry(5, 1)], waits: true });
        // One store is open in one process at a time, so nobody is in the middle of anything.
        let own = [entry(6, 1), entry(5, 1)];
        assert_eq!(judged(&own, 6, 1), Verdict::Settle { before: vec![entry(5, 1)], waits: false });
        assert_eq!(judged(&[entry(6, 2)], 6, 1), Verdict::Fenced(epoch(6)), "it was given to another");
    }

    #[test]
    fn without_an_epoch_it_acts_where_nobody_ever_did() {
        assert_eq!(judge(&[], None, store(1), None), Verdict::Acts);
        assert_eq!(judge(&[entry(1, 1)], None, store(1), None), Verdict::Fenced(epoch(1)));
    }

    #[test]
    fn whoever_was_fenced_stays_so_when_the_mark_is_lost() {
        let judged = |own: u64| judge(&[], Some(epoch(own)), store(1), Some(epoch(6)));
        assert_eq!(judged(5), Verdict::Fenced(epoch(6)));
        assert_eq!(judged(6), Verdict::Raise(entry(6, 1)), "whoever had it shows it again");
    }
}
