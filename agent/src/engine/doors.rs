//! Readers of this module for the fuzzer: nothing else may reach them from outside.

use bytes::Bytes;
use towline_protocol::{CallError, ContentDigest, Name, ResourceId, WorkloadId};

use super::{content, managers};

/// A workload that a content asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is within its bundle.
    pub id: WorkloadId,
    /// The resource that it defines.
    pub resource: ResourceId,
    /// What starts before it.
    pub depends_on: Vec<WorkloadId>,
    /// Its document, verbatim.
    pub bytes: Bytes,
    /// The document's digest.
    pub digest: ContentDigest,
}

/// Reads a bundle's content as an agent with every kind does: its workloads, in start order.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn bundle(name: &Name, content: &Bytes) -> Result<Vec<Member>, CallError> {
    let content = content::read_now(&managers::KINDS, managers::read, name, content)?;
    let member = |member: content::Member| Member {
        id: member.id,
        resource: member.resource,
        depends_on: member.depends_on,
        bytes: member.bytes,
        digest: member.digest,
    };
    Ok(content.members.into_iter().map(member).collect())
}

/// Reads the label of a path and writes it again; none when it is no label.
#[must_use]
pub fn label(json: &[u8]) -> Option<Vec<u8>> {
    managers::reread_label(json)
}
