//! What a pass has to do, worked out against what is there now.

use std::collections::BTreeMap;

use bytes::Bytes;
use towline_bus::clock;
use towline_protocol::{
    CallError, Code, WorkloadId,
    bundle::{BundlePhase, ChangeOp, ResultState, WorkloadResult},
    job::JobKind,
};

use super::{
    content::{self, Member},
    model::Verb,
    pass::{Goal, Pass, Todo},
    plan::plan,
    state::Bundle,
};
use crate::store::{StoreError, rows, rows::WorkloadRow};

/// Rows to store before anything is done, and what is done then.
pub(super) type Todos = (Vec<WorkloadRow>, Vec<Todo>);

/// Why it cannot be worked out.
#[derive(Debug)]
pub(super) enum Lost {
    /// The store did not answer; it may later.
    Store(CallError),
    /// What was accepted is not there, or cannot be read by this agent.
    Content(CallError),
}

impl Pass {
    /// The work towards the goal, `target` being the version that is to hold.
    ///
    /// # Errors
    /// When what was stored cannot be read.
    pub(super) async fn todos(&self, target: u64) -> Result<Todos, Lost> {
        let Some(known) = self.read(Bundle::clone) else { return Ok(Default::default()) };
        let held = self.held(&known).await?;
        let of_row = |verb: Verb, row: &WorkloadRow| {
            let definition = held.get(&row.id).cloned().unwrap_or_default();
            let digest = row.holds.unwrap_or_else(|| towline_protocol::ContentDigest::of(&definition));
            let before = row.holds.map(|holds| (definition.clone(), holds, row.version));
            Todo { verb, id: row.id.clone(), definition, digest, version: row.version, before }
        };
        let down = known.in_order().into_iter().rev();
        Ok(match &self.goal {
            // The first version was taken back: there is none to go back to, and what could not be undone goes, paused or not.
            Goal::Bring { .. } | Goal::Pause if target == 0 => {
                (Vec::new(), down.map(|row| of_row(Verb::Remove, row)).collect())
            }
            Goal::Bring { again, only } => return self.bring(target, &known, &held, *again, only).await,
            Goal::Remove { .. } => (Vec::new(), down.map(|row| of_row(Verb::Remove, row)).collect()),
            Goal::Pause => {
                let stops = |row: &WorkloadRow| {
                    let todo = of_row(Verb::Pause, row);
                    // What did not hold before is not what taking this back brings back.
                    let sound = row.result.state == ResultState::Ok && !row.is_failing();
                    Todo { before: todo.before.filter(|_| sound), ..todo }
                };
                (Vec::new(), down.filter(|row| row.is_to_pause()).map(stops).collect())
            }
            Goal::Repair(id) => {
                let row = known.workloads.get(id).filter(|row| row.result.state == ResultState::Ok);
                (Vec::new(), row.map(|row| of_row(Verb::Again, row)).into_iter().collect())
            }
            Goal::GiveUp(id, _) => {
                let settled = [ResultState::Deleted, ResultState::Error];
                let row = known.workloads.get(id).filter(|row| !settled.contains(&row.result.state));
                (Vec::new(), row.map(|row| of_row(Verb::Remove, row)).into_iter().collect())
            }
        })
    }

