//! The bytes of a manifest in JSON: a string where they are UTF-8, else `{"base64": "…"}`. Both are read, always.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// A manifest, verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceBytes(pub Bytes);

const BASE64_KEY: &str = "base64";

impl From<Bytes> for ResourceBytes {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<ResourceBytes> for Bytes {
    fn from(ResourceBytes(bytes): ResourceBytes) -> Self {
        bytes
    }
}

impl Serialize for ResourceBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(BASE64_KEY, &BASE64_STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for ResourceBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrBase64)
    }
}

struct TextOrBase64;

impl<'de> Visitor<'de> for TextOrBase64 {
    type Value = ResourceBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or {\"base64\": \"…\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ResourceBytes, E> {
        Ok(ResourceBytes(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<ResourceBytes, E> {
        Ok(ResourceBytes(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ResourceBytes, A::Error> {
        match map.next_key::<String>()? {
            Some(key) if key == BASE64_KEY => {}
            Some(other) => return Err(de::Error::unknown_field(&other, &[BASE64_KEY])),
            None => return Err(de::Error::missing_field(BASE64_KEY)),
        }
        let encoded: String = map.next_value()?;
        let bytes = BASE64_STANDARD
            .decode(encoded)
            .map_err(|error| de::Error::custom(format!("`{BASE64_KEY}` is not Base64: {error}")))?;
        match map.next_key::<String>()? {
            None => Ok(ResourceBytes(bytes.into())),
            Some(other) => Err(de::Error::unknown_field(&other, &[BASE64_KEY])),
        }
    }
}

impl PartialSchema for ResourceBytes {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        let encoded = ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::Object))
            .property(BASE64_KEY, text().description(Some("The bytes in Base64.")))
            .required(BASE64_KEY);
        let either = OneOfBuilder::new()
            .item(text().description(Some("The bytes, where they are UTF-8.")))
            .item(encoded)
            .description(Some("A manifest, verbatim."));
        RefOr::T(Schema::from(either))
    }
}

impl ToSchema for ResourceBytes {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_str, to_string};

    #[test]
    fn bytes_arrive_identical() {
        for bytes in [&b""[..], b"kind: App\n", "größer ☃\0".as_bytes(), b"\xff\xfe\0", &[0x80; 1_000]] {
            let sent = ResourceBytes(Bytes::copy_from_slice(bytes));
            assert_eq!(from_str::<ResourceBytes>(&to_string(&sent).unwrap()).unwrap(), sent);
        }
        assert_eq!(from_str::<ResourceBytes>(r#"{"base64": "AAEC"}"#).unwrap().0, [0, 1, 2][..]);
        assert_eq!(to_string(&ResourceBytes(Bytes::from_static(b"a\n"))).unwrap(), r#""a\n""#);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in
            ["1", "null", "[]", "{}", r#"{"base32": ""}"#, r#"{"base64": "A"}"#, r#"{"base64": "", "a": 1}"#]
        {
            assert!(from_str::<ResourceBytes>(bad).is_err(), "{bad}");
        }
    }
}
