//! Times as the API shows them, and as its callers write them. No clock is read here.

use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// A point in time, to the millisecond. In JSON it is RFC 3339 in UTC: `2026-11-21T02:34:50.123Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

/// Why a text is no time or no duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{found}` is not {wanted}")]
pub struct ParseTimeError {
    found: String,
    wanted: &'static str,
}

impl ParseTimeError {
    fn new(found: &str, wanted: &'static str) -> Self {
        Self { found: found.chars().take(80).collect(), wanted }
    }
}

impl Time {
    /// From Unix milliseconds.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms)
    }

    /// In Unix milliseconds.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What an agent's broken clock says beyond the year 9999 is shown as the end of it.
        let shown = i64::try_from(self.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        write!(f, "{:.3}", shown.unwrap_or(Timestamp::MAX))
    }
}

impl FromStr for Time {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let refused = || ParseTimeError::new(text, "a time such as `2026-11-21T02:34:50Z`");
        let timestamp: Timestamp = text.parse().map_err(|_| refused())?;
        u64::try_from(timestamp.as_millisecond()).map(Self).map_err(|_| refused())
    }
}

/// A point in time, to the nanosecond, in JSON as [`Time`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NanoTime(u64);

impl NanoTime {
    /// From Unix nanoseconds.
    #[must_use]
    pub const fn from_unix_ns(unix_ns: u64) -> Self {
        Self(unix_ns)
    }

    /// In Unix nanoseconds.
    #[must_use]
    pub const fn unix_ns(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for NanoTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or(Timestamp::MAX);
        write!(f, "{shown:.9}")
    }
}

impl FromStr for NanoTime {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let refused = || ParseTimeError::new(text, "a time such as `2026-11-21T02:34:50.123456789Z`");
        let timestamp: Timestamp = text.parse().map_err(|_| refused())?;
        u64::try_from(timestamp.as_nanosecond()).map(Self).map_err(|_| refused())
    }
}

/// Both kinds of time are text in JSON, of OpenAPI's format `date-time`.
macro_rules! time_as_text {
    ($($time:ty),+) => {
        $(
            impl Serialize for $time {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $time {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                }
            }

            impl PartialSchema for $time {
                fn schema() -> RefOr<Schema> {
                    let text = ObjectBuilder::new()
                        .schema_type(SchemaType::Type(Type::String))
                        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
                    text.build().into()
                }
            }

            impl ToSchema for $time {}
        )+
    };
}

time_as_text!(Time, NanoTime);

/// Reads a duration as people write it: `30s`, `2m`, `1h 30m`, `500ms`. It is above zero.
///
/// # Errors
/// When it is none.
pub fn parse_duration(text: &str) -> Result<Duration, ParseTimeError> {
    let refused = || ParseTimeError::new(text, "a duration above zero such as `30s`, `2m` or `500ms`");
    let parsed: SignedDuration = text.parse().map_err(|_| refused())?;
    Duration::try_from(parsed).ok().filter(|duration| !duration.is_zero()).ok_or_else(refused)
}

/// Reads a point in time, or a duration before `now`, and returns Unix milliseconds.
///
/// # Errors
/// When it is neither.
pub fn parse_since(text: &str, now_unix_ms: u64) -> Result<u64, ParseTimeError> {
    if let Ok(Time(unix_ms)) = text.parse() {
        return Ok(unix_ms);
    }
    let wanted = "a time such as `2026-11-21T02:34:50Z`, or how long ago, such as `10m`";
    let ago = parse_duration(text).map_err(|_| ParseTimeError::new(text, wanted))?;
    Ok(now_unix_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_to_the_millisecond() {
        let time = Time::from_unix_ms(1_700_000_000_123);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!("2023-11-14T22:13:20.123Z".parse(), Ok(time));
        assert_eq!("2023-11-14T23:13:20.123+01:00".parse(), Ok(time));
        assert!(Time::from_unix_ms(u64::MAX).to_string().starts_with("9999-12-"));
        let nanos = NanoTime::from_unix_ns(1_700_000_000_123_456_789);
        assert_eq!(nanos.to_string(), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(nanos.to_string().parse(), Ok(nanos));
        for bad in ["", "now", "2023-11-14", "1969-01-01T00:00:00Z"] {
            assert!(bad.parse::<Time>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_above_zero() {
        assert_eq!(parse_duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("1h 30m").unwrap(), Duration::from_secs(5_400));
        for bad in ["", "0s", "-1s", "30", "soon"] {
            assert!(parse_duration(bad).unwrap_err().to_string().contains("30s"), "{bad:?}");
        }
    }

    #[test]
    fn since_is_a_time_or_an_age() {
        assert_eq!(parse_since("10m", 1_000_000), Ok(400_000));
        assert_eq!(parse_since("2023-11-14T22:13:20.123Z", 0), Ok(1_700_000_000_123));
        assert!(parse_since("yesterday", 0).is_err());
    }
}
