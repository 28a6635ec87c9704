//! Complaints about manifests: each says where, what was found, and what is allowed.

use std::fmt;

/// One complaint about one document, without knowledge of where the document came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Complaint {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file, or what else the input is known by.
    pub source_name: String,
    /// Number of the document in its source, from 1.
    pub document: usize,
    /// Path of the field, such as `spec.ports[1].port`; empty when the document as a whole is meant.
    pub path: String,
    /// What was found and what is allowed.
    pub text: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}: ", self.source_name, self.document)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// Everything that is wrong with one input; one line each when shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestErrors {
    source_name: String,
    errors: Vec<ManifestError>,
}

impl ManifestErrors {
    pub(crate) fn new(source: &str) -> Self {
        Self { source_name: source.to_owned(), errors: Vec::new() }
    }

    pub(crate) fn extend(&mut self, document: usize, complaints: Vec<Complaint>) {
        self.errors.extend(complaints.into_iter().map(|complaint| ManifestError {
            source_name: self.source_name.clone(),
            document,
            path: complaint.path,
            text: complaint.text,
        }));
    }

    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.errors.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Each complaint, in order of documents.
    pub fn iter(&self) -> impl Iterator<Item = &ManifestError> {
        self.errors.iter()
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}