    async fn bring(
        &self,
        target: u64,
        known: &Bundle,
        held: &BTreeMap<WorkloadId, Bytes>,
        again: bool,
        only: &[WorkloadId],
    ) -> Result<Todos, Lost> {
        let bytes = self.engine.content_of(&self.bundle, target).await.map_err(Lost::Store)?;
        let lost =
            || CallError::new(Code::Cluster, format!("the content of version {target} is not kept any more"));
        let bytes = bytes.ok_or_else(lost).map_err(Lost::Content)?;
        let content = content::read(self.engine.inner.registry.clone(), self.bundle.clone(), bytes)
            .await
            .map_err(Lost::Content)?;
        let resumes = self.job.as_ref().is_some_and(|job| job.kind == JobKind::Resume);
        let paused = known.row.phase == BundlePhase::Paused && !resumes;
        let asked = self.job.is_some();
        let members: BTreeMap<&WorkloadId, (u64, &Member)> =
            (1..).zip(&content.members).map(|(rank, member)| (&member.id, (rank, member))).collect();
        let rows =
            members.values().filter_map(|(rank, member)| self.row(*rank, member, target, known, paused));
        let rows: Vec<WorkloadRow> = rows.collect();
        let mut todos = Vec::new();
        for op in plan(&content.wanted(), &known.there()) {
            let row = known.workloads.get(&op.id);
            let state = row.map(|row| &row.result.state);
            let verb = match op.op {
                ChangeOp::Remove => Verb::Remove,
                // Until it is resumed nothing begins.
                _ if paused => continue,
                // After a reboot what had failed waits for its own turn.
                _ if again && !asked && state == Some(&ResultState::Error) => continue,
                // Given up by a monitor: only who asks for it gets it back.
                _ if !asked && row.is_some_and(|row| row.given_up) => continue,
                ChangeOp::Add => Verb::Add,
                ChangeOp::Untouched if state == Some(&ResultState::Paused) => Verb::Resume,
                ChangeOp::Untouched if again => Verb::Again,
                ChangeOp::Untouched => continue,
                _ => Verb::Update,
            };
            if !only.is_empty() && !only.contains(&op.id) {
                continue;
            }
            let before = row.and_then(|row| {
                let holds = row.holds?;
                Some((held.get(&op.id).cloned().unwrap_or_default(), holds, row.version))
            });
            todos.push(match members.get(&op.id) {
                Some((_, member)) => Todo {
                    verb,
                    id: op.id,
                    definition: member.bytes.clone(),
                    digest: member.digest,
                    version: target,
                    before,
                },
                None => {
                    let definition = held.get(&op.id).cloned().unwrap_or_default();
                    let digest = towline_protocol::ContentDigest::of(&definition);
                    Todo { verb, id: op.id, definition, digest, version: target, before }
                }
            });
        }
        Ok((rows, todos))
    }

    /// The row of a member before anything is done; none if it is as it should be already.
    fn row(
        &self,
        rank: u64,
        member: &Member,
        target: u64,
        known: &Bundle,
        paused: bool,
    ) -> Option<WorkloadRow> {
        let place = |row: WorkloadRow| WorkloadRow {
            rank,
            depends_on: member.depends_on.clone(),
            shared: member.traits.shared,
            needs: member.traits.needs,
            resource: member.resource.clone(),
            ..row
        };
        let Some(before) = known.workloads.get(&member.id) else {
            let state = if paused { ResultState::Paused } else { ResultState::Init };
            let result =
                WorkloadResult { state, message: None, since_unix_ms: clock::unix_ms(), job: self.job_id() };
            let (id, resource) = (member.id.clone(), member.resource.clone());
            return Some(place(WorkloadRow::new(id, resource, target, result)));
        };
        let placed = place(before.clone());
        (placed != *before).then_some(placed)
    }

    /// The definitions that were carried out. Of what never was, the content's own is taken down.
    async fn held(&self, known: &Bundle) -> Result<BTreeMap<WorkloadId, Bytes>, Lost> {
        let (bundle, target) = (self.bundle.clone(), known.row.target);
        let ids: Vec<WorkloadId> = known.workloads.keys().cloned().collect();
        let missing = known.workloads.values().any(|row| row.holds.is_none());
        let name = bundle.clone();
        let mut held: BTreeMap<WorkloadId, Bytes> = self
            .engine
            .look(move |transaction| {
                let (table, mut held) = (rows::Held::open(transaction)?, BTreeMap::new());
                for id in ids {
                    if let Some(definition) = table.definition(&name, &id)? {
                        held.insert(id, definition);
                    }
                }
                Ok::<_, StoreError>(held)
            })
            .await
            .map_err(Lost::Store)?;
        if !missing {
            return Ok(held);
        }
        let bytes = self.engine.content_of(&bundle, target).await.map_err(Lost::Store)?;
        let Some(bytes) = bytes else { return Ok(held) };
        if let Ok(content) = content::read(self.engine.inner.registry.clone(), bundle, bytes).await {
            for member in content.members {
                held.entry(member.id).or_insert(member.bytes);
            }
        }
        Ok(held)
    }
}
