//! Jobs: what was accepted, how far it is, and each of its steps.

use redb::{
    ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use towline_protocol::{
    JobId, Name,
    job::{Job, JobRecord, JobState},
    wire,
};

use super::{StoreError, decode};
use crate::engine::retention;

/// Jobs, by number: they are accepted in this order.
const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");
/// Numbers of jobs, by id.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("job-numbers");
/// Numbers of the jobs that have not ended.
const OPEN: TableDefinition<'_, u64, ()> = TableDefinition::new("open-jobs");
/// Steps, by number of the job and of the step.
const STEPS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("job-records");

/// What the agent notes of jobs that have not ended, by number.
const NOTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("job-notes");

/// Jobs that one look for the oldest that has ended goes through: open ones may be older, those that are stuck for good,
/// but nobody waits long for the next that is accepted.
const PASSED_OVER: usize = 1_000;

/// What the agent notes of a job besides what everybody is told of it. Kept until the job ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// It is done whole, also where nothing changed; a deletion forgets what it cannot remove.
    #[serde(default)]
    pub(crate) forced: bool,
    /// It was taken back, and is to undo what it did.
    #[serde(default)]
    pub(crate) cancel: Option<Cancel>,
}

/// That a job was taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancel {
    /// Why, as whoever asked for it said.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Which jobs are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobPage {
    pub(crate) bundle: Option<Name>,
    pub(crate) states: Vec<JobState>,
    /// Those older than this one.
    pub(crate) after: Option<JobId>,
    pub(crate) limit: usize,
}

pub(super) fn open(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(JOBS)?;
    transaction.open_table(NUMBERS)?;
    transaction.open_table(OPEN)?;
    transaction.open_table(STEPS)?;
    transaction.open_table(NOTES)?;
    Ok(())
}

/// Adds a job, gives it its number, and forgets the oldest that have ended beyond what is kept.
pub(crate) fn add_job(transaction: &WriteTransaction, job: &Job) -> Result<(), StoreError> {
    let number = transaction.open_table(JOBS)?.last()?.map_or(1, |(number, _)| number.value() + 1);
    transaction.open_table(NUMBERS)?.insert(job.id.to_string().as_str(), number)?;
    write(transaction, number, job)?;
    forget(transaction)
}

/// Adds a job that has ended already, with its one record: what a call did before it was answered.
pub(super) fn add_ended(transaction: &WriteTransaction, mut job: Job) -> Result<(), StoreError> {
    job.records = 1;
    let last = JobRecord {
        seq: 1,
        at_unix_ms: job.ended_unix_ms.unwrap_or(job.accepted_unix_ms),
        state: job.state.clone(),
        workload: None,
        op: None,
        step: None,
        result: None,
        message: job.message.clone(),
    };
    add_job(transaction, &job)?;
    append_job_record(transaction, job.id, &last)
}

/// Stores how a job stands now; one that was forgotten stays so.
pub(crate) fn put_job(transaction: &WriteTransaction, job: &Job) -> Result<(), StoreError> {
    match number_of(transaction, job.id)? {
        Some(number) => write(transaction, number, job),
        None => Ok(()),
    }
}

/// Stores what is noted of a job; nothing of one that has ended.
pub(crate) fn note(transaction: &WriteTransaction, job: JobId, notes: &Notes) -> Result<(), StoreError> {
    let Some(number) = number_of(transaction, job)? else { return Ok(()) };
    if transaction.open_table(OPEN)?.get(number)?.is_some() {
        transaction.open_table(NOTES)?.insert(number, wire::encode(notes).as_slice())?;
    }
    Ok(())
}

/// Appends one step of a job. Its sequence is the job's `records`.
pub(crate) fn append_job_record(
    transaction: &WriteTransaction,
    job: JobId,
    record: &JobRecord,
) -> Result<(), StoreError> {
    if let Some(number) = number_of(transaction, job)? {
        transaction.open_table(STEPS)?.insert((number, record.seq), wire::encode(record).as_slice())?;
    }
    Ok(())
}

fn number_of(transaction: &WriteTransaction, job: JobId) -> Result<Option<u64>, StoreError> {
    Ok(transaction.open_table(NUMBERS)?.get(job.to_string().as_str())?.map(|number| number.value()))
}

