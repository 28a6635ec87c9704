//! One operation on one workload: stored, done, and stored again with its result.

use bytes::Bytes;
use towline_bus::clock;
use towline_protocol::{
    Code, ItemError, WorkloadId,
    bundle::{ResultState, WorkloadResult},
    job::JobRecord,
    limits::JOB_MESSAGE_BYTES_MAX,
};

use super::{
    manager::Work,
    model::{Recorded, Verb, recorded},
    pass::{Ending, Goal, Pass, Todo},
    pipeline::{Ran, Stop, Verdict, execute},
    state::Beat,
};
use crate::asker::Asker;
use crate::failpoints::failpoint;
use crate::store::{
    jobs, records,
    rows::{self, WorkloadRow},
};

impl Pass {
    /// Does one operation, unless what it depends on failed; says whether it is over. It is not where another agent came in
    /// between: it is neither done nor failed then, and is begun again when it is this agent's turn.
    pub(super) async fn operate(&mut self, todo: &Todo) -> Result<bool, Ending> {
        let Some(row) = self.row_of(todo) else { return Ok(true) };
        if let Some(why) = self.in_the_way(todo, &row) {
            let skipped = Recorded {
                state: Some(if row.holds.is_some() { ResultState::Unchanged } else { ResultState::Error }),
                message: Some(why),
                failed: true,
            };
            self.skipped.insert(todo.id.clone());
            return self.record(todo, row, skipped, None).await.map(|()| true);
        }
        let row = self.announce(todo, row).await?;
        let what = format!("{} {}", todo.verb.word(), todo.id);
        let beat = Beat { what, todo: Some(todo.clone()), ..Beat::now() };
        self.engine.beat(&self.bundle, beat.clone());
        failpoint!("op.announced");
        let ran = self.run_steps(todo, &row, &beat).await;
        failpoint!("op.done");
        self.engine.beat(&self.bundle, beat);
        let stopped = ran.as_ref().and_then(|ran| ran.result.as_ref().err());
        if stopped.is_some_and(|stop| stop.error.code == Code::Fenced) {
            return Ok(false);
        }
        let result = recorded(todo.verb, &row.result.state, ran.as_ref());
        self.record(todo, row, result, ran).await.map(|()| true)
    }

    /// The row that the operation is about. Taking a removal back begins with a new one.
    fn row_of(&self, todo: &Todo) -> Option<WorkloadRow> {
        let known = self.read(|bundle| bundle.workloads.get(&todo.id).cloned()).flatten();
        if known.is_some() || todo.verb != Verb::Add {
            return known;
        }
        let resource = crate::manifest::identify("workload", &todo.definition).ok()?.pop()?.0.parse().ok()?;
        let result = WorkloadResult {
            state: ResultState::Init,
            message: None,
            since_unix_ms: clock::unix_ms(),
            job: self.job_id(),
        };
        Some(WorkloadRow::new(todo.id.clone(), resource, todo.version, result))
    }

    /// Why it is not begun: what it depends on is not there, or what depends on it is.
    fn in_the_way(&self, todo: &Todo, row: &WorkloadRow) -> Option<String> {
        if todo.verb == Verb::Remove {
            let needed = self.needed.contains(&todo.id);
            return needed.then(|| "what depends on it could not be removed".to_owned());
        }
        let holds = |id: &WorkloadId| {
            self.read(|bundle| bundle.workloads.get(id).is_some_and(|row| row.holds.is_some()))
                .unwrap_or(false)
        };
        let down = |id: &&WorkloadId| self.failed.contains(id) || !holds(id);
        let begins = matches!(todo.verb, Verb::Add | Verb::Update | Verb::Again | Verb::Resume);
        let failed = row.depends_on.iter().find(down).filter(|_| begins)?;
        Some(format!("dependency failed: {failed}"))
    }

