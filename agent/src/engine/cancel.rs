//! Taking jobs back: one that was not begun ends at once, one under way undoes what it did. Either way that is stored before
//! the answer, so that it is done whatever becomes of the agent.

use redb::ReadTransaction;
use towline_bus::clock;
use towline_protocol::{
    CallError, Code, JobId, Name,
    job::{CancelJobResponse, Job, JobKind, JobState},
};

use super::{
    Engine,
    jobs::{check_reason, end},
    lanes::Item,
    put::{answered, json},
};
use crate::{
    calls::Caller,
    failpoints::failpoint,
    store::{
        Outcome, OutcomeKey,
        jobs::{self, Cancel},
        outcomes,
        rows::{self, BundleRow},
    },
};

impl Engine {
    /// Takes a job back: one that was not begun ends at once; one under way is told, and undoes what it did.
    pub(crate) async fn cancel(
        &self,
        caller: &Caller,
        id: JobId,
        reason: Option<String>,
    ) -> Result<CancelJobResponse, CallError> {
        let engine = self.clone();
        let question = crate::calls::question("cancel_job", &(id, &reason));
        self.once(caller, question, move |key| async move {
            let job = engine.cancel_now(key, id, reason).await?;
            answered(&CancelJobResponse { job })
        })
        .await
    }

    async fn cancel_now(&self, key: OutcomeKey, id: JobId, reason: Option<String>) -> Result<Job, CallError> {
        check_reason(reason.as_deref())?;
        let bundle = self.state().jobs.get(&id).and_then(|open| open.job.bundle.clone());
        let Some(bundle) = bundle else {
            return match self.look(move |transaction| jobs::job(transaction, id)).await? {
                Some(job) => {
                    Err(CallError::new(Code::Conflict, format!("job {id} has ended: {}", job.state)))
                }
                None => Err(CallError::new(Code::NotFound, format!("there is no job {id}"))),
            };
        };
        let _segment = self.segment().await;
        // While it is held no job of the bundle ends.
        let _gate = self.inner.gates.pass(&bundle).await;
        let (job, waits) = {
            let mut state = self.state();
            let waits = state.is_pending(id) && state.lanes.withdraw(&bundle, id);
            let Some(open) = state.jobs.get(&id) else {
                return Err(CallError::new(Code::Conflict, format!("job {id} has ended")));
            };
            (open.job.clone(), waits)
        };
        if waits {
            self.end_waiting(key, &bundle, job, reason).await
        } else {
            self.tell(key, job, reason).await
        }
    }

    /// Tells a job under way that it was taken back, once that is stored: else the next agent would do it again, whole.
    async fn tell(&self, key: OutcomeKey, job: Job, reason: Option<String>) -> Result<Job, CallError> {
        let id = job.id;
        let Some(mut notes) = self.state().jobs.get(&id).map(|open| open.notes.clone()) else {
            return Ok(job);
        };
        // The first reason is the one that it is taken back for.
        notes.cancel.get_or_insert(Cancel { reason });
        let outcome = Outcome(Ok(Some(json(&CancelJobResponse { job: job.clone() })?)));
        let (noted, now) = (notes.clone(), clock::unix_ms());
        let write = self.inner.store.write_out(move |transaction| {
            jobs::note(transaction, id, &noted)?;
            outcomes::remember(transaction, &key, &outcome, now)
        });
        let is_noted = move |transaction: &ReadTransaction| {
            Ok(jobs::notes(transaction, id)?.is_some_and(|notes| notes.cancel.is_some()))
        };
        self.certain(write.await, is_noted).await?;
        failpoint!("cancel.stored");
        if let Some(open) = self.state().jobs.get_mut(&id) {
            open.notes = notes;
            open.cancelled.cancel();
        }
        Ok(job)
    }

    /// Ends a job that was taken out of its lane before it began.
    async fn end_waiting(
        &self,
        key: OutcomeKey,
        bundle: &Name,
        job: Job,
        reason: Option<String>,
    ) -> Result<Job, CallError> {
        let (id, kind) = (job.id, job.kind.clone());
        let (job, record) = end(job, JobState::Cancelled, reason);
        let row = (kind == JobKind::Put).then(|| self.voided(bundle, id)).flatten();
        let (stored, last, kept) = (job.clone(), record.clone(), row.clone());
        let outcome = Outcome(Ok(Some(json(&CancelJobResponse { job: job.clone() })?)));
        let now = clock::unix_ms();
        let write = self.inner.store.write_out(move |transaction| {
            jobs::put_job(transaction, &stored)?;
            jobs::append_job_record(transaction, stored.id, &last)?;
            outcomes::remember(transaction, &key, &outcome, now)?;
            kept.as_ref().map_or(Ok(()), |row| rows::put_bundle(transaction, row))
        });
        let has_ended = move |transaction: &ReadTransaction| {
            Ok(jobs::job(transaction, id)?.is_some_and(|job| job.state.is_terminal()))
        };
        let written = self.certain(write.await, has_ended).await;
        let mut state = self.state();
        if let Err(error) = written {
            state.lanes.submit(bundle, Item::Job { id, kind });
            drop(state);
            self.kick();
            return Err(error);
        }
        if let Some((known, row)) = state.bundles.get_mut(bundle).zip(row) {
            known.row = row;
            known.coming.clear();
        }
        if let Some(open) = state.jobs.remove(&id) {
            open.progress.send_replace(record.seq);
        }
        drop(state);
        self.release(bundle);
        Ok(job)
    }

    /// The row of a bundle whose accepted version was taken back, if it was by this job.
    pub(super) fn voided(&self, bundle: &Name, job: JobId) -> Option<BundleRow> {
        let row = self.state().bundles.get(bundle)?.row.clone();
        (row.put == job).then_some(BundleRow { void: true, ..row })
    }
}
