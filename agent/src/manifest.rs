//! What a user writes: `App` manifests as YAML, read strictly.
//!
//! In: bytes with any number of documents, and the name of where they came from. Out: for each document its id, its
//! bytes *verbatim* (digests and signatures cover what was submitted, never a re-rendering) and, from [`parse`], the
//! checked definition. Or every complaint at once, each naming source, document, path, what was found and what is
//! allowed.
//!
//! ```text
//! bytes ── split ──► documents ── identify ──► (id, bytes)        for those who only pass it on
//!                              └─ parse ─────► Manifest           for the runtime that applies it
//! ```
//!
//! A value never appears in a complaint where it may be a secret (environment, file content).

mod app;
mod bundle;
mod container;
mod error;
mod fields;
mod health;
mod hooks;
mod host;
mod leaves;
mod name;
mod quantity;
mod resources;
mod rules;
mod split;
#[cfg(test)]
mod tests;
mod unsupported;
mod yaml;

use std::collections::BTreeMap;

use bytes::Bytes;
use towline_protocol::Name;

pub use self::app::{
    AppSpec, Condition, Drift, FileSpec, LogSpec, PortSpec, Protocol, Restart, Stop, StopSignal, Strategy,
    StrategyType,
};
pub(crate) use self::app::{drift_field, file_fields, mode_field, path_field};
pub(crate) use self::bundle::{BundleHead, Member, read_bundle};
pub use self::container::{ContainerSpec, MountSpec, Propagation, PullPolicy};
pub(crate) use self::error::Complaint;
pub use self::error::{ManifestError, ManifestErrors};
use self::fields::Complaints;
pub(crate) use self::fields::{Field, Fields};
pub use self::health::{HealthSpec, ProbeSpec};
pub use self::hooks::Hooks;
pub use self::host::{HostChoice, ParseHostChoiceError};
pub(crate) use self::leaves::leaves;
pub use self::quantity::{ByteSize, Cpu, ParseQuantityError, Span};
pub use self::resources::Resources;
pub(crate) use self::rules::port_variable;
pub use self::split::{Document, split};
use crate::runtime::RuntimeKind;

/// The `apiVersion` that this version of Towline reads.
pub const API_VERSION: &str = "towline/v1";

/// The namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Largest manifest input, in bytes: far above any real one, far below what would hurt.
pub const MAX_INPUT: usize = 64 * 1024 * 1024;

/// One checked `App`, with the bytes it was read from.
#[derive(Clone)]
pub struct Manifest {
    /// `namespace/App/name`.
    pub id: String,
    /// Namespace; `default` when the document names none.
    pub namespace: Name,
    /// Name of the app within its namespace.
    pub name: Name,
    /// Labels, shown with the service.
    pub labels: BTreeMap<String, String>,
    /// The definition, defaults filled in, every rule checked.
    pub spec: AppSpec,
    /// The document, byte for byte as submitted.
    pub bytes: Bytes,
    /// Number of the document in its source, from 1.
    pub document: usize,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The document holds what `FileSpec` hides.
        let mut shown = f.debug_struct("Manifest");
        shown.field("id", &self.id).field("spec", &self.spec).field("bytes", &self.bytes.len());
        shown.finish_non_exhaustive()
    }
}

/// Reads every document of `bytes` as far as its identity: `(id, document verbatim)`, in order of appearance.
///
/// For those who only pass resources on. Any `kind` is accepted. Two documents with one id are an error.
///
/// # Errors
/// Every document that has no readable identity, and every id that occurs twice.
pub fn identify(source: &str, bytes: &[u8]) -> Result<Vec<(String, Bytes)>, ManifestErrors> {
    let mut found = Vec::new();
    let mut errors = ManifestErrors::new(source);
    let mut ids = Ids::default();
    for document in documents(source, bytes)? {
        match identity(&document) {
            Ok(id) if ids.is_new(&id, document.number, &mut errors) => {
                found.push((id, Bytes::copy_from_slice(document.bytes)));
            }
            Ok(_) => {}
            Err(complaints) => errors.extend(document.number, complaints),
        }
    }
    errors.into_result(found)
}

/// Reads and checks every document of `bytes` as an `App` for `runtime`, in order of appearance.
///
/// # Errors
/// Every complaint about every document: at least one for each whose shape is wrong, and all that break a rule. A
/// field that this runtime cannot honour is refused as unsupported, never ignored.
pub fn parse(runtime: RuntimeKind, source: &str, bytes: &[u8]) -> Result<Vec<Manifest>, ManifestErrors> {
    let mut found = Vec::new();
    let mut errors = ManifestErrors::new(source);
    let mut ids = Ids::default();
    for document in documents(source, bytes)? {
        match read_app(document.bytes, runtime, document.number, false) {
            Ok(manifest) if ids.is_new(&manifest.id, document.number, &mut errors) => found.push(manifest),
            Ok(_) => {}
            Err(complaints) => errors.extend(document.number, complaints),
        }
    }
    errors.into_result(found)
}

fn documents<'a>(source: &str, bytes: &'a [u8]) -> Result<Vec<Document<'a>>, ManifestErrors> {
    if bytes.len() > MAX_INPUT {
        let mut errors = ManifestErrors::new(source);
        errors.extend(
            1,
            vec![Complaint::new(
                "",
                format!("found {} bytes, allowed are at most {MAX_INPUT}: split the input", bytes.len()),
            )],
        );
        return Err(errors);
    }
    Ok(split(bytes))
}

/// Reads one `App` of a bundle, where it may depend on others.
///
/// # Errors
/// Every complaint about it.
pub(crate) fn read_app_of_bundle(runtime: RuntimeKind, document: &[u8]) -> Result<Manifest, Vec<Complaint>> {
    read_app(document, runtime, 1, true)
}

