//! Taking back what a job did: at once by the pass that did it, in reverse; by the next pass, worked out anew, where an earlier
//! agent did it.

use tokio_util::sync::CancellationToken;
use towline_protocol::{
    WorkloadId,
    bundle::{BundlePhase, ResultState},
    job::JobKind,
};

use super::{
    model::Verb,
    pass::{Ending, Pass, Todo},
    state::Bundle,
};
use crate::{
    failpoints::failpoint,
    store::rows::{Begun, BundleRow, WorkloadRow},
};

/// How a job was taken back.
#[derive(Debug)]
pub(super) struct TakenBack {
    /// Why, as whoever asked for it said.
    pub(super) reason: Option<String>,
    /// An earlier agent began it: what that one did is undone by the next pass.
    pub(super) later: bool,
}

impl Todo {
    /// What takes it back.
    fn inverse(&self) -> Option<Self> {
        let verb = self.verb.inverse()?;
        // What failed before it was stopped is tried again by itself.
        if verb == Verb::Resume && self.before.is_none() {
            return None;
        }
        let this = (self.definition.clone(), self.digest, self.version);
        let (definition, digest, version) = match verb {
            Verb::Update | Verb::Add => self.before.clone()?,
            _ => this.clone(),
        };
        let (id, before) = (self.id.clone(), Some(this));
        Some(Self { verb, id, definition, digest, version, before, refused: None })
    }
}

impl Pass {
    /// Undoes what this pass did, in reverse, to the end.
    pub(super) async fn take_back(&mut self) -> Result<(), Ending> {
        failpoint!("take-back.begun");
        self.failed.clear();
        self.skipped.clear();
        self.needed.clear();
        let inverses: Vec<Todo> = self.begun.drain(..).rev().filter_map(|todo| todo.inverse()).collect();
        self.cancelled = CancellationToken::new();
        let was_paused = self.before().is_some_and(|before| before.phase == BundlePhase::Paused);
        for mut todo in inverses {
            if self.engine.inner.tasks.stopping().is_cancelled() {
                return Err(Ending);
            }
            // Of what was cut short before it was stopped nothing is to be resumed; it is made sure of.
            let is_paused = |bundle: &Bundle| {
                bundle.workloads.get(&todo.id).is_some_and(|row| row.result.state == ResultState::Paused)
            };
            if todo.verb == Verb::Resume && !self.read(is_paused).unwrap_or(false) {
                todo.verb = Verb::Again;
            }
            self.act(&todo).await?;
            // What comes back to a paused bundle was stopped before it was removed.
            if was_paused && todo.verb == Verb::Add && !self.failed.contains(&todo.id) {
                self.act(&Todo { verb: Verb::Pause, ..todo }).await?;
            }
        }
        self.restored = self.rows_before().await?;
        let notes = self.job_id().and_then(|id| Some(self.engine.state().jobs.get(&id)?.notes.clone()));
        let reason = notes.and_then(|notes| notes.cancel?.reason);
        self.taken_back = Some(TakenBack { reason, later: self.resumed });
        Ok(())
    }

    /// How the bundle stood when the job of this pass began.
    fn before(&self) -> Option<Begun> {
        let begun = self.read(|bundle| bundle.row.begun.clone()).flatten();
        begun.filter(|begun| Some(begun.job) == self.job_id())
    }

    /// The rows of the version that held before the one that is taken back, as far as they are otherwise now. Where an
    /// earlier agent began it, that is left to the pass which brings that version about.
    async fn rows_before(&self) -> Result<Vec<WorkloadRow>, Ending> {
        let target = self.before().map_or(0, |before| before.target);
        let is_put = self.job.as_ref().is_some_and(|job| job.kind == JobKind::Put);
        if !is_put || self.resumed || target == 0 {
            return Ok(Vec::new());
        }
        // What cannot be read by this agent is told by the next pass.
        Ok(self.worked_out(target).await?.map(|(rows, _)| rows).unwrap_or_default())
    }

    /// How the bundle stands when the job was taken back: as it did when that began. Says which rows go with it.
    pub(super) fn go_back(&self, known: &Bundle, row: &mut BundleRow) -> Vec<WorkloadId> {
        let Some(job) = &self.job else { return Vec::new() };
        let before = self.before();
        row.void |= job.kind == JobKind::Put && job.id == row.put;
        if self.resumed {
            // What an earlier agent did of it was not undone: that is brought about by the next pass.
            row.applied = None;
        }
        match (&job.kind, before) {
            (JobKind::Delete | JobKind::Pause | JobKind::Resume, Some(before)) => {
                (row.phase, row.forced) = (before.phase, before.forced);
            }
            (JobKind::Put, Some(before)) => {
                row.target = before.target;
                // What was on its way out when this version came, goes on going.
                row.phase = before.phase;
                // What this version alone wanted and never began; the one before may want what it lacks, too.
                let own = |row: &&WorkloadRow| {
                    let untouched = row.holds.is_none() && !row.is_failing() && !self.resumed;
                    untouched && job.version == Some(row.version) && row.version != before.target
                };
                return known.workloads.values().filter(own).map(|row| row.id.clone()).collect();
            }
            _ => {}
        }
        Vec::new()
    }
}
