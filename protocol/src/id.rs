//! Checked names. A value of a type in this module is valid by construction: what comes from outside is parsed at the
//! door, and a bad one is refused there with a sentence that says what is allowed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use uuid::Uuid;

use crate::limits;

/// Why a text is not the id it was given as.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{found}` is not {what}: {allowed}")]
pub struct ParseIdError {
    /// What was found, shortened to 80 characters.
    pub found: String,
    /// What it should have been, with its article: "an instance id".
    pub what: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
}

impl ParseIdError {
    fn new(found: &str, what: &'static str, allowed: &'static str) -> Self {
        Self { found: found.chars().take(80).collect(), what, allowed }
    }
}

/// Serialises a type as its text, by default that of its `Display`, and parses it back through `FromStr`.
macro_rules! serde_as_text {
    (as_str: $type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        serde_as_text!(@read $type);
    };
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        serde_as_text!(@read $type);
    };
    (@read $type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::wire::read_text(deserializer, str::parse)
            }
        }
    };
}

/// A tenant's or an instance's name: a lower-case DNS label, `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    const ALLOWED: &'static str =
        "1 to 63 characters of a–z, 0–9 and `-`, beginning and ending with a letter or a digit";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = (1..=limits::NAME_CHARS_MAX).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good { Ok(Self(text.into())) } else { Err(ParseIdError::new(text, "a name", Self::ALLOWED)) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(as_str: Name);

/// One remote place under control: `tenant/name`. A bare name belongs to the tenant `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// The customer that owns the instance.
    pub tenant: Name,
    /// The instance's name within its tenant.
    pub name: Name,
}

impl InstanceId {
    /// The tenant of a bare name.
    pub const DEFAULT_TENANT: &'static str = "default";

    const ALLOWED: &'static str = "`name` or `tenant/name`, each 1 to 63 characters of a–z, 0–9 and `-`, beginning \
                                   and ending with a letter or a digit";
}

impl FromStr for InstanceId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (tenant, name) = text.split_once('/').unwrap_or((Self::DEFAULT_TENANT, text));
        let refused = |_| ParseIdError::new(text, "an instance id", Self::ALLOWED);
        Ok(Self { tenant: tenant.parse().map_err(refused)?, name: name.parse().map_err(refused)? })
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

serde_as_text!(InstanceId);

/// The fencing token: given by the hub to the session that serves an instance now. It only grows. 1 to 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// Checks a number.
    ///
    /// # Errors
    /// When it is 0 or above [`limits::EPOCH_MAX`].
    pub fn new(number: u64) -> Result<Self, ParseIdError> {
        if (1..=limits::EPOCH_MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(ParseIdError::new(&number.to_string(), "an epoch", "a whole number from 1 to 2^53"))
        }
    }

    /// The epoch as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch after this one, or `None` at the very last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::new(self.0 + 1).ok()
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl FromStr for Epoch {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_decimal(text, "an epoch").and_then(Self::new)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One try at a call. It names the reply subject; the caller's own id for the call is the [`RequestId`]. Each hub replica
/// counts its attempts from a random number, so that those of two replicas do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

impl FromStr for AttemptId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_decimal(text, "an attempt").map(Self)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads a number as we print it: no sign, no leading zero, so that a subject has one spelling only.
fn parse_decimal(text: &str, what: &'static str) -> Result<u64, ParseIdError> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse()
        .ok()
        .filter(|_| canonical)
        .ok_or_else(|| ParseIdError::new(text, what, "a whole number without sign or leading zeros"))
}

/// A random id that prints as 32 hexadecimal digits, so that it is one token of a subject.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a random UUID. This crate makes none itself: it knows no randomness.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The id as text, without an allocation.
            pub(crate) fn encode(self, buffer: &mut [u8; 32]) -> &str {
                self.0.simple().encode_lower(buffer)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let good = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                text.parse()
                    .ok()
                    .filter(|_| good)
                    .map(Self)
                    .ok_or_else(|| ParseIdError::new(text, $what, "32 hexadecimal digits in lower case"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.encode(&mut [0; 32]))
            }
        }

        serde_as_text!($name);
    };
}

