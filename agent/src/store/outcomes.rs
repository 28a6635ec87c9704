//! Outcomes of mutating calls by request id: what makes a retry harmless.

use redb::{
    ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use towline_protocol::CallError;

use super::StoreError;

/// Outcomes, as JSON, by request id.
const OUTCOMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("outcomes");
/// Request ids by time of outcome, to forget the oldest first.
const BY_TIME: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("outcomes-by-time");

/// How long an outcome is remembered. The hub refuses request ids older than 24 h, so this is twice what is needed.
const MEMORY_MS: u64 = 48 * 60 * 60 * 1000;
/// Most outcomes remembered. At a call a second this is a day's worth; at some hundred bytes each, a few MiB.
const MOST: u64 = 100_000;

/// Which call an outcome belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeKey {
    /// The caller's id for it.
    pub request: String,
    /// Digest of what was asked. The same id with another question is a mistake of the caller's.
    pub question: String,
}

/// What came of a mutating call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome(pub Result<(), CallError>);

#[derive(Serialize, Deserialize)]
struct Entry {
    at_ms: u64,
    key: OutcomeKey,
    outcome: Outcome,
}

pub(super) fn open(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(OUTCOMES)?;
    transaction.open_table(BY_TIME)?;
    Ok(())
}

pub(super) fn remember(
    transaction: &WriteTransaction,
    key: &OutcomeKey,
    outcome: &Outcome,
    now_ms: u64,
) -> Result<(), StoreError> {
    let mut outcomes = transaction.open_table(OUTCOMES)?;
    let mut by_time = transaction.open_table(BY_TIME)?;
    let entry = Entry { at_ms: now_ms, key: key.clone(), outcome: outcome.clone() };
    let json = serde_json::to_vec(&entry).map_err(|error| StoreError(error.to_string()))?;
    outcomes.insert(key.request.as_str(), json.as_slice())?;
    by_time.insert((now_ms, key.request.as_str()), ())?;
    loop {
        let oldest = by_time.first()?.map(|(key, _)| (key.value().0, key.value().1.to_owned()));
        let Some((at, request)) = oldest else { break };
        if at.saturating_add(MEMORY_MS) > now_ms && outcomes.len()? <= MOST {
            break;
        }
        by_time.remove((at, request.as_str()))?;
        outcomes.remove(request.as_str())?;
    }
    Ok(())
}

pub(super) fn recall(
    transaction: &ReadTransaction,
    request: &str,
) -> Result<Option<(OutcomeKey, Outcome)>, StoreError> {
    let outcomes = transaction.open_table(OUTCOMES)?;
    let Some(json) = outcomes.get(request)? else { return Ok(None) };
    let entry: Entry = serde_json::from_slice(json.value())
        .map_err(|error| StoreError(format!("the outcome of {request} is not readable: {error}")))?;
    Ok(Some((entry.key, entry.outcome)))
}
