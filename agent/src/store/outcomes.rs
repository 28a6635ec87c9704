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
///
/// This time is not the wall clock's, it only follows it: it never goes back, and not forward in leaps.
const BY_TIME: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("outcomes-by-time");
/// How many bytes all outcomes have, once.
const BYTES: TableDefinition<'_, (), u64> = TableDefinition::new("outcomes-bytes");

/// How long an outcome is remembered. The hub refuses request ids older than 24 h, so this is twice what is needed.
const MEMORY_MS: u64 = 48 * 60 * 60 * 1000;
/// Most that an outcome ages between it and the next. Where the wall clock jumps (a host that boots in 1970 and hears of
/// the time later), what was done yesterday must not be forgotten for it; in rare calls, it is remembered longer.
const STEP_MS: u64 = 24 * 60 * 60 * 1000;
/// Most bytes of outcomes remembered, as JSON: one may hold an error for each of thousands of ids.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
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
pub struct Outcome(
    /// What was answered: nothing, or the response as JSON; or why not.
    pub Result<Option<String>, CallError>,
);

#[derive(Serialize, Deserialize)]
struct Entry {
    at_ms: u64,
    key: OutcomeKey,
    outcome: Outcome,
}

pub(super) fn open(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(OUTCOMES)?;
    transaction.open_table(BY_TIME)?;
    transaction.open_table(BYTES)?;
    Ok(())
}

pub(crate) fn remember(
    transaction: &WriteTransaction,
    key: &OutcomeKey,
    outcome: &Outcome,
    now_ms: u64,
) -> Result<(), StoreError> {
    let mut outcomes = transaction.open_table(OUTCOMES)?;
    let mut by_time = transaction.open_table(BY_TIME)?;
    let mut total = transaction.open_table(BYTES)?;
    let mut bytes = total.get(())?.map_or(0, |bytes| bytes.value());
    let newest = by_time.last()?.map(|(key, _)| (key.value().0, key.value().1.to_owned()));
    let now = match &newest {
        Some((last, request)) => {
            let wall = outcomes.get(request.as_str())?.and_then(|json| wall(json.value())).unwrap_or(*last);
            last.saturating_add(now_ms.saturating_sub(wall).min(STEP_MS))
        }
        None => now_ms,
    };
    let entry = Entry { at_ms: now_ms, key: key.clone(), outcome: outcome.clone() };
    let json = serde_json::to_vec(&entry).map_err(|error| StoreError::Failed(error.to_string()))?;
    bytes = bytes.saturating_add(size(&json));
    outcomes.insert(key.request.as_str(), json.as_slice())?;
    by_time.insert((now, key.request.as_str()), ())?;
    loop {
        let oldest = by_time.first()?.map(|(key, _)| (key.value().0, key.value().1.to_owned()));
        // The one that was just added stays, whatever its size.
        let Some((at, request)) = oldest.filter(|(_, request)| *request != key.request) else { break };
        if at.saturating_add(MEMORY_MS) > now && outcomes.len()? <= MOST && bytes <= MOST_BYTES {
            break;
        }
        by_time.remove((at, request.as_str()))?;
        let removed = outcomes.remove(request.as_str())?.map_or(0, |json| size(json.value()));
        bytes = bytes.saturating_sub(removed);
    }
    total.insert((), bytes)?;
    Ok(())
}

fn size(json: &[u8]) -> u64 {
    u64::try_from(json.len()).unwrap_or(u64::MAX)
}

/// When an outcome was remembered, by the wall clock of then.
fn wall(json: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct At {
        at_ms: u64,
    }
    serde_json::from_slice::<At>(json).ok().map(|at| at.at_ms)
}

pub(super) fn recall(
    transaction: &ReadTransaction,
    request: &str,
) -> Result<Option<(OutcomeKey, Outcome)>, StoreError> {
    let outcomes = transaction.open_table(OUTCOMES)?;
    let Some(json) = outcomes.get(request)? else { return Ok(None) };
    let entry: Entry = serde_json::from_slice(json.value())
        .map_err(|error| StoreError::Failed(format!("the outcome of {request} is not readable: {error}")))?;
    Ok(Some((entry.key, entry.outcome)))
}
