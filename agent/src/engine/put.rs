//! Accepting a bundle: read, decided, checked whole, and stored with its job in one transaction before the answer.

use bytes::Bytes;
use towline_bus::clock;
use towline_protocol::{
    CallError, Code, ContentDigest, Name, ResourceId,
    bundle::{BundlePhase, Change, ChangeOp, PutBundleRequest, PutBundleResponse, PutOutcome},
    job::JobKind,
};

use super::{
    Engine,
    accept::{self, Asked, Decision, Last},
    content::{self, Content},
    diff::{diff, moved},
    jobs::Accepting,
    plan::{There, plan},
};
use crate::{
    calls::{Answered, Caller},
    store::{
        Outcome, OutcomeKey,
        jobs::Notes,
        outcomes, records,
        rows::{self, BundleRow},
    },
};

/// Most bytes of all diffs in one answer: it is remembered, and sent, whole. The changes after that are named without one.
const DIFFS_BYTES_MAX: usize = 1024 * 1024;

impl Engine {
    /// Accepts a bundle, or says what it would do. Goes on if it is dropped; the same request id is done once.
    ///
    /// # Errors
    /// Why it is not accepted: nothing was stored.
    pub(crate) async fn put(
        &self,
        caller: &Caller,
        request: PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        if request.dry_run {
            return self.put_now(None, request).await;
        }
        let engine = self.clone();
        let (question, request) =
            aside(move || (crate::calls::question("put_bundle", &request), request)).await?;
        let id = caller.request.clone();
        self.once(caller, question, move |key| async move {
            let response = engine.put_now(Some((key, id)), request).await?;
            answered(&response)
        })
        .await
    }

    async fn put_now(
        &self,
        asked: Option<(OutcomeKey, towline_protocol::RequestId)>,
        request: PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        let name = &request.bundle;
        if records::is_reserved(name) {
            let text = format!("{name} is reserved for what belongs to no bundle: choose another name");
            return Err(CallError::new(Code::Invalid, text));
        }
        let registry = self.inner.registry.clone();
        let content = content::read(registry, name.clone(), request.content.clone()).await?;
        let version = version(&request, &content)?;
        let bytes = request.content.clone();
        let digest = aside(move || ContentDigest::of(&bytes)).await?;
        let segment = self.segment().await;
        let gate = self.inner.gates.pass(name).await;
        let before = self.state().bundles.get(name).map(|bundle| bundle.row.clone());
        let last = before.as_ref().map(|row| self.last(row));
        let decision = accept::decide(last.as_ref(), Asked { version, digest, force: request.force })
            .map_err(|error| CallError::new(Code::Conflict, error.to_string()))?;
        let old = self.accepted_content(before.as_ref()).await?;
        let (changes, old, content) = aside(move || (changes(old.as_ref(), &content), old, content)).await?;
        let known = old.as_ref().map(Content::ids).unwrap_or_default();
        let updated: Vec<_> = changes
            .iter()
            .filter(|change| change.op == ChangeOp::Update)
            .map(|change| change.workload.clone())
            .collect();
        let can_update =
            |kind: &str| self.inner.registry.find(kind).is_ok_and(|manager| manager.can_update());
        accept::check_update(&known, &content.ids(), &updated, can_update)
            .map_err(|error| CallError::new(Code::Conflict, error.to_string()))?;
        let response = |outcome, version, job| PutBundleResponse { outcome, version, digest, job, changes };
        let version = match decision {
            Decision::Unchanged(version, job) => {
                let response = response(PutOutcome::Unchanged, version, Some(job));
                let outcome = Outcome(Ok(Some(json(&response)?)));
                self.remember(asked.map(|(key, _)| key), outcome).await?;
                return Ok(response);
            }
            Decision::Accept(version) => version,
        };
        let needs = content.needs();
        let wanted = self.wanted(&request, &content)?;
        let Some((key, request_id)) = asked else {
            self.fits(name, &needs)?;
            self.inner.owners.check(name, &wanted).map_err(owned)?;
            let mut planned = response(PutOutcome::Planned, version, None);
            // Who only asks holds up nobody, however long the runtime takes to answer.
            drop((gate, segment));
            self.name_units(name, &mut planned.changes).await?;
            return Ok(planned);
        };
        let _room = self.admit(name, needs)?;
        let job = self.new_job(JobKind::Put, Some(name), Some(version), Some(request_id), None);
        let response = response(PutOutcome::Accepted, version, Some(job.id));
        let resources = content.coming();
        let description = content.head.description;
        let row = BundleRow { description, ..accepted_row(&request, version, digest, job.id, before) };
        let accepting = Accepting {
            job,
            row,
            notes: Notes { forced: request.force, cancel: None },
            content: Some((request.content, resources)),
            outcome: Some((key, json(&response)?)),
        };
        // From before it is stored: nobody else may be promised the same meanwhile.
        let claimed = self.inner.owners.claim(name, &wanted).map_err(owned)?;
        if let Err(error) = self.accept(accepting).await {
            self.inner.owners.restore(name, claimed);
            return Err(error);
        }
        self.release(name);
        Ok(response)
    }

