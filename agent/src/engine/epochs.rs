//! Acting in turn: nothing is begun while another agent acts, and what another store came in between of has lost its purpose.

use std::collections::BTreeMap;

use tokio::sync::OwnedRwLockReadGuard;
use towline_protocol::{
    Epoch, Name,
    job::{Job, JobRecord, JobState},
};

use super::{
    Engine,
    jobs::end,
    lanes::Item,
    pass::{Ending, Pass, Todo},
};
use crate::store::{
    jobs as stored_jobs, note_epoch, noted_epoch,
    rows::{self, BundleRow},
};

/// A stretch of work that changes rows or jobs. All open jobs end at once only between such stretches.
pub(super) type Segment = OwnedRwLockReadGuard<()>;

impl Engine {
    /// Begins a stretch of work, once nobody is ending all jobs. Taken before the gate of a bundle.
    pub(super) async fn segment(&self) -> Segment {
        self.inner.segments.clone().read_owned().await
    }

    /// Notes that this store was told to go under `epoch`, before anything is done under it. If another store was given the
    /// instance since this one had it (that is told by `since`), all open jobs end as superseded in the same transaction:
    /// exactly once, however often the agent dies in between. Says whether it is noted; else the agent ends.
    pub(crate) async fn begin_epoch(&self, epoch: Epoch, since: Option<Epoch>) -> bool {
        self.note_epoch(epoch, since).await.is_ok()
    }

    async fn note_epoch(&self, epoch: Epoch, since: Option<Epoch>) -> Result<(), Ending> {
        let served = loop {
            match self.look(noted_epoch).await {
                Ok(served) => break served,
                Err(error) => tracing::error!(%error, "the epoch waits until the store can be read"),
            }
            self.wait_for_disk().await?;
        };
        if served >= Some(epoch) {
            return Ok(());
        }
        let passed_over = served.zip(since).filter(|(served, since)| served < since);
        let Some((served, since)) = passed_over else {
            return self.persist(move |transaction| note_epoch(transaction, epoch)).await;
        };
        let reason = format!(
            "another store served this instance in between: from epoch {since} on, after this one had under epoch {served}, \
             and before it does under epoch {epoch}"
        );
        self.pass_over(epoch, &reason).await
    }

    /// Ends all open jobs.
    async fn pass_over(&self, epoch: Epoch, reason: &str) -> Result<(), Ending> {
        let segments = self.inner.segments.clone();
        let stopping = self.inner.tasks.stopping();
        let _alone = stopping.run_until_cancelled(segments.write_owned()).await.ok_or(Ending)?;
        let open: Vec<Job> = self.state().jobs.values().map(|open| open.job.clone()).collect();
        let voided: BTreeMap<Name, BundleRow> =
            open.iter().filter_map(|job| self.voided(job.bundle.as_ref()?, job.id)).map(named).collect();
        let ended: Vec<(Job, JobRecord)> =
            open.iter().map(|job| end(job.clone(), JobState::Superseded, Some(reason.to_owned()))).collect();
        let (stored, rows) = (ended.clone(), voided.clone());
        self.persist(move |transaction| {
            for (job, record) in &stored {
                stored_jobs::put_job(transaction, job)?;
                stored_jobs::append_job_record(transaction, job.id, record)?;
            }
            rows.values().try_for_each(|row| rows::put_bundle(transaction, row))?;
            note_epoch(transaction, epoch)
        })
        .await?;
        tracing::warn!(jobs = ended.len(), %epoch, "{reason}; what waited is superseded");
        for (before, (job, record)) in open.iter().zip(&ended) {
            self.forget_job(before, job, record);
        }
        for (name, row) in voided {
            if let Some(bundle) = self.state().bundles.get_mut(&name) {
                bundle.row = row;
                bundle.coming.clear();
            }
            self.release(&name);
        }
        self.kick();
        Ok(())
    }

    /// What was only accepted is never begun. What a job had begun is what its bundle is meant to be by now; it is brought to
    /// an end as what failed is, and not left in halves.
    fn forget_job(&self, before: &Job, job: &Job, record: &JobRecord) {
        if let Some(bundle) = &job.bundle {
            let mut state = self.state();
            state.lanes.withdraw(bundle, job.id);
            if before.state == JobState::Running {
                state.lanes.submit(bundle, Item::Retry);
            }
        }
        self.job_ended(job, record.seq);
    }
}

fn named(row: BundleRow) -> (Name, BundleRow) {
    (row.name.clone(), row)
}

impl Pass {
    /// Does one operation when it is this agent's turn; again, if another agent came in between.
    pub(super) async fn act(&mut self, todo: &Todo) -> Result<(), Ending> {
        loop {
            let _segment = self.its_turn().await?;
            if self.operate(todo).await? {
                return Ok(());
            }
        }
    }

    /// Waits until this agent acts.
    pub(super) async fn its_turn(&mut self) -> Result<Segment, Ending> {
        let (engine, stopping) = (self.engine.clone(), self.engine.inner.tasks.stopping().clone());
        loop {
            stopping.run_until_cancelled(engine.inner.mark.acts()).await.ok_or(Ending)?;
            let segment = engine.segment().await;
            // It may have been told of a newer epoch while it waited for that.
            if engine.inner.mark.acted() {
                self.drop_ended_job();
                return Ok(segment);
            }
        }
    }

    /// A job that ended meanwhile has nothing more to say; what it began goes on without it.
    pub(super) fn drop_ended_job(&mut self) {
        let state = self.engine.state();
        self.job.take_if(|job| !state.jobs.contains_key(&job.id));
    }
}
