//! Makes what is applied what is wanted, through the HTTP API.

use towline_hub::api::types::{Apply, Problem, ServiceList, Sync};
use towline_protocol::{InstanceId, Method};

use super::memory::Memory;
use super::plan::{Applied, after, plan};
use crate::client::{Attempt, Client, ClientError, EventStream, Request};
use crate::command::{definition, origin_of};
use crate::failure::Failure;
use crate::input::Resource;
use crate::time::Since;

/// Looks at the instance. Clones share connections.
#[derive(Debug, Clone)]
pub(super) struct Looker {
    client: Client,
    instance: InstanceId,
}

impl Looker {
    /// All services as they stand.
    ///
    /// # Errors
    /// As every call.
    pub(super) async fn services(&self) -> Result<ServiceList, Failure> {
        let request = Request::get(Request::path_of(&self.instance, "/services"))
            .within(Method::AllServices.default_time());
        Ok(self.client.fetch(&request).await?.read()?)
    }

    /// What happens to the instance from `since` on, or after the event of an id.
    ///
    /// # Errors
    /// As every call.
    pub(super) async fn events(&self, since: Since, after: Option<String>) -> Result<EventStream, Failure> {
        let mut request = Request::get("/v1/events")
            .with("instance", self.instance.to_string())
            .with("since", since.to_param())
            .streaming();
        request.resume_after(after);
        Ok(self.client.open(&request).await?)
    }
}

/// Knows what it has applied.
#[derive(Debug)]
pub(super) struct Applier {
    looker: Looker,
    applied: Applied,
    memory: Memory,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Done {
    /// Resources that are new or changed.
    pub(super) applied: usize,
    /// Resources that are wanted no more.
    pub(super) deleted: usize,
}

impl Applier {
    /// Nothing is applied yet, but what an earlier run left: of that, what is not wanted any more is deleted, and the
    /// rest is applied again, which changes nothing where it still stands.
    pub(super) fn new(client: Client, instance: InstanceId, memory: Memory, wanted: &[Resource]) -> Self {
        let mut applied = memory.recall();
        applied.retain(|(id, _)| wanted.iter().all(|resource| resource.id != *id));
        Self { looker: Looker { client, instance }, applied, memory }
    }

    /// For looking while something is being applied.
    pub(super) fn looker(&self) -> Looker {
        self.looker.clone()
    }

    /// All services as they stand.
    ///
    /// # Errors
    /// As every call.
    pub(super) async fn services(&self) -> Result<ServiceList, Failure> {
        self.looker.services().await
    }

    /// Applies what is new or changed and deletes what is wanted no more. What fails is tried again with the next
    /// change.
    ///
    /// # Errors
    /// With each resource that failed, and where it stands.
    pub(super) async fn apply(&mut self, wanted: &[Resource]) -> Result<Done, Failure> {
        let plan = plan(&self.applied, wanted);
        let deleted = plan.iter().filter(|action| action.apply.is_none()).count();
        if plan.is_empty() {
            return Ok(Done::default());
        }
        let request = if deleted == 0 {
            // All at once; a sync would do one after the other.
            let is_planned = |resource: &&Resource| plan.iter().any(|action| action.id == resource.id);
            let definitions =
                wanted.iter().filter(is_planned).map(|resource| definition(resource, false)).collect();
            Request::post(self.path("/apply"), &Apply { definitions })
        } else {
            Request::post(self.path("/sync"), &Sync { actions: plan.clone() })
        };
        let attempt = Attempt::new(&self.looker.instance, None);
        let request = request.within(Method::Sync.default_time()).changing(attempt);
        let outcome = self.looker.client.fetch(&request).await;
        let applied = std::mem::take(&mut self.applied);
        self.applied = match &outcome {
            Ok(_) => after(applied, &plan, |_| false),
            Err(ClientError::Refused { problem, .. }) if !problem.errors.is_empty() => {
                after(applied, &plan, |id| named(problem, id.as_str()))
            }
            Err(_) => applied,
        };
        self.memory.keep(&self.applied);
        match outcome {
            Ok(_) => Ok(Done { applied: plan.len() - deleted, deleted }),
            Err(error) => Err(Failure::from(error).with_origins(|id| origin_of(wanted, id))),
        }
    }

    fn path(&self, below: &str) -> String {
        Request::path_of(&self.looker.instance, below)
    }
}

fn named(problem: &Problem, id: &str) -> bool {
    problem.errors.contains_key(id)
}
