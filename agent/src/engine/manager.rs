//! What carries out workloads of one kind: one [`Manager`] each, in a [`Registry`].
//!
//! Another kind takes a file below `managers/` and a line in [`super::managers::all`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use towline_protocol::{
    Code, ItemError, Name, ResourceId, WorkloadId,
    bundle::ResultState,
    platform::{ServiceStatus, Unit},
};

use super::{
    capacity::Room,
    model::Verb,
    pipeline::{Step, Stop, Verdict},
};
use crate::manifest::Complaint;

/// A workload as its manager is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) bundle: Name,
    pub(crate) id: WorkloadId,
    pub(crate) resource: ResourceId,
    /// The document, verbatim; it was read without a complaint.
    pub(crate) definition: Bytes,
    /// The result of the last operation that succeeded; null before the first.
    pub(crate) data: Value,
    /// It may take over what `apply` brought here.
    pub(crate) adopt: bool,
}

/// What the engine must know of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Traits {
    /// Several bundles may have it together.
    pub(crate) shared: bool,
    /// The room that it is promised.
    pub(crate) needs: Room,
    /// How long one part of an operation on it may take by what it declares, beyond what any may.
    pub(crate) turn: Duration,
}

/// What was seen of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: ServiceStatus,
    pub(crate) reason: Option<String>,
    pub(crate) units: Vec<Unit>,
    /// How it differs from its definition; none if it does not, or if that is not known.
    pub(crate) drift: Option<String>,
    /// Who mends that.
    pub(crate) mend: Mend,
}

impl Seen {
    /// It did not answer: nothing follows from that.
    pub(crate) fn unknown(reason: String) -> Self {
        Self {
            status: ServiceStatus::Unknown,
            reason: Some(reason),
            units: Vec::new(),
            drift: None,
            mend: Mend::Nobody,
        }
    }
}

/// Who mends what drifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mend {
    /// Nobody: it is only shown.
    Nobody,
    /// The engine, which carries the workload out again.
    Engine,
    /// Its manager, by itself.
    Manager,
}

/// What the engine knows of, for who clears away what it does not.
pub(crate) struct Known {
    listed: BTreeSet<ResourceId>,
    now: Box<dyn Fn(&ResourceId) -> bool + Send + Sync>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("listed", &self.listed).finish_non_exhaustive()
    }
}

impl Known {
    /// `listed` is what was known a moment ago; `now` looks again.
    pub(crate) fn new(
        listed: BTreeSet<ResourceId>,
        now: impl Fn(&ResourceId) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { listed, now: Box::new(now) }
    }

    /// Whether it was known a moment ago: enough to leave something alone, not to remove it.
    pub(crate) fn listed(&self, resource: &ResourceId) -> bool {
        self.listed.contains(resource)
    }

    /// Whether it is known now. Ask it with whatever is held that keeps the resource from being made meanwhile.
    pub(crate) fn now(&self, resource: &ResourceId) -> bool {
        (self.now)(resource)
    }
}

