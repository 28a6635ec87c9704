//! One direct resource in memory: what is stored, and what it means.

use std::sync::Arc;

use bytes::Bytes;
use towline_protocol::Name;

use super::generation;
use crate::{
    manifest::{self, Manifest},
    runtime::{RuntimeKind, UnitSpec},
    store::{Facts, Resource},
};

/// A resource and its definition as read. Definitions that an older or newer agent stored may not be readable.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) resource: Arc<Resource>,
    pub(super) manifest: Result<Arc<Manifest>, String>,
    /// The bundle that has it; none of what `apply` brought here.
    pub(super) owner: Option<Name>,
    /// Stopped until it is resumed: nobody starts it meanwhile.
    pub(super) paused: bool,
}

impl Entry {
    /// From the store.
    pub(super) fn read(runtime: RuntimeKind, resource: Arc<Resource>) -> Self {
        let manifest = one(runtime, &resource.definition).map(Arc::new);
        Self { resource, manifest, owner: None, paused: false }
    }

    /// A new definition that follows `before`. The same definition keeps its generation, even if an agent of another
    /// version computed it: an upgrade must not restart anything.
    pub(super) fn define(manifest: Manifest, before: Option<&Self>, now_ms: u64) -> Self {
        let digest = blake3::hash(&manifest.bytes).to_hex().to_string();
        let same = before.filter(|before| before.resource.facts.digest == digest);
        let generation = match (same, before) {
            (Some(same), _) => same.resource.facts.generation.clone(),
            (None, Some(before)) => generation::following(&manifest, &digest, before),
            (None, None) => generation::of(&manifest),
        };
        let facts = Facts { digest, generation, applied_ms: now_ms, failure: None, pending: false };
        let resource = Resource { definition: manifest.bytes.clone(), facts };
        Self { resource: Arc::new(resource), manifest: Ok(Arc::new(manifest)), owner: None, paused: false }
    }

    /// A definition of a bundle that was carried out as `generation`; as the next, if it was not yet.
    pub(super) fn of_bundle(
        manifest: Manifest,
        before: Option<&Self>,
        owner: &Name,
        generation: Option<String>,
        now_ms: u64,
    ) -> Self {
        let entry = Self { owner: Some(owner.clone()), ..Self::define(manifest, before, now_ms) };
        match generation.filter(|_| before.is_none()) {
            Some(generation) => entry.with_facts(Facts { generation, ..entry.resource.facts.clone() }),
            None => entry,
        }
    }

    /// The same, stopped until it is resumed.
    pub(super) fn to_be_paused(&self) -> Self {
        Self { paused: true, ..self.with_facts(self.resource.facts.clone()) }
    }

    /// The same, carried out or failed at that.
    pub(super) fn with_failure(&self, failure: Option<String>) -> Self {
        self.with_facts(Facts { failure, pending: false, ..self.resource.facts.clone() })
    }

    /// The same, accepted and yet to be carried out.
    pub(super) fn to_be_done(&self) -> Self {
        self.with_facts(Facts { pending: true, ..self.resource.facts.clone() })
    }

    fn with_facts(&self, facts: Facts) -> Self {
        let resource = Resource { definition: self.resource.definition.clone(), facts };
        Self {
            resource: Arc::new(resource),
            manifest: self.manifest.clone(),
            owner: self.owner.clone(),
            paused: self.paused,
        }
    }

    pub(super) fn unit_spec(&self) -> Option<UnitSpec> {
        let manifest = Arc::clone(self.manifest.as_ref().ok()?);
        Some(UnitSpec { manifest, generation: self.resource.facts.generation.clone() })
    }
}

/// As [`one`], on a thread for work that takes long: a definition may be large.
pub(super) async fn read_one(runtime: RuntimeKind, definition: &Bytes) -> Result<Manifest, String> {
    let definition = definition.clone();
    let read = tokio::task::spawn_blocking(move || one(runtime, &definition)).await;
    read.unwrap_or_else(|_| Err("reading it failed".to_owned()))
}

/// The one `App` that `definition` holds, or everything that is wrong with it.
pub(super) fn one(runtime: RuntimeKind, definition: &Bytes) -> Result<Manifest, String> {
    let mut found =
        manifest::parse(runtime, "definition", definition).map_err(|errors| errors.to_string())?;
    match (found.pop(), found.len()) {
        // The bytes as they came, not the slice that holds the document: that is what was submitted.
        (Some(manifest), 0) => Ok(Manifest { bytes: definition.clone(), ..manifest }),
        (None, _) => Err("found no document, allowed is one".to_owned()),
        (Some(_), more) => Err(format!("found {} documents, allowed is one", more + 1)),
    }
}