fn read_app(
    bytes: &[u8],
    runtime: RuntimeKind,
    document: usize,
    in_bundle: bool,
) -> Result<Manifest, Vec<Complaint>> {
    let (named, spec) = read_named(bytes, "App", |spec, complaints| {
        let app = app::read(spec, runtime, in_bundle);
        rules::check(&app, complaints);
        Some(app)
    })?;
    let Named { id, namespace, name, labels } = named;
    Ok(Manifest { id, namespace, name, labels, spec, bytes: Bytes::copy_from_slice(bytes), document })
}

/// What every resource has above its `spec`.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    /// `namespace/Kind/name`.
    pub(crate) id: String,
    pub(crate) namespace: Name,
    pub(crate) name: Name,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Reads one document of `kind`, whose `spec` is read by `read`; fields that it does not ask for are refused.
///
/// # Errors
/// Every complaint about the document.
pub(crate) fn read_kind<T>(
    document: &[u8],
    kind: &str,
    read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
) -> Result<(Named, T), Vec<Complaint>> {
    read_named(document, kind, |spec, _| {
        let mut fields = spec.clone().required().fields();
        // Of every kind; what it names is checked with the whole bundle.
        fields.get("dependsOn").texts();
        let spec = read(&mut fields);
        fields.finish();
        spec
    })
}

/// Reads a document that is no resource, such as a configuration, just as strictly.
///
/// # Errors
/// Every complaint about it.
pub(crate) fn read_strictly<T>(
    document: &[u8],
    read: impl FnOnce(&Field<'_>) -> T,
) -> Result<T, Vec<Complaint>> {
    let tree = yaml::read(document).map_err(|complaint| vec![complaint])?;
    let complaints = Complaints::default();
    let found = read(&Field::root(&tree, &complaints));
    let complaints = complaints.into_inner();
    if complaints.is_empty() { Ok(found) } else { Err(complaints) }
}

fn read_named<T>(
    document: &[u8],
    kind: &str,
    read: impl FnOnce(&Field<'_>, &Complaints) -> Option<T>,
) -> Result<(Named, T), Vec<Complaint>> {
    let tree = yaml::read(document).map_err(|complaint| vec![complaint])?;
    let complaints = Complaints::default();
    let head = head(&Field::root(&tree, &complaints));
    if let Some(foreign) = head.foreign(kind) {
        return Err(vec![foreign]);
    }
    let spec = read(&head.spec, &complaints);
    let Head { namespace, name, labels, .. } = head;
    let complaints = complaints.into_inner();
    match (name, spec) {
        (Some(name), Some(spec)) if complaints.is_empty() => {
            Ok((Named { id: format!("{namespace}/{kind}/{name}"), namespace, name, labels }, spec))
        }
        _ => Err(complaints),
    }
}

fn identity(document: &Document<'_>) -> Result<String, Vec<Complaint>> {
    let tree = yaml::read(document.bytes).map_err(|complaint| vec![complaint])?;
    let (namespace, kind, name) = identity_of(&tree)?;
    Ok(format!("{namespace}/{kind}/{name}"))
}

fn identity_of(tree: &yaml::Value) -> Result<(Name, String, Name), Vec<Complaint>> {
    let complaints = Complaints::default();
    let mut root = Field::root(tree, &complaints).fields();
    root.get("apiVersion").required().text();
    let kind = root.get("kind").required().parsed::<name::Kind>();
    let (namespace, name) = names(&mut root.get("metadata").required().fields());
    match (kind, name, complaints.into_inner()) {
        (Some(kind), Some(name), complaints) if complaints.is_empty() => {
            Ok((namespace, kind.to_string(), name))
        }
        (_, _, complaints) => Err(complaints),
    }
}

/// What stands above `spec` in an `App`.
struct Head<'a> {
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Name,
    name: Option<Name>,
    labels: BTreeMap<String, String>,
    spec: Field<'a>,
}

impl Head<'_> {
    /// The complaint when this is another kind of thing altogether: then the rest says nothing of use.
    fn foreign(&self, wanted: &str) -> Option<Complaint> {
        if let Some(version) = self.api_version.as_ref().filter(|version| *version != API_VERSION) {
            return Some(Complaint::new(
                "apiVersion",
                format!("found {version:?}, allowed is {API_VERSION}"),
            ));
        }
        let kind = self.kind.as_ref().filter(|kind| *kind != wanted)?;
        Some(Complaint::new("kind", format!("found {kind:?}, allowed is {wanted}")))
    }
}

fn head<'a>(root: &Field<'a>) -> Head<'a> {
    let mut fields = root.fields();
    let api_version = fields.get("apiVersion").required().text();
    let kind = fields.get("kind").required().text();
    let mut metadata = fields.get("metadata").required().fields();
    let (namespace, name) = names(&mut metadata);
    let labels = metadata.get("labels").text_map();
    metadata.finish();
    let spec = fields.get("spec");
    fields.finish();
    Head { api_version, kind, namespace, name, labels, spec }
}

fn names(metadata: &mut fields::Fields<'_>) -> (Name, Option<Name>) {
    let name = metadata.get("name").required().parsed();
    (metadata.get("namespace").parsed().unwrap_or_else(name::default_namespace), name)
}

/// Which document defined an id first.
#[derive(Default)]
struct Ids(BTreeMap<String, usize>);

impl Ids {
    fn is_new(&mut self, id: &str, number: usize, errors: &mut ManifestErrors) -> bool {
        if let Some(first) = self.0.get(id) {
            let text =
                format!("found {id} again, which document {first} defines already; each id is allowed once");
            errors.extend(number, vec![Complaint::new("metadata.name", text)]);
            return false;
        }
        self.0.insert(id.to_owned(), number);
        true
    }
}