    /// Stores that it is begun: a crash from here on leaves what the next agent knows of.
    async fn announce(&mut self, todo: &Todo, mut row: WorkloadRow) -> Result<WorkloadRow, Ending> {
        // What was never carried out may be half there from here on; to take it down its definition is needed.
        let definition = (todo.verb == Verb::Add).then(|| todo.definition.clone());
        let record = self.step(todo, Some(todo.verb.word().to_owned()), None, None);
        // Who makes sure of what holds changes nothing that the row says.
        let changes = todo.verb != Verb::Again;
        if record.is_none() && !changes {
            return Ok(row);
        }
        row.in_doubt |= changes;
        let (bundle, stored, job) = (self.bundle.clone(), row.clone(), self.job.clone());
        self.persist(move |transaction| {
            rows::put_workload(transaction, &bundle, &stored, definition.as_ref())?;
            if let (Some(job), Some(record)) = (&job, &record) {
                jobs::put_job(transaction, job)?;
                jobs::append_job_record(transaction, job.id, record)?;
            }
            Ok(())
        })
        .await?;
        self.change(|bundle| drop(bundle.workloads.insert(row.id.clone(), row.clone())));
        self.publish();
        Ok(row)
    }

    async fn run_steps(&self, todo: &Todo, row: &WorkloadRow, beat: &Beat) -> Option<Ran> {
        // Accepted, and never begun: there is nothing to take down, or to stop.
        if matches!(todo.verb, Verb::Remove | Verb::Pause) && todo.definition.is_empty() {
            return None;
        }
        if let Some(error) = self.engine.held_up(row.id.kind()) {
            return Some(refused(Stop { verdict: Verdict::Unchanged, error }));
        }
        let adopt = self.read(|bundle| bundle.row.adopt).unwrap_or(false);
        let work = |definition: Bytes| Work {
            bundle: self.bundle.clone(),
            id: row.id.clone(),
            resource: row.resource.clone(),
            definition,
            data: row.data.clone(),
            adopt,
        };
        let before = todo.before.as_ref().map(|(definition, ..)| work(definition.clone()));
        let steps = self.engine.inner.registry.steps(
            todo.verb,
            &row.result.state,
            work(todo.definition.clone()),
            before,
        );
        let asker = {
            let (engine, bundle, beat) = (self.engine.clone(), self.bundle.clone(), beat.clone());
            Asker::new(self.cancelled.clone(), move || engine.beat(&bundle, beat.clone()))
        };
        match steps {
            Ok(None) => None,
            Ok(Some(steps)) if self.engine.inner.registry.needs_turns(row.id.kind()) => {
                let mark = &self.engine.inner.mark;
                let steps = steps.into_iter().map(|step| step.in_turn(mark)).collect();
                Some(execute(steps, &asker).await)
            }
            Ok(Some(steps)) => Some(execute(steps, &asker).await),
            Err(stop) => Some(refused(stop)),
        }
    }

    /// Stores the result, and all that follows from it.
    async fn record(
        &mut self,
        todo: &Todo,
        row: WorkloadRow,
        result: Recorded,
        ran: Option<Ran>,
    ) -> Result<(), Ending> {
        let before = row.clone();
        if result.failed {
            self.failed.insert(todo.id.clone());
            if todo.verb == Verb::Remove {
                self.needed.extend(row.depends_on.iter().cloned());
            }
            let error = ran.as_ref().and_then(|ran| ran.result.as_ref().err()).map(|stop| stop.error.clone());
            let message = result.message.clone().unwrap_or_default();
            let error = error.unwrap_or_else(|| ItemError::new(Code::Cluster, message));
            self.errors.insert(todo.id.to_string(), error);
        } else {
            self.errors.remove(todo.id.as_str());
        }
        let given_up = match &self.goal {
            Goal::GiveUp(_, reason) if !result.failed => Some(reason.clone()),
            _ => None,
        };
        let after = after(todo, row, &result, ran.as_ref(), self.job_id(), given_up.as_deref());
        let mut steps: Vec<JobRecord> = Vec::new();
        for taken in ran.iter().flat_map(|ran| &ran.taken) {
            steps.extend(self.step(todo, Some(taken.step.clone()), None, taken.error.clone()));
        }
        let state = if given_up.is_some() { Some(ResultState::Error) } else { result.state.clone() };
        let message = given_up.or(result.message);
        steps.extend(self.step(todo, None, state.clone(), message.clone()));
        // What nobody asked for is told once, not with each attempt.
        let told = self.job.is_none()
            && state.as_ref().is_some_and(|state| *state == before.result.state || result.failed)
            && message == before.result.message;
        let entry = state.filter(|_| !told).map(|state| records::Entry {
            at_unix_ms: clock::unix_ms(),
            version: todo.version,
            workload: Some(todo.id.clone()),
            state,
            message,
            job: self.job_id(),
        });
        let carried_out = !result.failed && matches!(todo.verb, Verb::Add | Verb::Update | Verb::Again);
        let definition = carried_out.then(|| todo.definition.clone());
        let (bundle, id, job) = (self.bundle.clone(), todo.id.clone(), self.job.clone());
        let stored = after.clone();
        self.persist(move |transaction| {
            match &stored {
                Some(row) => rows::put_workload(transaction, &bundle, row, definition.as_ref())?,
                None => rows::remove_workload(transaction, &bundle, &id)?,
            }
            if let Some(entry) = &entry {
                records::append(transaction, bundle.as_str(), entry.clone())?;
            }
            if let Some(job) = &job {
                jobs::put_job(transaction, job)?;
                steps.iter().try_for_each(|step| jobs::append_job_record(transaction, job.id, step))?;
            }
            Ok(())
        })
        .await?;
        failpoint!("op.recorded");
        self.change(|bundle| {
            if !result.failed {
                // What was seen before says nothing of what is there now.
                bundle.drift.remove(&todo.id);
            }
            match after {
                Some(row) => drop(bundle.workloads.insert(row.id.clone(), row)),
                None => drop(bundle.workloads.remove(&todo.id)),
            }
        });
        self.publish();
        Ok(())
    }

