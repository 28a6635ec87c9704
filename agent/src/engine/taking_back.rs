//! Taking a pass back: each of its operations is undone, the last one first, and the rows are what they were to be before.

use tokio_util::sync::CancellationToken;
use towline_protocol::{
    bundle::{BundlePhase, ResultState},
    job::JobKind,
};

use super::{
    model::Verb,
    pass::{Ending, Pass, Todo},
    state::Bundle,
};
use crate::store::rows::{Begun, WorkloadRow};

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
        Some(Self { verb, id: self.id.clone(), definition, digest, version, before: Some(this) })
    }
}

impl Pass {
    /// Undoes what this pass did, in reverse, to the end.
    pub(super) async fn take_back(&mut self) -> Result<(), Ending> {
        self.failed.clear();
        self.skipped.clear();
        self.needed.clear();
        let inverses: Vec<Todo> = self.begun.drain(..).rev().filter_map(|todo| todo.inverse()).collect();
        self.cancelled = CancellationToken::new();
        let was_paused = self.before().is_some_and(|before| before.phase == BundlePhase::Paused);
        for mut todo in inverses {
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
        self.taken_back = true;
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
}
