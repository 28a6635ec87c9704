//! Kinds of resources, and the namespace of those that name none.

use std::{fmt, str::FromStr};

use towline_protocol::Name;

/// The namespace of a resource that names none.
pub(super) fn default_namespace() -> Name {
    super::DEFAULT_NAMESPACE.parse().expect("the default namespace is a name")
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