fn write(transaction: &WriteTransaction, number: u64, job: &Job) -> Result<(), StoreError> {
    transaction.open_table(JOBS)?.insert(number, wire::encode(job).as_slice())?;
    let mut open = transaction.open_table(OPEN)?;
    if job.state.is_terminal() {
        open.remove(number)?;
        transaction.open_table(NOTES)?.remove(number)?;
    } else {
        open.insert(number, ())?;
    }
    Ok(())
}

fn forget(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let mut jobs = transaction.open_table(JOBS)?;
    let open = transaction.open_table(OPEN)?;
    let surplus = usize::try_from(jobs.len()?.saturating_sub(retention::JOBS)).unwrap_or(usize::MAX);
    // Two for each that is added, so that a store that held too many comes down to what is kept.
    let mut oldest = Vec::new();
    for entry in jobs.iter()?.take(PASSED_OVER) {
        let (number, job) = entry?;
        if oldest.len() == surplus.min(2) {
            break;
        }
        if open.get(number.value())?.is_none() {
            oldest.push((number.value(), job.value().to_vec()));
        }
    }
    for (number, job) in oldest {
        jobs.remove(number)?;
        if let Ok(job) = decode::<Job>("a job", &job) {
            transaction.open_table(NUMBERS)?.remove(job.id.to_string().as_str())?;
        }
        transaction.open_table(STEPS)?.retain_in((number, 0)..=(number, u64::MAX), |_, _| false)?;
    }
    Ok(())
}

/// The jobs that have not ended, oldest first, with what is noted of them: nothing, where an older agent accepted it. One that
/// is not readable is left out, and said so.
pub(crate) fn unfinished(transaction: &ReadTransaction) -> Result<Vec<(Job, Option<Notes>)>, StoreError> {
    let (jobs, notes) = (transaction.open_table(JOBS)?, transaction.open_table(NOTES)?);
    let mut found = Vec::new();
    for entry in transaction.open_table(OPEN)?.iter()? {
        let number = entry?.0.value();
        let Some(bytes) = jobs.get(number)? else { continue };
        match decode::<Job>(&format!("job {number}"), bytes.value()) {
            Ok(job) => {
                let notes = notes.get(number)?;
                let notes = notes.map(|notes| decode(&format!("the notes of job {number}"), notes.value()));
                let unreadable =
                    |error: &StoreError| tracing::error!(%error, "it is done as if nothing was noted");
                found.push((job, notes.and_then(|notes| notes.inspect_err(unreadable).ok())));
            }
            Err(error) => tracing::error!(%error, "set aside; the others go on"),
        }
    }
    Ok(found)
}

/// A job, if it is still remembered.
pub(crate) fn job(transaction: &ReadTransaction, id: JobId) -> Result<Option<Job>, StoreError> {
    let Some(number) = number(transaction, id)? else { return Ok(None) };
    let bytes = transaction.open_table(JOBS)?.get(number)?;
    bytes.map(|bytes| decode(&format!("job {id}"), bytes.value())).transpose()
}

/// What is noted of a job that has not ended.
pub(crate) fn notes(transaction: &ReadTransaction, id: JobId) -> Result<Option<Notes>, StoreError> {
    let Some(number) = number(transaction, id)? else { return Ok(None) };
    let bytes = transaction.open_table(NOTES)?.get(number)?;
    bytes.map(|bytes| decode(&format!("the notes of job {id}"), bytes.value())).transpose()
}

/// At most `limit` steps of a job after `after`, in order.
pub(crate) fn steps(
    transaction: &ReadTransaction,
    id: JobId,
    after: u64,
    limit: usize,
) -> Result<Vec<JobRecord>, StoreError> {
    let Some(number) = number(transaction, id)? else { return Ok(Vec::new()) };
    let steps = transaction.open_table(STEPS)?;
    let mut found = Vec::new();
    for entry in steps.range((number, after.saturating_add(1))..=(number, u64::MAX))?.take(limit) {
        found.push(decode(&format!("a step of job {id}"), entry?.1.value())?);
    }
    Ok(found)
}

/// Jobs, newest first; and whether there are more.
pub(crate) fn page(transaction: &ReadTransaction, asked: &JobPage) -> Result<(Vec<Job>, bool), StoreError> {
    let before = match asked.after {
        Some(id) => number(transaction, id)?.unwrap_or(0),
        None => u64::MAX,
    };
    let jobs = transaction.open_table(JOBS)?;
    let mut found = Vec::new();
    for entry in jobs.range(..before)?.rev() {
        let (number, bytes) = entry?;
        // One that is not readable does not hide the others.
        let Ok(job) = decode::<Job>(&format!("job {}", number.value()), bytes.value())
            .inspect_err(|error| tracing::error!(%error, "left out of the list"))
        else {
            continue;
        };
        let wanted = asked.bundle.as_ref().is_none_or(|bundle| job.bundle.as_ref() == Some(bundle))
            && (asked.states.is_empty() || asked.states.contains(&job.state));
        if wanted {
            if found.len() == asked.limit {
                return Ok((found, true));
            }
            found.push(job);
        }
    }
    Ok((found, false))
}