    fn last(&self, row: &BundleRow) -> Last {
        let phase = match row.phase {
            BundlePhase::Deleted => BundlePhase::Deleted,
            _ if self.goes(row) => BundlePhase::Deleting,
            ref phase => phase.clone(),
        };
        Last { phase, version: row.accepted, digest: row.digest, job: row.put, void: row.void }
    }

    /// Whether it is accepted that the bundle goes, begun or not: its content is no longer what is to hold.
    pub(super) fn goes(&self, row: &BundleRow) -> bool {
        let of_it = |job: &towline_protocol::job::Job| {
            job.kind == JobKind::Delete && job.bundle.as_ref() == Some(&row.name)
        };
        row.phase == BundlePhase::Deleting || self.state().jobs.values().any(|open| of_it(&open.job))
    }

    /// The content that was accepted last, unless there is none any more.
    async fn accepted_content(&self, row: Option<&BundleRow>) -> Result<Option<Content>, CallError> {
        let Some(row) = row.filter(|row| row.phase != BundlePhase::Deleted) else { return Ok(None) };
        let Some(bytes) = self.content_of(&row.name, row.accepted).await? else { return Ok(None) };
        // One that this agent cannot read is not compared with; it is replaced all the same.
        Ok(content::read_accepted(self.inner.registry.clone(), row.name.clone(), bytes).await.ok())
    }

    /// The documents of a version, if they are kept.
    pub(super) async fn content_of(
        &self,
        bundle: &towline_protocol::Name,
        version: u64,
    ) -> Result<Option<Bytes>, CallError> {
        let bundle = bundle.clone();
        self.look(move |transaction| rows::content(transaction, &bundle, version)).await
    }

    /// What the bundle is to own, beside what it has; the flag says that it shares.
    fn wanted(
        &self,
        request: &PutBundleRequest,
        content: &Content,
    ) -> Result<Vec<(ResourceId, bool)>, CallError> {
        let wanted: Vec<(ResourceId, bool)> =
            content.members.iter().map(|member| (member.resource.clone(), member.traits.shared)).collect();
        match wanted.iter().find(|(resource, _)| !request.adopt && (self.inner.is_direct)(resource.as_str()))
        {
            Some((direct, _)) => {
                let text = format!("{direct} was brought here by apply, and belongs to no bundle");
                Err(CallError::new(Code::Conflict, text)
                    .with_help("delete it there, or let the bundle take it over (--adopt)"))
            }
            None => Ok(wanted),
        }
    }

    /// Stores what is answered to a call that stores nothing else.
    pub(super) async fn remember(&self, key: Option<OutcomeKey>, outcome: Outcome) -> Result<(), CallError> {
        let Some(key) = key else { return Ok(()) };
        let now = clock::unix_ms();
        let write = self
            .inner
            .store
            .write_out(move |transaction| outcomes::remember(transaction, &key, &outcome, now));
        write.await.map_err(|error| error.refusal())
    }
}

/// Does what goes through a content of up to 64 MiB where it holds up nothing else.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CallError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CallError::new(Code::Cluster, error.to_string()))
}

/// What is said of what another bundle has.
fn owned((resource, owner): (ResourceId, Name)) -> CallError {
    CallError::new(Code::Conflict, format!("{resource} is of bundle {owner}"))
        .with_help("a resource has one owner; choose another name, or remove it there first")
}

