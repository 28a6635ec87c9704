//! Names of resources and namespaces.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, so that it fits a subject token, a file name and a host name alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The namespace of a resource that names none.
    pub(super) fn default_namespace() -> Self {
        Self(super::DEFAULT_NAMESPACE.to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A kind of resource: letters and digits, the first an upper-case letter.
#[derive(Debug, Clone)]
pub(super) struct Kind(String);

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first = text.as_bytes().first().is_some_and(u8::is_ascii_uppercase);
        if first && text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(Self(text.to_owned()));
        }
        let found: String = text.chars().take(80).collect();
        Err(format!(
            "found {found:?}, allowed are 1 to 63 letters and digits, the first an upper-case letter"
        ))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, allowed are 1 to 63 of a-z, 0-9 and `-`, the first and last of them no `-`")]
pub struct NameError {
    found: String,
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let edges = text.as_bytes().first().is_some_and(|b| *b != b'-')
            && text.as_bytes().last().is_some_and(|b| *b != b'-');
        if edges && text.len() <= 63 && text.bytes().all(inner) {
            return Ok(Self(text.to_owned()));
        }
        // A hostile name must not make a hostile message.
        Err(NameError { found: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
