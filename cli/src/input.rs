//! Manifests out of files, directories and standard input: read whole and checked before anything is sent.
//!
//! Resources are opaque here but for who they are; their bytes are passed on verbatim.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;
use towline_agent::manifest::{self, MAX_INPUT, ManifestErrors};
use towline_protocol::ResourceId;

use crate::failure::plainly;

/// What `-f` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// `-`.
    Stdin,
    /// A file or a directory.
    Path(PathBuf),
}

impl FromStr for Input {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "-" { Self::Stdin } else { Self::Path(text.into()) })
    }
}

/// Why input cannot be used. Nothing was sent.
#[derive(Debug, Error)]
pub(crate) enum ReadInputError {
    /// A file or directory cannot be read.
    #[error("cannot read `{name}`: {}", plainly(source))]
    Unreadable {
        /// What was to be read.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A directory without manifests.
    #[error("`{}` holds no *.yaml or *.yml", dir.display())]
    NoFiles {
        /// The directory.
        dir: PathBuf,
    },
    /// It was read, and nothing was in it.
    #[error("{names} holds no documents")]
    NoDocuments {
        /// All that was read.
        names: String,
    },
    /// Documents that are wrong; one complaint a line.
    #[error("{complaints}")]
    Malformed {
        /// Each complaint, with its file, document and path.
        complaints: String,
    },
}

/// Where a resource stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The file.
    pub(crate) source: String,
    /// The number of the document in it, from 1.
    pub(crate) document: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.source, self.document)
    }
}

/// One resource, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// Its id.
    pub(crate) id: ResourceId,
    /// Its document, verbatim.
    pub(crate) bytes: Bytes,
    /// Where it stands.
    pub(crate) origin: Origin,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// What it is known by.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) bytes: Bytes,
}