    /// The next record of the job about this operation; none where nobody asked for it.
    fn step(
        &mut self,
        todo: &Todo,
        step: Option<String>,
        result: Option<ResultState>,
        message: Option<String>,
    ) -> Option<JobRecord> {
        let job = self.job.as_mut()?;
        job.records += 1;
        Some(JobRecord {
            seq: job.records,
            at_unix_ms: clock::unix_ms(),
            state: job.state.clone(),
            workload: Some(todo.id.clone()),
            op: Some(todo.verb.op()),
            step,
            result,
            message: message.map(shortened),
        })
    }
}

/// A message as it fits a record.
fn shortened(mut message: String) -> String {
    if message.len() > JOB_MESSAGE_BYTES_MAX {
        let end = (0..=JOB_MESSAGE_BYTES_MAX - 4).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

fn refused(stop: Stop) -> Ran {
    Ran { result: Err(stop), undone: true, taken: Vec::new() }
}

/// The row of a workload after an operation; none when it is gone. Pure but for the time of the result.
fn after(
    todo: &Todo,
    mut row: WorkloadRow,
    result: &Recorded,
    ran: Option<&Ran>,
    job: Option<towline_protocol::JobId>,
    given_up: Option<&str>,
) -> Option<WorkloadRow> {
    let now = clock::unix_ms();
    if let Some(reason) = given_up {
        row.given_up = true;
        row.holds = None;
        row.attempts = 0;
        row.result.state = ResultState::Error;
        row.result.message = Some(reason.to_owned());
        row.result.since_unix_ms = now;
        return Some(row);
    }
    if result.failed {
        row.attempts += 1;
        row.result.message.clone_from(&result.message);
        row.result.job = job;
        // The last result that is not `unchanged` is what holds.
        if let Some(state) = result.state.clone().filter(|state| *state != ResultState::Unchanged) {
            if row.result.state != state {
                row.result.since_unix_ms = now;
            }
            row.result.state = state;
        } else if row.holds.is_none() {
            row.result.state = ResultState::Error;
        }
        return Some(row);
    }
    if todo.verb == Verb::Remove {
        return None;
    }
    // What failed before is brought about when it is resumed, and says until then why it is to be.
    let stays_failing = todo.verb == Verb::Pause && row.attempts > 0;
    if !stays_failing {
        row.attempts = 0;
        row.result.message.clone_from(&result.message);
    }
    row.given_up = false;
    row.in_doubt = false;
    if matches!(todo.verb, Verb::Add | Verb::Update | Verb::Again) {
        if row.holds != Some(todo.digest) {
            row.version = todo.version;
        }
        row.holds = Some(todo.digest);
    }
    if let Some(Ok(data)) = ran.map(|ran| &ran.result) {
        // A manager that says nothing new keeps what it said.
        if !data.is_null() {
            row.data.clone_from(data);
        }
    }
    let state = result.state.clone().unwrap_or(ResultState::Ok);
    if row.result.state != state || todo.verb != Verb::Again {
        row.result.since_unix_ms = now;
    }
    row.result.state = state;
    row.result.job = job.or(row.result.job);
    Some(row)
}