/// Carries out workloads of one kind.
///
/// Operations are pipelines. Each is idempotent: an agent that was killed in the middle runs it again from its start. What
/// does not bear our label is never touched.
#[async_trait]
pub(crate) trait Manager: Send + Sync + 'static {
    /// The kind, as documents spell it.
    fn kind(&self) -> &'static str;

    /// Reads a document of this kind.
    ///
    /// # Errors
    /// Every complaint about it.
    fn read(&self, document: &[u8]) -> Result<Traits, Vec<Complaint>>;

    /// Whether [`Manager::update`] can be asked. Else a changed definition is refused before it is accepted.
    fn can_update(&self) -> bool {
        true
    }

    /// Whether its operations take turns of the mark by themselves, one for each thing they change. Else each of its steps is
    /// one turn, so it must be short.
    fn takes_turns(&self) -> bool {
        false
    }

    /// Makes ready to work, before any operation is asked. Asked again, with growing waits, until it succeeds; operations of
    /// this kind wait for that.
    ///
    /// # Errors
    /// Why this kind cannot be worked with now; the others are.
    async fn initialise(&self) -> Result<(), ItemError> {
        Ok(())
    }

    /// Brings it about, or makes sure of it. The result of the last step is kept as its data.
    fn provision(&self, work: Work) -> Vec<Step>;

    /// Brings it from `before` to what it is now.
    fn update(&self, work: Work, before: Work) -> Vec<Step>;

    /// Takes it down with all that is its; what is gone already is no error.
    fn deprovision(&self, work: Work) -> Vec<Step>;

    /// Stops it; none where it is enough to mark it so.
    fn pause(&self, _work: Work) -> Option<Vec<Step>> {
        None
    }

    /// Starts it again; none where it is enough to mark it so.
    fn resume(&self, _work: Work) -> Option<Vec<Step>> {
        None
    }

    /// It was carried out by an earlier agent, and is found again.
    fn adopt(&self, _work: &Work, _paused: bool) {}

    /// Looks at workloads, of one bundle: an answer for each, in their order. One that cannot be looked at is unknown, and
    /// keeps nobody from seeing the others.
    async fn observe(&self, works: Vec<Work>) -> Vec<Seen>;

    /// Removes what bears our label and is not `known`, also while others work; says what that was.
    async fn clean_up(&self, _known: Arc<Known>) -> Vec<String> {
        Vec::new()
    }
}

/// All managers, in the order their kinds start in unless a bundle says otherwise.
#[derive(Clone)]
pub(crate) struct Registry(Arc<Vec<Arc<dyn Manager>>>);

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kinds()).finish()
    }
}

impl Registry {
    pub(crate) fn new(managers: Vec<Arc<dyn Manager>>) -> Self {
        Self(Arc::new(managers))
    }

    /// Their kinds, in start order.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        self.0.iter().map(|manager| manager.kind()).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn Manager>> {
        self.0.iter()
    }

    /// The manager of `kind`.
    ///
    /// # Errors
    /// That there is none: the agent that accepted it was another one.
    pub(crate) fn find(&self, kind: &str) -> Result<&Arc<dyn Manager>, ItemError> {
        let found = self.0.iter().find(|manager| manager.kind() == kind);
        found.ok_or_else(|| {
            let text =
                format!("no manager of this agent knows {kind}; known are {}", self.kinds().join(", "));
            ItemError::new(Code::Unsupported, text)
        })
    }

    /// Whether whoever runs the steps of `kind` takes turns for them.
    pub(crate) fn needs_turns(&self, kind: &str) -> bool {
        self.find(kind).is_ok_and(|manager| !manager.takes_turns())
    }

    /// The steps of `verb`; none where it is enough to record it.
    ///
    /// # Errors
    /// An unknown kind, or a state that the verb cannot begin in.
    pub(crate) fn steps(
        &self,
        verb: Verb,
        state: &ResultState,
        work: Work,
        before: Option<Work>,
    ) -> Result<Option<Vec<Step>>, Stop> {
        let manager = self.find(work.id.kind())?;
        let refuse = |text: &str| Err(Stop::new(Verdict::Failed, Code::Conflict, text));
        Ok(match (verb, before) {
            (Verb::Update, Some(before)) => Some(manager.update(work, before)),
            (Verb::Add | Verb::Update | Verb::Again, _) => Some(manager.provision(work)),
            (Verb::Remove, _) => Some(manager.deprovision(work)),
            // Also what failed: some of it may run.
            (Verb::Pause, _) if matches!(state, ResultState::Deleted) => {
                return refuse("can only pause workloads that are there");
            }
            (Verb::Resume, _) if *state != ResultState::Paused => {
                return refuse("can only resume workloads in paused state");
            }
            (Verb::Pause, _) => manager.pause(work),
            (Verb::Resume, _) => manager.resume(work),
        })
    }
}
