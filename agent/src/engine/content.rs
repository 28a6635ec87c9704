//! A bundle's content as read: workloads in start order.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use towline_protocol::{CallError, Code, ItemError, Name, ResourceId, WorkloadId};

use super::{
    capacity::Room,
    manager::{Registry, Traits},
    managers::unreadable,
    order::{Node, start_order},
    pipeline::panicked,
    plan::Wanted,
    state::Coming,
};
use crate::manifest::{self, BundleHead, Complaint};

/// One workload that a content asks for.
pub(super) type Member = manifest::Member<Traits>;

/// What a content asks for.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) head: BundleHead,
    /// In start order.
    pub(super) members: Vec<Member>,
    /// What this agent does not take of a content that was accepted, and why. Its members stand in for it, without traits.
    pub(super) refused: BTreeMap<WorkloadId, ItemError>,
}

impl Content {
    /// The same, as planning sees it.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        self.members.iter().map(|member| Wanted { id: member.id.clone(), digest: member.digest }).collect()
    }

    /// What it defines, as it waits to be begun.
    pub(super) fn coming(&self) -> Vec<Coming> {
        let coming = |member: &Member| Coming {
            id: member.id.clone(),
            resource: member.resource.clone(),
            needs: member.traits.needs,
            announced: true,
        };
        self.members.iter().map(coming).collect()
    }

    /// The room that each of its resources needs.
    pub(super) fn needs(&self) -> Vec<(ResourceId, Room)> {
        self.members.iter().map(|member| (member.resource.clone(), member.traits.needs)).collect()
    }

    pub(super) fn ids(&self) -> Vec<WorkloadId> {
        self.members.iter().map(|member| member.id.clone()).collect()
    }
}

/// Reads on a thread for work that takes long: a content may have 64 MiB.
async fn aside(
    read: impl FnOnce() -> Result<Content, CallError> + Send + 'static,
) -> Result<Content, CallError> {
    let lost = |_| Err(CallError::new(Code::Invalid, "reading the content failed"));
    tokio::task::spawn_blocking(read).await.unwrap_or_else(lost)
}

/// Reads a content whole, off the threads that others wait for.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub(super) async fn read(registry: Registry, bundle: Name, content: Bytes) -> Result<Content, CallError> {
    let read = move || {
        let check =
            |kind: &str, document: &[u8]| registry.find(kind).ok().map(|manager| manager.read(document));
        read_now(&registry.kinds(), check, &bundle, &content)
    };
    aside(read).await
}

/// Reads a content that was accepted: what of it this agent does not take any more, or another agent took, concerns that
/// workload alone.
///
/// # Errors
/// That it cannot be told which workloads it has, or in which order they start.
pub(super) async fn read_accepted(
    registry: Registry,
    bundle: Name,
    content: Bytes,
) -> Result<Content, CallError> {
    let read = move || {
        let kinds = registry.kinds();
        let check = |kind: &str, document: &[u8]| {
            let read = || registry.find(kind)?.read(document).map_err(unreadable);
            Some(Ok(catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(panicked().error))))
        };
        let (head, members) = manifest::read_bundle(&content, &kinds, check)
            .map_err(|errors| CallError::new(Code::Invalid, format!("bundle {bundle}: {errors}")))?;
        let mut refused = BTreeMap::new();
        let member = |member: manifest::Member<Result<Traits, ItemError>>| {
            let manifest::Member { id, resource, depends_on, bytes, digest, traits } = member;
            let refuse = |error| drop(refused.insert(id.clone(), error));
            let traits = traits.map_err(refuse).unwrap_or_default();
            Member { id, resource, depends_on, bytes, digest, traits }
        };
        let members = members.into_iter().map(member).collect();
        let members = in_order(members, head.start_order.as_deref(), &kinds)?;
        Ok(Content { head, members, refused })
    };
    aside(read).await
}

/// As [`read`], at once, of `kinds` in the order they start in; `check` reads a document of one of them.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub(super) fn read_now(
    kinds: &[&'static str],
    check: impl Fn(&str, &[u8]) -> Option<Result<Traits, Vec<Complaint>>>,
    bundle: &Name,
    content: &Bytes,
) -> Result<Content, CallError> {
    let (head, members) = manifest::read_bundle(content, kinds, check)
        .map_err(|errors| CallError::new(Code::Invalid, errors.to_string()))?;
    let invalid = |text: String| CallError::new(Code::Invalid, text);
    if let Some(name) = head.name.as_ref().filter(|name| *name != bundle) {
        return Err(invalid(format!(
            "the head document names bundle {name}, and it was put as {bundle}: allowed is the same name"
        )));
    }
    let declared = head.start_order.as_deref();
    if let Some(unknown) = declared.into_iter().flatten().find(|kind| !kinds.contains(&kind.as_str())) {
        return Err(invalid(format!("spec.startOrder: found {unknown:?}, allowed are {}", kinds.join(", "))));
    }
    let members = in_order(members, declared, kinds)?;
    Ok(Content { head, members, refused: BTreeMap::new() })
}

/// Members in the order they start in: kind by kind as `declared`, or else as `kinds` start.
fn in_order(
    mut members: Vec<Member>,
    declared: Option<&[String]>,
    kinds: &[&'static str],
) -> Result<Vec<Member>, CallError> {
    let usual = || kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let by_kind = declared.map_or_else(usual, <[String]>::to_vec);
    let node = |member: &Member| Node {
        id: member.id.clone(),
        depends_on: member.depends_on.clone(),
        size: member.traits.needs.disk,
    };
    let nodes: Vec<Node> = members.iter().map(node).collect();
    let order =
        start_order(&nodes, &by_kind).map_err(|error| CallError::new(Code::Invalid, error.to_string()))?;
    let mut slots: Vec<Option<Member>> = members.drain(..).map(Some).collect();
    Ok(order.into_iter().filter_map(|position| slots.get_mut(position)?.take()).collect())
}
