//! The record: every result of every operation, in order, appended and never changed. What holds now derives from it.

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use towline_protocol::{
    JobId, Name, WorkloadId,
    bundle::{ChangeRecord, ResultState},
    wire,
};

use super::{Change, DIRECT, Facts, StoreError, Unsound, decode};
use crate::engine::retention;

/// Results, by owner (a bundle, or `direct`) and number.
const RECORDS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("records");

/// What a record says, before it has its number.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) at_unix_ms: u64,
    pub(crate) version: u64,
    pub(crate) workload: Option<WorkloadId>,
    pub(crate) state: ResultState,
    pub(crate) message: Option<String>,
    pub(crate) job: Option<JobId>,
}

pub(super) fn open(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(RECORDS)?;
    Ok(())
}

impl Entry {
    fn check(&self, owner: &str) -> Result<(), Unsound> {
        match &self.state {
            ResultState::Other(word) => Err(Unsound::State(word.clone())),
            _ if self.at_unix_ms == 0 => {
                Err(Unsound::NoTime(self.workload.as_ref().map_or(owner, WorkloadId::as_str).to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Appends one record of `owner`, and forgets the oldest beyond what is kept.
///
/// # Errors
/// [`StoreError::Unsound`] for a result without a time or of an unknown state.
pub(crate) fn append(transaction: &WriteTransaction, owner: &str, entry: Entry) -> Result<u64, StoreError> {
    entry.check(owner).map_err(StoreError::Unsound)?;
    let mut records = transaction.open_table(RECORDS)?;
    let numbers = |first: bool| -> Result<Option<u64>, StoreError> {
        let mut range = records.range((owner, 0)..=(owner, u64::MAX))?;
        let end = if first { range.next() } else { range.next_back() };
        Ok(end.transpose()?.map(|(key, _)| key.value().1))
    };
    let seq = numbers(false)?.map_or(1, |last| last + 1);
    let first = numbers(true)?.unwrap_or(seq);
    let record = ChangeRecord {
        seq,
        at_unix_ms: entry.at_unix_ms,
        version: entry.version,
        workload: entry.workload,
        state: entry.state,
        message: entry.message,
        job: entry.job,
    };
    records.insert((owner, seq), wire::encode(&record).as_slice())?;
    for old in retention::surplus(first, seq, retention::RECORDS_OF_ONE) {
        records.remove((owner, old))?;
    }
    Ok(seq)
}

/// At most `limit` records of `owner` after `after`, oldest first.
pub(crate) fn after(
    transaction: &ReadTransaction,
    owner: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<ChangeRecord>, StoreError> {
    let records = transaction.open_table(RECORDS)?;
    let mut found = Vec::new();
    for entry in records.range((owner, after.saturating_add(1))..=(owner, u64::MAX))?.take(limit) {
        let (key, value) = entry?;
        found.push(decode(&format!("record {} of {owner}", key.value().1), value.value())?);
    }
    Ok(found)
}

/// Forgets the whole record of `owner`.
pub(super) fn forget(transaction: &WriteTransaction, owner: &str) -> Result<(), StoreError> {
    transaction.open_table(RECORDS)?.retain_in((owner, 0)..=(owner, u64::MAX), |_, _| false)?;
    Ok(())
}

/// The record of a change of a direct resource.
pub(super) fn of_direct(
    transaction: &WriteTransaction,
    change: &Change,
    job: Option<JobId>,
    now_ms: u64,
) -> Result<(), StoreError> {
    let (id, state, message) = match change {
        Change::Put(id, resource) => {
            let (state, message) = state_of(&resource.facts);
            (id, state, message)
        }
        Change::Remove(id) => (id, ResultState::Deleted, None),
    };
    append_direct(transaction, id, (state, message), job, now_ms)
}

/// The first record of a direct resource that was there before records were.
pub(super) fn begin_direct(
    transaction: &WriteTransaction,
    id: &str,
    facts: &Facts,
) -> Result<(), StoreError> {
    append_direct(transaction, id, state_of(facts), None, facts.applied_ms.max(1))
}

fn append_direct(
    transaction: &WriteTransaction,
    id: &str,
    (state, message): (ResultState, Option<String>),
    job: Option<JobId>,
    at_unix_ms: u64,
) -> Result<(), StoreError> {
    let (namespace, workload) = id.split_once('/').unwrap_or(("", id));
    // `Kind/name` names a workload; the namespace, which only a resource has, stands in the message.
    let message = match (namespace, message) {
        (crate::manifest::DEFAULT_NAMESPACE, message) => message,
        (namespace, None) => Some(format!("in namespace {namespace}")),
        (namespace, Some(message)) => Some(format!("in namespace {namespace}: {message}")),
    };
    let entry = Entry { at_unix_ms, version: 0, workload: workload.parse().ok(), state, message, job };
    append(transaction, DIRECT, entry).map(drop)
}

fn state_of(facts: &Facts) -> (ResultState, Option<String>) {
    match &facts.failure {
        _ if facts.pending => (ResultState::Init, None),
        Some(failure) => (ResultState::Error, Some(failure.clone())),
        None => (ResultState::Ok, None),
    }
}

/// Whether a bundle may be called that: the record of direct resources stands under a name of its own.
pub(crate) fn is_reserved(name: &Name) -> bool {
    name.as_str() == DIRECT
}
