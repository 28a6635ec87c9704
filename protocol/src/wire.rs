//! MessagePack bodies with named fields, and enums that survive a newer peer.
//!
//! Rules for every type that travels: fields are named; unknown fields are ignored; a field that is not in every version
//! has a default; enums are flat words with an *other* case ([`wire_enum!`](crate::wire_enum)), and data hangs beside them in optional
//! fields. Never `serde(untagged)`, never `serde(flatten)`.

use std::fmt;

use serde::de::{self, DeserializeOwned, IgnoredAny, Visitor};
use serde::{Deserialize as _, Deserializer, Serialize};
use thiserror::Error;

use crate::limits;

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the body is not a {expected}: {reason}")]
pub struct DecodeError {
    /// The type that was expected.
    pub expected: &'static str,
    /// What the decoder found.
    pub reason: String,
}

/// Encodes a body.
///
/// # Panics
/// Never for the types of this crate: their serialisers do not fail, and memory is the only sink.
#[must_use]
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(body).expect("our types serialise into memory")
}

/// Reads a text in place, without a copy of its own, and makes a value of it.
///
/// # Errors
/// When it is not a text, or `parse` refuses it.
pub fn read_text<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    deserializer: D,
    parse: fn(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    struct Text<T, E>(fn(&str) -> Result<T, E>);

    impl<T, E: fmt::Display> Visitor<'_> for Text<T, E> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<Error: de::Error>(self, text: &str) -> Result<T, Error> {
            (self.0)(text).map_err(Error::custom)
        }
    }

    deserializer.deserialize_str(Text(parse))
}

/// Makes one MessagePack array of values that are encoded already: a batch whose size is known while it grows.
///
/// # Panics
/// When there are more than 2^32-1 items; frames hold far fewer.
#[must_use]
pub fn array_of(items: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(items.len()).expect("a frame holds fewer than 2^32 items");
    let mut bytes = Vec::with_capacity(5 + items.iter().map(Vec::len).sum::<usize>());
    bytes.push(0xdd);
    bytes.extend_from_slice(&count.to_be_bytes());
    items.iter().for_each(|item| bytes.extend_from_slice(item));
    bytes
}

/// Decodes a body of at most [`limits::BODY_DEPTH_MAX`] levels. What follows the value is an error: a body is one value.
///
/// # Errors
/// [`DecodeError`] with the expected type and the decoder's reason.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let failed = |reason: String| DecodeError { expected: short_type_name::<T>(), reason };
    // By reference: texts are read where they are, instead of through a buffer.
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(limits::BODY_DEPTH_MAX);
    let value = T::deserialize(&mut decoder).map_err(|error| failed(error.to_string()))?;
    match IgnoredAny::deserialize(&mut decoder) {
        // Not even the marker of a second value is there.
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
        Ok(_) | Err(_) => Err(failed("bytes follow the value".to_owned())),
    }
}

fn short_type_name<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    let base = full.split('<').next().unwrap_or(full);
    base.rsplit("::").next().unwrap_or(base)
}

/// Defines an enum that travels as a word. A word that this build does not know is kept as `Other`, so that it can be
/// shown and passed on; words longer than [`limits::WORD_CHARS_MAX`] are refused.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$case_doc:meta])* $case:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        $vis enum $name {
            $($(#[$case_doc])* $case,)+
            /// A word of a newer peer that this build does not know.
            Other(String),
        }

        impl $name {
            /// Every case that this build knows, in the order of their declaration.
            pub const KNOWN: &'static [$name] = &[$($name::$case),+];

            /// The word on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $($name::$case => $word,)+
                    $name::Other(word) => word,
                }
            }

            /// Reads a word; an unknown one becomes `Other`.
            #[must_use]
            pub fn from_word(word: &str) -> Self {
                match word {
                    $($word => $name::$case,)+
                    other => $name::Other(other.to_owned()),
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::wire::read_text(deserializer, |word| {
                    if word.len() > $crate::limits::WORD_CHARS_MAX {
                        return Err("a word of at most 128 characters was expected");
                    }
                    Ok(Self::from_word(word))
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_value() {
        let mut bytes = encode(&7_u64);
        assert_eq!(decode::<u64>(&bytes), Ok(7));
        bytes.push(0);
        assert!(decode::<u64>(&bytes).unwrap_err().to_string().contains("bytes follow"));
    }

    #[test]
    fn a_batch_is_an_array() {
        let items: Vec<_> = ["a", "b"].iter().map(encode).collect();
        assert_eq!(decode::<Vec<String>>(&array_of(&items)).unwrap(), ["a", "b"]);
        assert_eq!(decode::<Vec<String>>(&array_of(&[])).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        // An array of one element, a hundred thousand deep.
        let mut bytes = vec![0x91; 100_000];
        bytes.push(0xc0);
        assert!(decode::<serde::de::IgnoredAny>(&bytes).is_err());
    }

    #[test]
    fn a_claimed_length_reserves_no_memory() {
        // An array that says it has 2^32-1 strings, and has none.
        let bytes = [0xdd, 0xff, 0xff, 0xff, 0xff];
        assert!(decode::<Vec<String>>(&bytes).is_err());
        // A blob of 4 GiB that is not there.
        let bytes = [0xc6, 0xff, 0xff, 0xff, 0xff];
        assert!(decode::<bytes::Bytes>(&bytes).is_err());
    }
}
