//! A bundle's content as read: workloads in start order.

use bytes::Bytes;
use towline_protocol::{CallError, Code, Name, WorkloadId};

use super::{
    manager::{Registry, Traits},
    order::{Node, start_order},
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

    pub(super) fn ids(&self) -> Vec<WorkloadId> {
        self.members.iter().map(|member| member.id.clone()).collect()
    }
}

/// Reads a content whole, on a thread for work that takes long: it may have 64 MiB.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub(super) async fn read(registry: Registry, bundle: Name, content: Bytes) -> Result<Content, CallError> {
    let read = move || {
        let check =
            |kind: &str, document: &[u8]| registry.find(kind).ok().map(|manager| manager.read(document));
        read_now(&registry.kinds(), check, &bundle, &content)
    };
    let lost = |_| Err(CallError::new(Code::Invalid, "reading the content failed"));
    tokio::task::spawn_blocking(read).await.unwrap_or_else(lost)
}

/// The same at once, of `kinds` in the order they start in; `check` reads a document of one of them.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub(super) fn read_now(
    kinds: &[&'static str],
    check: impl Fn(&str, &[u8]) -> Option<Result<Traits, Vec<Complaint>>>,
    bundle: &Name,
    content: &Bytes,
) -> Result<Content, CallError> {
    let (head, mut members) = manifest::read_bundle(content, kinds, check)
        .map_err(|errors| CallError::new(Code::Invalid, errors.to_string()))?;
    let invalid = |text: String| CallError::new(Code::Invalid, text);
    if let Some(name) = head.name.as_ref().filter(|name| *name != bundle) {
        return Err(invalid(format!(
            "the head document names bundle {name}, and it was put as {bundle}: allowed is the same name"
        )));
    }
    let declared = match &head.start_order {
        Some(declared) => {
            if let Some(unknown) = declared.iter().find(|kind| !kinds.contains(&kind.as_str())) {
                return Err(invalid(format!(
                    "spec.startOrder: found {unknown:?}, allowed are {}",
                    kinds.join(", ")
                )));
            }
            declared.clone()
        }
        None => kinds.iter().map(|kind| (*kind).to_owned()).collect(),
    };
    let node = |member: &Member| Node {
        id: member.id.clone(),
        depends_on: member.depends_on.clone(),
        size: member.traits.needs.disk,
    };
    let nodes: Vec<Node> = members.iter().map(node).collect();
    let order = start_order(&nodes, &declared).map_err(|error| invalid(error.to_string()))?;
    let mut slots: Vec<Option<Member>> = members.drain(..).map(Some).collect();
    let members = order.into_iter().filter_map(|position| slots.get_mut(position)?.take()).collect();
    Ok(Content { head, members })
}