random_id!(
    /// Random per start of an agent process, and in memory only: a cloned disk does not clone it.
    BootId,
    "a boot id"
);
random_id!(
    /// Random per agent store, and made with it.
    StoreId,
    "a store id"
);
random_id!(
    /// Random per start of a hub replica: the reply space of its callers.
    ReplicaId,
    "a replica id"
);

random_id!(
    /// Names one job of an instance: given by the agent when it accepts the job.
    JobId,
    "a job id"
);

/// The caller's own id for one call, the same for each retry of it: 1 to 64 of `A–Z a–z 0–9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A request id from a random UUID, for callers that do not choose their own.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        Self(Arc::from(&*uuid.simple().encode_lower(&mut text)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let good = (1..=limits::REQUEST_ID_CHARS_MAX).contains(&text.len())
            // A fold, for a compiler makes it wide steps, unlike `all`: each call comes by here.
            && text.bytes().fold(true, |all, b| all & (b.is_ascii_alphanumeric() | (b == b'_') | (b == b'-')));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(ParseIdError::new(text, "a request id", "1 to 64 characters of A–Z, a–z, 0–9, `_` and `-`"))
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(as_str: RequestId);

/// Names one resource on an instance. Hub and bus do not look into it; the runtimes of this repository use
/// `namespace/Kind/name`. 1 to 512 bytes of any text without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(Arc<str>);

impl ResourceId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let good =
            (1..=limits::RESOURCE_ID_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if good {
            Ok(Self(text.into()))
        } else {
            Err(ParseIdError::new(text, "a resource id", "1 to 512 bytes of text without control characters"))
        }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(as_str: ResourceId);

/// Names one workload within its bundle: `Kind/name`. Hub and bus do not look into it further.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId(Arc<str>);

impl WorkloadId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The workload's type: `App`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or("", |(kind, _)| kind)
    }

    /// The workload's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl FromStr for WorkloadId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let good = text.len() <= limits::RESOURCE_ID_BYTES_MAX
            && !text.chars().any(|c| c.is_control() || c.is_whitespace())
            && text
                .split_once('/')
                .is_some_and(|(kind, name)| !kind.is_empty() && !name.is_empty() && !name.contains('/'));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(ParseIdError::new(text, "a workload id", "`Kind/name`, at most 512 bytes without spaces"))
        }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(WorkloadId);

/// The digest of a content as it was submitted: BLAKE3, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// The digest as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ContentDigest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let good = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        blake3::Hash::from_hex(text)
            .ok()
            .filter(|_| good)
            .map(|hash| Self(*hash.as_bytes()))
            .ok_or_else(|| ParseIdError::new(text, "a digest", "64 hexadecimal digits in lower case"))
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

serde_as_text!(ContentDigest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_a6_hostile_instance_ids_are_refused() {
        let long = "a".repeat(64);
        for bad in [
            "*", ">", "a.b", "", &long, "é", "A", "a b", "-a", "a-", "a/b/c", "/a", "a/", "a/*", "*/a", "a\n",
        ] {
            let error = bad.parse::<InstanceId>().unwrap_err();
            assert!(error.to_string().contains("an instance id"), "{bad:?} gave {error}");
        }
    }

    #[test]
    fn a_bare_name_belongs_to_the_default_tenant() {
        assert_eq!("shop-7".parse::<InstanceId>().unwrap().to_string(), "default/shop-7");
        assert_eq!("acme/shop-7".parse::<InstanceId>().unwrap().to_string(), "acme/shop-7");
    }

    #[test]
    fn epochs_stay_within_what_json_keeps_exact() {
        assert!(Epoch::new(0).is_err());
        assert!(Epoch::new(limits::EPOCH_MAX + 1).is_err());
        assert_eq!(Epoch::new(limits::EPOCH_MAX).unwrap().next(), None);
        for bad in ["01", "+1", "-1", "", "1.0", "18446744073709551616"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad:?}");
        }
    }
}
