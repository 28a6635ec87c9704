//! A bundle out of files: its documents in one piece, and the name that its head document gives it.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use towline_agent::manifest;
use towline_protocol::Name;

use crate::failure::{Exit, Failure};
use crate::input::{Origin, Resource, Source, resources};

/// The kind of a head document.
const HEAD: &str = "Bundle";

/// What is put.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    /// What it is called.
    pub(crate) name: Name,
    /// Its documents: one file as it is, several joined by document separators.
    pub(crate) content: Bytes,
    /// What is in it, head documents aside.
    pub(crate) resources: Vec<Resource>,
    /// Where each of its documents was written.
    places: BTreeMap<usize, Origin>,
}

/// How the agent names a document of what it was given.
const DOCUMENT: &str = "bundle: document ";

impl Bundle {
    /// Reads what was written, as far as who it is: the agent reads the rest.
    ///
    /// # Errors
    /// Documents without identity, ids that occur twice, more than one head document, one that names another bundle than
    /// was asked for, or no name at all.
    pub(crate) fn read(sources: &[Source], asked: Option<Name>) -> Result<Self, Failure> {
        let (heads, resources): (Vec<_>, Vec<_>) =
            resources(sources)?.into_iter().partition(|resource| part(resource, 1) == HEAD);
        if let [first, second, ..] = heads.as_slice() {
            let text = format!(
                "a bundle has one head document, and these are two: {}, and {}",
                first.origin, second.origin
            );
            return Err(Failure::error(text).with_help("put them one by one"));
        }
        let said = heads.first().map(|head| (part(head, 2), &head.origin));
        let name = match (asked, said) {
            (Some(asked), Some((said, origin))) if asked.as_str() != said => {
                let text = format!("the bundle `{asked}` was asked for, and {origin} names `{said}`");
                return Err(Failure::error(text)
                    .with_help("leave the name out of the command, or change the document"));
            }
            (Some(asked), _) => asked,
            (None, Some((said, origin))) => {
                said.parse().map_err(|error| Failure::error(format!("{origin}: {error}")))?
            }
            (None, None) => {
                return Err(Failure::new(Exit::Usage, "the bundle has no name").with_help(
                    "name it in the command, `towline bundle put I NAME -f F`, or in a head document of `kind: Bundle`",
                ));
            }
        };
        let content = joined(sources);
        let written = sources.iter().flat_map(|source| {
            let documents = manifest::split(&source.bytes).into_iter();
            documents.map(|document| Origin { source: source.name.clone(), document: document.number })
        });
        // Joined or apart, these are the same documents in the same order.
        let numbers = manifest::split(&content).into_iter().map(|document| document.number);
        let places = numbers.zip(written).collect();
        Ok(Self { name, content, resources, places })
    }

    /// The agent knows the documents by their number alone: says for each complaint which file is meant.
    pub(crate) fn in_place(&self, failure: Failure) -> Failure {
        let placed = |line: &str| {
            let (number, complaint) = line.strip_prefix(DOCUMENT)?.split_once(": ")?;
            let Origin { source, document } = self.places.get(&number.parse().ok()?)?;
            Some(format!("{source}: document {document}: {complaint}"))
        };
        let lines: Option<Vec<_>> = failure.message().lines().map(placed).collect();
        match lines {
            Some(lines) => failure.reworded("the bundle is wrong; nothing was done", lines),
            None => failure,
        }
    }

    /// Where a workload or resource of this id was written.
    pub(crate) fn origin_of(&self, id: &str) -> Option<String> {
        let is_meant = |resource: &&Resource| {
            let own = resource.id.as_str();
            own == id || own.split_once('/').is_some_and(|(_, workload)| workload == id)
        };
        self.resources.iter().find(is_meant).map(|resource| resource.origin.to_string())
    }
}

/// A part of `namespace/Kind/name`.
fn part(resource: &Resource, position: usize) -> &str {
    resource.id.as_str().split('/').nth(position).unwrap_or_default()
}