fn number(transaction: &ReadTransaction, id: JobId) -> Result<Option<u64>, StoreError> {
    Ok(transaction.open_table(NUMBERS)?.get(id.to_string().as_str())?.map(|number| number.value()))
}

#[cfg(test)]
mod tests {
    use towline_protocol::job::JobKind;

    use super::{super::Store, *};

    fn job(number: u128, state: JobState) -> Job {
        Job {
            id: JobId::new(uuid::Uuid::from_u128(number)),
            kind: JobKind::Put,
            state,
            bundle: None,
            version: None,
            request: None,
            reason: None,
            accepted_unix_ms: 0,
            started_unix_ms: None,
            ended_unix_ms: None,
            records: 0,
            message: None,
            errors: std::collections::BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn z_e12_a_job_that_is_not_readable_is_set_aside_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let all = (1..=3).map(|number| job(number, JobState::Pending)).collect::<Vec<_>>();
        let added = all.clone();
        store
            .write(move |transaction| {
                added.iter().try_for_each(|job| add_job(transaction, job))?;
                transaction.open_table(JOBS)?.insert(2, b"torn".as_slice())?;
                Ok(())
            })
            .await
            .unwrap();
        let found = store.read(unfinished).unwrap();
        let ids: Vec<JobId> = found.iter().map(|(job, _)| job.id).collect();
        assert_eq!(ids, all.iter().map(|job| job.id).step_by(2).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_is_noted_of_a_job_is_kept_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [first, second] = [1, 2].map(|number| job(number, JobState::Running));
        let (asked, other) = (first.clone(), second.clone());
        let cancel = Some(Cancel { reason: Some("not now".to_owned()) });
        let notes = Notes { forced: true, cancel };
        let noted = notes.clone();
        store
            .write(move |transaction| {
                add_job(transaction, &asked)?;
                add_job(transaction, &other)?;
                note(transaction, asked.id, &noted)
            })
            .await
            .unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        let found = store.read(unfinished).unwrap();
        // Of the other an older agent noted nothing.
        assert_eq!(found, [(first.clone(), Some(notes.clone())), (second, None)]);
        let ended = Job { state: JobState::Cancelled, ..first.clone() };
        store
            .write(move |transaction| {
                put_job(transaction, &ended)?;
                note(transaction, ended.id, &notes)
            })
            .await
            .unwrap();
        assert_eq!(store.read(|transaction| super::notes(transaction, first.id)).unwrap(), None);
    }

    #[tokio::test]
    async fn the_newest_jobs_are_kept_and_those_that_have_not_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let most = u128::from(retention::JOBS);
        store
            .write(move |transaction| {
                (0..most + 50).try_for_each(|number| add_job(transaction, &job(number, JobState::Done)))?;
                add_job(transaction, &job(most + 50, JobState::Pending))
            })
            .await
            .unwrap();
        let (len, oldest, open) = store
            .read(|transaction| {
                let jobs = transaction.open_table(JOBS)?;
                Ok((jobs.len()?, job_of(transaction, 40)?, unfinished(transaction)?.len()))
            })
            .unwrap();
        assert_eq!((u128::from(len), oldest, open), (most, None, 1));
    }

    #[tokio::test]
    async fn one_that_never_ends_keeps_none_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let most = u128::from(retention::JOBS);
        store
            .write(move |transaction| {
                add_job(transaction, &job(0, JobState::Running))?;
                (1..most + 50).try_for_each(|number| add_job(transaction, &job(number, JobState::Done)))
            })
            .await
            .unwrap();
        let (len, stuck) = store
            .read(|transaction| Ok((transaction.open_table(JOBS)?.len()?, job_of(transaction, 0)?)))
            .unwrap();
        assert_eq!((u128::from(len), stuck.is_some()), (most, true));
    }

    fn job_of(transaction: &ReadTransaction, number: u128) -> Result<Option<Job>, StoreError> {
        super::job(transaction, JobId::new(uuid::Uuid::from_u128(number)))
    }
}
