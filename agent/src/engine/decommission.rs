//! Giving up on a workload, on behalf of a monitor: accepted as a job, so that it is done whatever becomes of the agent, and
//! done in the lane of its bundle, so that nobody else is at work on it.

use towline_protocol::{
    CallError, Code, JobId, Name, WorkloadId,
    bundle::ResultState,
    job::{Job, JobKind},
    limits::REASON_BYTES_MAX,
};

use super::{
    Engine,
    jobs::{Accepting, existing},
    pass::Goal,
};

impl Engine {
    /// Accepts that a workload is taken down, and says by which job; by none if it is an error already, or gone.
    ///
    /// It stays visible as an error with the reason, and comes back only when someone asks. Asked again while it waits, it is
    /// the same job.
    ///
    /// # Errors
    /// That there is no such workload, or why it is not accepted.
    pub(crate) async fn decommission(
        &self,
        bundle: &Name,
        workload: &WorkloadId,
        reason: &str,
    ) -> Result<Option<JobId>, CallError> {
        let _segment = self.segment().await;
        let _gate = self.inner.gates.pass(bundle).await;
        let mut row = {
            let state = self.state();
            let known = existing(state.bundles.get(bundle), bundle)?;
            let Some(found) = known.workloads.get(workload) else {
                let text = format!("bundle {bundle} has no workload {workload}");
                return Err(CallError::new(Code::NotFound, text));
            };
            if matches!(found.result.state, ResultState::Error | ResultState::Deleted) {
                return Ok(None);
            }
            let same = |job: &Job| {
                job.bundle.as_ref() == Some(bundle) && asked(job).is_some_and(|(asked, _)| asked == *workload)
            };
            if let Some(open) = state.jobs.values().find(|open| same(&open.job)) {
                return Ok(Some(open.job.id));
            }
            known.row.clone()
        };
        let version = (row.target > 0).then_some(row.target);
        let job =
            self.new_job(JobKind::Decommission, Some(bundle), version, None, Some(told(workload, reason)));
        let id = job.id;
        row.job = id;
        self.accept(Accepting { job, row, content: None, outcome: None }).await?;
        Ok(Some(id))
    }
}

/// What its job is to bring about.
pub(super) fn goal(job: &Job) -> Option<Goal> {
    asked(job).map(|(workload, reason)| Goal::GiveUp(workload, reason))
}

/// Which workload, and why, as the reason of its job says it.
fn told(workload: &WorkloadId, reason: &str) -> String {
    let mut text = format!("{workload}: {reason}");
    let end = (0..=REASON_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

/// The same, read back.
fn asked(job: &Job) -> Option<(WorkloadId, String)> {
    let (workload, reason) =
        job.reason.as_deref().filter(|_| job.kind == JobKind::Decommission)?.split_once(": ")?;
    Some((workload.parse().ok()?, reason.to_owned()))
}