/// One file byte for byte: signatures and digests cover what was written.
fn joined(sources: &[Source]) -> Bytes {
    if let [only] = sources {
        return only.bytes.clone();
    }
    let mut content = BytesMut::new();
    for source in sources {
        if !content.is_empty() {
            if !content.ends_with(b"\n") {
                content.put_u8(b'\n');
            }
            content.put_slice(b"---\n");
        }
        content.put_slice(&source.bytes);
    }
    content.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }

    const HEAD: &str = "apiVersion: towline/v1\nkind: Bundle\nmetadata: {name: shop}\n";
    const APP: &str = "apiVersion: towline/v1\nkind: App\nmetadata: {name: web}\nspec: {command: [x]}";
    const FILE: &str =
        "apiVersion: towline/v1\nkind: File\nmetadata: {name: motd, namespace: ns}\nspec: {}\n";

    fn shop() -> Option<Name> {
        Some("shop".parse().unwrap())
    }

    #[test]
    fn one_file_is_put_as_it_is_and_several_are_joined() {
        let text = format!("# ours\n{HEAD}---\n{APP}");
        let one = Bundle::read(&[source("shop.yaml", &text)], None).unwrap();
        assert_eq!((one.name.as_str(), &one.content[..]), ("shop", text.as_bytes()));
        let several = [source("a.yaml", APP), source("b.yaml", FILE), source("bundle.yml", HEAD)];
        let several = Bundle::read(&several, shop()).unwrap();
        assert_eq!(several.content, format!("{APP}\n---\n{FILE}---\n{HEAD}"));
        assert_eq!(several.resources.len(), 2, "the head document is no resource");
        assert_eq!(several.origin_of("File/motd").as_deref(), Some("b.yaml, document 1"));
        assert_eq!(several.origin_of("default/App/web").as_deref(), Some("a.yaml, document 1"));
        assert_eq!(several.origin_of("App/none"), None);
    }

    #[test]
    fn a_complaint_is_told_with_its_file() {
        let two = format!("---\n{HEAD}---\n---\n{APP}");
        let bundle = Bundle::read(&[source("a.yaml", &two), source("b.yaml", FILE)], None).unwrap();
        let told = |message: &str| bundle.in_place(Failure::error(message)).render();
        let numbers: Vec<_> = bundle.places.keys().collect();
        let [_, app, file] = numbers.as_slice() else { panic!("{numbers:?}") };
        let text =
            told(&format!("bundle: document {app}: spec.units: found -1\nbundle: document {file}: kind: no"));
        assert_eq!(
            text,
            "error: the bundle is wrong; nothing was done\n  a.yaml: document 3: spec.units: found -1\n  \
             b.yaml: document 1: kind: no\n"
        );
        assert_eq!(told("bundle: document 9: x"), "error: bundle: document 9: x\n");
        assert_eq!(told("another sentence"), "error: another sentence\n");
    }

    #[test]
    fn the_name_is_said_once() {
        let refused = |sources: &[Source], asked| Bundle::read(sources, asked).unwrap_err().render();
        let nameless = refused(&[source("a.yaml", APP)], None);
        assert!(nameless.contains("has no name") && nameless.contains("kind: Bundle"), "{nameless}");
        let other = refused(&[source("a.yaml", HEAD)], Some("other".parse().unwrap()));
        assert!(other.contains("`other` was asked for, and a.yaml, document 1 names `shop`"), "{other}");
        let second = HEAD.replace("shop", "second");
        let two = refused(&[source("a.yaml", HEAD), source("b.yaml", &second)], shop());
        assert!(two.contains("a.yaml, document 1, and b.yaml, document 1"), "{two}");
        let empty = Bundle::read(&[source("a.yaml", HEAD)], None).unwrap();
        assert!(empty.resources.is_empty(), "a bundle may hold nothing: all that it held goes");
        assert_eq!(Bundle::read(&[source("a.yaml", APP)], shop()).unwrap().name.as_str(), "shop");
    }
}