/// The row of a bundle whose next version was just accepted. What holds until that is begun stays.
fn accepted_row(
    request: &PutBundleRequest,
    version: u64,
    digest: ContentDigest,
    job: towline_protocol::JobId,
    before: Option<BundleRow>,
) -> BundleRow {
    let phase = before.as_ref().map(|row| row.phase.clone());
    // What a bundle that is gone was to hold, nobody goes back to: its contents went with it.
    let there = before.as_ref().filter(|row| row.phase != BundlePhase::Deleted);
    BundleRow {
        name: request.bundle.clone(),
        description: String::new(),
        phase: phase.filter(|phase| *phase != BundlePhase::Deleted).unwrap_or(BundlePhase::Active),
        accepted: version,
        digest,
        put: job,
        void: false,
        forced: before.as_ref().is_some_and(|row| row.forced),
        target: there.map_or(0, |row| row.target),
        applied: before.as_ref().and_then(|row| row.applied),
        job,
        since_unix_ms: clock::unix_ms(),
        reason: None,
        envelope: request.envelope.clone(),
        adopt: request.adopt,
        begun: before.and_then(|row| row.begun),
    }
}

/// The version that is asked for: the call's, or the head document's.
fn version(request: &PutBundleRequest, content: &Content) -> Result<Option<u64>, CallError> {
    match (request.version, content.head.version) {
        (Some(asked), Some(head)) if asked != head => {
            let text = format!(
                "version {asked} was asked for, and the head document says {head}: allowed is one of them"
            );
            Err(CallError::new(Code::Invalid, text))
        }
        (asked, head) => Ok(asked.or(head)),
    }
}

/// What the new content means against the one accepted last, with what differs.
fn changes(old: Option<&Content>, new: &Content) -> Vec<Change> {
    let there = |member: &content::Member| There {
        id: member.id.clone(),
        holds: Some(member.digest),
        state: towline_protocol::bundle::ResultState::Ok,
        failing: false,
    };
    let there: Vec<There> = old.into_iter().flat_map(|old| &old.members).map(there).collect();
    let find = |content: Option<&Content>, id: &towline_protocol::WorkloadId| {
        let member = content?.members.iter().find(|member| member.id == *id)?;
        Some((member.bytes.clone(), member.resource.clone()))
    };
    let mut room = DIFFS_BYTES_MAX;
    let change = |op: super::plan::Op| {
        let (before, after) = (find(old, &op.id), find(Some(new), &op.id));
        let differs = match op.op {
            ChangeOp::Untouched => None,
            _ if room == 0 => None,
            _ => diff(before.as_ref().map(|(bytes, _)| &**bytes), after.as_ref().map(|(bytes, _)| &**bytes)),
        };
        let moved = before.as_ref().zip(after.as_ref()).and_then(|(old, new)| moved(&old.0, &new.0));
        room = room.saturating_sub(differs.as_ref().map_or(0, String::len));
        Change {
            resource: after.or(before).map(|(_, resource)| resource),
            workload: op.id,
            op: op.op,
            reason: Some(moved.unwrap_or_else(|| op.reason.to_owned())),
            diff: differs,
            units: Vec::new(),
        }
    };
    plan(&new.wanted(), &there).into_iter().map(change).collect()
}

/// A response as it is remembered.
pub(super) fn json<T: serde::Serialize>(response: &T) -> Result<String, CallError> {
    serde_json::to_string(response).map_err(|error| CallError::new(Code::Cluster, error.to_string()))
}

pub(super) fn answered<T: serde::Serialize>(response: &T) -> Answered {
    json(response).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_diffs_of_one_answer_are_bounded_together() {
        let member = |number: usize| {
            let name = format!("t{number}");
            let note = "x".repeat(10_000);
            let document = format!(
                "apiVersion: towline/v1\nkind: Thing\nmetadata: {{name: {name}}}\nspec: {{note: {note}}}\n"
            );
            content::Member {
                id: format!("Thing/{name}").parse().unwrap(),
                resource: format!("default/Thing/{name}").parse().unwrap(),
                depends_on: Vec::new(),
                digest: ContentDigest::of(document.as_bytes()),
                bytes: document.into(),
                traits: crate::engine::manager::Traits::default(),
            }
        };
        let content = Content {
            head: Default::default(),
            members: (0..300).map(member).collect(),
            refused: Default::default(),
        };
        let changes = changes(None, &content);
        let shown: usize = changes.iter().filter_map(|change| change.diff.as_ref()).map(String::len).sum();
        assert_eq!(changes.len(), 300);
        assert!((DIFFS_BYTES_MAX..DIFFS_BYTES_MAX + 10_000).contains(&shown), "{shown}");
    }
}
