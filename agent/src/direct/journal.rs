//! What a call changes in the store, so that its last change and its outcome are one transaction.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use towline_bus::{clock, clock::Moment};
use towline_protocol::{
    CallError, Code, Effect, JobId, RequestId,
    job::{Job, JobKind, JobState},
};

use crate::store::{Change, Outcome, OutcomeKey, Store, StoreError};

/// How long changes are gathered before they are written: a call that brings thousands must not wait for the disk for
/// each. What a crash takes is carried out but not stored, and settled at the next start.
const GATHER: Duration = Duration::from_millis(50);

/// Collects the changes of one call. The last one is held back until the outcome is known.
#[derive(Debug)]
pub(super) struct Journal {
    store: Arc<Store>,
    held: Vec<Change>,
    since: Moment,
    /// What is remembered of the call as a whole.
    job: Job,
}

impl Journal {
    /// For a call of `kind`, asked as `request`.
    pub(super) fn new(store: Arc<Store>, kind: JobKind, request: RequestId) -> Self {
        let job = Job {
            id: JobId::new(uuid::Uuid::new_v4()),
            kind,
            state: JobState::Running,
            bundle: None,
            version: None,
            request: Some(request),
            reason: None,
            accepted_unix_ms: clock::unix_ms(),
            started_unix_ms: Some(clock::unix_ms()),
            ended_unix_ms: None,
            records: 0,
            message: None,
            errors: BTreeMap::new(),
        };
        Self { store, held: Vec::new(), since: clock::now(), job }
    }

    /// Takes a change that was carried out; from time to time, writes those before it. Whether all could be written is
    /// said by [`Journal::finish`], of the whole call: an error here would be blamed on whoever came by.
    pub(super) async fn add(&mut self, change: Change) {
        let now = clock::now();
        if !self.held.is_empty() && now.since(self.since) >= GATHER {
            self.since = now;
            let (held, job) = (self.held.clone(), self.job.clone());
            match self.store.commit_call(held, None, Some(job), clock::unix_ms()).await {
                Ok(()) => self.held.clear(),
                Err(error) => tracing::warn!(%error, "changes wait for the end of their call to be written"),
            }
        }
        self.held.push(change);
    }

    /// Writes what is held, and the outcome with it. A refusal that did nothing is not remembered: the caller may mend
    /// what was wrong and ask again under the same id.
    pub(super) async fn finish(
        mut self,
        key: OutcomeKey,
        outcome: &Result<(), CallError>,
    ) -> Result<(), StoreError> {
        let nothing_done = outcome.as_ref().is_err_and(|error| error.effect == Effect::None);
        let changes = std::mem::take(&mut self.held);
        if changes.is_empty() && nothing_done {
            return Ok(());
        }
        let mut job = self.job;
        job.ended_unix_ms = Some(clock::unix_ms());
        job.state = match outcome {
            Ok(()) => JobState::Done,
            Err(error) if error.code == Code::Cancelled => JobState::Cancelled,
            Err(error) => {
                job.message = Some(error.message.clone());
                job.errors.clone_from(&error.errors);
                JobState::Failed
            }
        };
        let outcome = (!nothing_done).then(|| (key, Outcome(outcome.clone().map(|()| None))));
        self.store.commit_call(changes, outcome, Some(job), clock::unix_ms()).await
    }
}

/// Writes `changes` now, outside any call.
pub(super) async fn commit(store: &Arc<Store>, changes: Vec<Change>) -> Result<(), StoreError> {
    store.commit(changes, None, clock::unix_ms()).await
}
