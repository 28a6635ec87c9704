//! A bundle's content: any number of workloads, and an optional head document.

use std::collections::BTreeMap;

use bytes::Bytes;
use towline_protocol::{
    ContentDigest, Name, ResourceId, WorkloadId,
    limits::{BUNDLE_VERSION_MAX, DEFINITIONS_MAX},
};

use super::{
    API_VERSION, Document, ManifestErrors, documents,
    error::Complaint,
    fields::{Complaints, Field},
    identity_of, names, yaml,
};

/// The kind of the head document.
const HEAD: &str = "Bundle";

/// What a head document says. All of it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BundleHead {
    /// Name of the bundle, for whoever puts a file; it must be the one that it is put under.
    pub(crate) name: Option<Name>,
    /// For people.
    pub(crate) description: String,
    /// The version that the content is.
    pub(crate) version: Option<u64>,
    /// Kinds in the order they start in.
    pub(crate) start_order: Option<Vec<String>>,
}

/// One workload of a bundle.
#[derive(Debug, Clone)]
pub(crate) struct Member<T> {
    pub(crate) id: WorkloadId,
    pub(crate) resource: ResourceId,
    pub(crate) depends_on: Vec<WorkloadId>,
    /// The document, verbatim.
    pub(crate) bytes: Bytes,
    pub(crate) digest: ContentDigest,
    /// What its kind says of it.
    pub(crate) traits: T,
}

/// Reads a bundle's content. `check` reads a document of one kind; it knows none of others than `kinds`.
///
/// # Errors
/// Every complaint about every document.
pub(crate) fn read_bundle<T>(
    bytes: &Bytes,
    kinds: &[&str],
    check: impl Fn(&str, &[u8]) -> Option<Result<T, Vec<Complaint>>>,
) -> Result<(BundleHead, Vec<Member<T>>), ManifestErrors> {
    let mut errors = ManifestErrors::new("bundle");
    let (mut head, mut members) = (None, Vec::new());
    let mut first: BTreeMap<WorkloadId, usize> = BTreeMap::new();
    for document in documents("bundle", bytes)? {
        match read_document(&document, kinds, &check) {
            Err(complaints) => errors.extend(document.number, complaints),
            Ok(Part::Head(_)) if head.is_some() => {
                let text = "found a second Bundle, allowed is one";
                errors.extend(document.number, vec![Complaint::new("kind", text)]);
            }
            Ok(Part::Head(found)) => head = Some(found),
            Ok(Part::Member(member)) => match first.get(&member.id) {
                Some(other) => {
                    let text = format!(
                        "found {} again, which document {other} defines already; each is allowed once in a bundle",
                        member.id
                    );
                    errors.extend(document.number, vec![Complaint::new("metadata.name", text)]);
                }
                None => {
                    first.insert(member.id.clone(), document.number);
                    members.push(*member);
                }
            },
        }
    }
    if members.len() > DEFINITIONS_MAX {
        let text = format!("found {} workloads, allowed are at most {DEFINITIONS_MAX}", members.len());
        errors.extend(1, vec![Complaint::new("", text)]);
    }
    errors.into_result((head.unwrap_or_default(), members))
}

enum Part<T> {
    Head(BundleHead),
    Member(Box<Member<T>>),
}

fn read_document<T>(
    document: &Document<'_>,
    kinds: &[&str],
    check: &impl Fn(&str, &[u8]) -> Option<Result<T, Vec<Complaint>>>,
) -> Result<Part<T>, Vec<Complaint>> {
    let tree = yaml::read(document.bytes).map_err(|complaint| vec![complaint])?;
    let complaints = Complaints::default();
    let root = Field::root(&tree, &complaints);
    let kind = root.fields().get("kind").text();
    if kind.as_deref() == Some(HEAD) {
        let head = read_head(&root);
        let complaints = complaints.into_inner();
        return if complaints.is_empty() { Ok(Part::Head(head)) } else { Err(complaints) };
    }
    let (namespace, kind, name) = identity_of(&tree)?;
    let Some(read) = check(&kind, document.bytes) else {
        let text =
            format!("found {kind:?}, allowed in a bundle of this agent are {HEAD}, {}", kinds.join(", "));
        return Err(vec![Complaint::new("kind", text)]);
    };
    let traits = read?;
    let depends_on = root.fields().get("spec").fields().get("dependsOn");
    let depends_on = depends_on.items().iter().filter_map(Field::parsed).collect();
    let complaints = complaints.into_inner();
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let bad =
        |error: towline_protocol::id::ParseIdError| vec![Complaint::new("metadata.name", error.to_string())];
    Ok(Part::Member(Box::new(Member {
        id: format!("{kind}/{name}").parse().map_err(bad)?,
        resource: format!("{namespace}/{kind}/{name}").parse().map_err(bad)?,
        depends_on,
        bytes: Bytes::copy_from_slice(document.bytes),
        digest: ContentDigest::of(document.bytes),
        traits,
    })))
}

fn read_head(root: &Field<'_>) -> BundleHead {
    let mut fields = root.fields();
    let version = fields.get("apiVersion").required();
    if let Some(found) = version.text().filter(|text| text != API_VERSION) {
        version.refuse(format!("found {found:?}, allowed is {API_VERSION}"));
    }
    fields.get("kind");
    let mut metadata = fields.get("metadata").required().fields();
    let (_, name) = names(&mut metadata);
    let description = metadata.get("description").text().unwrap_or_default();
    metadata.get("labels").text_map();
    metadata.finish();
    let mut spec = fields.get("spec").fields();
    let version = spec.get("version").number(1..=BUNDLE_VERSION_MAX);
    let order = spec.get("startOrder");
    let start_order = order.value().map(|_| order.texts());
    spec.finish();
    fields.finish();
    BundleHead { name, description, version, start_order }
}