/// Reads all files of all inputs, in order; those of a directory are sorted by name.
///
/// # Errors
/// [`ReadInputError`], about the first that cannot be read.
pub(crate) fn read_sources(inputs: &[Input]) -> Result<Vec<Source>, ReadInputError> {
    let mut sources = Vec::new();
    for input in inputs {
        match input {
            Input::Stdin => sources.push(read_from("standard input", io::stdin().lock())?),
            Input::Path(path) if path.is_dir() => {
                for file in files_in(path)? {
                    sources.push(read_file(&file)?);
                }
            }
            Input::Path(path) => sources.push(read_file(path)?),
        }
    }
    Ok(sources)
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>, ReadInputError> {
    let unreadable = |source| ReadInputError::Unreadable { name: dir.display().to_string(), source };
    let entries =
        fs::read_dir(dir).map_err(unreadable)?.collect::<io::Result<Vec<_>>>().map_err(unreadable)?;
    let is_manifest = |path: &PathBuf| {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        !hidden
            && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
            && path.is_file()
    };
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(is_manifest).collect();
    files.sort();
    if files.is_empty() { Err(ReadInputError::NoFiles { dir: dir.to_owned() }) } else { Ok(files) }
}

fn read_file(path: &Path) -> Result<Source, ReadInputError> {
    let name = path.display().to_string();
    let file =
        fs::File::open(path).map_err(|source| ReadInputError::Unreadable { name: name.clone(), source })?;
    read_from(&name, file)
}

fn read_from(name: &str, from: impl io::Read) -> Result<Source, ReadInputError> {
    let mut bytes = Vec::new();
    // One byte beyond what is allowed tells too large from just large enough; the manifest reader complains.
    let limit = u64::try_from(MAX_INPUT).unwrap_or(u64::MAX).saturating_add(1);
    let unreadable = |source| ReadInputError::Unreadable { name: name.to_owned(), source };
    from.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(Source { name: name.to_owned(), bytes: bytes.into() })
}

/// The resources of all sources, in order of appearance, each id once.
///
/// # Errors
/// Everything that is wrong with all of them, at once.
pub(crate) fn resources(sources: &[Source]) -> Result<Vec<Resource>, ReadInputError> {
    let mut found: Vec<Resource> = Vec::new();
    let mut first_seen: BTreeMap<ResourceId, Origin> = BTreeMap::new();
    let mut complaints: Vec<String> = Vec::new();
    for source in sources {
        let resources = match identify(source) {
            Ok(resources) => resources,
            Err(errors) => {
                complaints.push(errors.to_string());
                continue;
            }
        };
        for resource in resources {
            match first_seen.get(&resource.id) {
                Some(first) => complaints.push(format!(
                    "{}: document {}: found {} again, which stands in {first}; each id is allowed once",
                    resource.origin.source, resource.origin.document, resource.id
                )),
                None => {
                    first_seen.insert(resource.id.clone(), resource.origin.clone());
                    found.push(resource);
                }
            }
        }
    }
    if !complaints.is_empty() {
        return Err(ReadInputError::Malformed { complaints: complaints.join("\n") });
    }
    if found.is_empty() {
        let names = sources.iter().map(|source| format!("`{}`", source.name)).collect::<Vec<_>>().join(", ");
        return Err(ReadInputError::NoDocuments { names });
    }
    Ok(found)
}

fn identify(source: &Source) -> Result<Vec<Resource>, ManifestErrors> {
    let identified = manifest::identify(&source.name, &source.bytes)?;
    // Nothing was refused, so both have the same documents in the same order.
    let numbers = manifest::split(&source.bytes).into_iter().map(|document| document.number);
    let resources = identified.into_iter().zip(numbers).filter_map(|((id, bytes), document)| {
        let origin = Origin { source: source.name.clone(), document };
        Some(Resource { id: id.parse().ok()?, bytes, origin })
    });
    Ok(resources.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn app(name: &str) -> String {
        format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{}}\n")
    }

    #[test]
    fn documents_are_identified_and_kept_verbatim() {
        let text = format!("# head\n---\n{}---\n---\n{}", app("a"), app("b"));
        let found = resources(&[source("two.yaml", &text), source("one.yaml", &app("c"))]).unwrap();
        let ids: Vec<_> = found.iter().map(|resource| resource.id.as_str()).collect();
        assert_eq!(ids, ["default/App/a", "default/App/b", "default/App/c"]);
        assert_eq!(found[1].bytes, app("b"));
        let origins: Vec<_> = found.iter().map(|resource| resource.origin.to_string()).collect();
        assert_eq!(origins, ["two.yaml, document 1", "two.yaml, document 3", "one.yaml, document 1"]);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let error = resources(&[
            source("a.yaml", &app("a")),
            source("b.yaml", &app("a")),
            source("c.yaml", "kind: App"),
        ]);
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains(
                "b.yaml: document 1: found default/App/a again, which stands in a.yaml, document 1"
            ),
            "{text}"
        );
        assert!(text.contains("c.yaml: document 1: "), "{text}");
        let empty = resources(&[source("e.yaml", "# nothing\n---\n")]).unwrap_err().to_string();
        assert_eq!(empty, "`e.yaml` holds no documents");
    }

    #[test]
    fn a_directory_is_its_manifests_sorted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", "notes.txt", ".hidden.yaml"] {
            fs::write(dir.path().join(name), app(&name.replace(['.'], ""))).unwrap();
        }
        fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        let names: Vec<_> = read_sources(&[Input::Path(dir.path().into())])
            .unwrap()
            .into_iter()
            .map(|source| source.name.rsplit('/').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(names, ["a.yaml", "b.yml"]);
        let none = read_sources(&[Input::Path(dir.path().join("sub.yaml"))]).unwrap_err();
        assert!(none.to_string().contains("holds no *.yaml or *.yml"), "{none}");
        let missing = read_sources(&[Input::Path(dir.path().join("none.yaml"))]).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read `"), "{missing}");
    }
}
