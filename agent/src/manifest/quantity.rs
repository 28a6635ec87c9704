//! Durations (`1m 30s`) and sizes (`64Mi`) as a user writes them. `parse(print(x)) = x` for both.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// The text is no duration, or no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, allowed is {allowed}")]
pub struct ParseQuantityError {
    found: String,
    allowed: &'static str,
}

impl ParseQuantityError {
    fn new(found: &str, allowed: &'static str) -> Self {
        Self { found: found.chars().take(80).collect(), allowed }
    }
}

/// A length of time with its unit: `500ms`, `10s`, `1m`, `1h 30m`. At most 365 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

impl Span {
    /// The longest span that is accepted.
    pub const MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// `seconds` as a span, cut at [`Span::MAX`].
    pub fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds).min(Self::MAX))
    }

    /// As a [`Duration`].
    pub fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        const ALLOWED: &str = "a duration with its unit, such as 500ms, 10s or 1m, of at most 365 days";
        let refused = || ParseQuantityError::new(text, ALLOWED);
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let duration = humantime::parse_duration(text).map_err(|_| refused())?;
        if duration > Self::MAX { Err(refused()) } else { Ok(Self(duration)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes: a plain number, or with `Ki`, `Mi`, `Gi`, `Ti` (powers of 1024) or `k`, `M`, `G`, `T` (of 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(u64);

const UNITS: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

impl ByteSize {
    /// A number of bytes.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        const ALLOWED: &str = "a size in bytes, such as 1048576, 64Mi or 10M";
        let refused = || ParseQuantityError::new(text, ALLOWED);
        let (digits, factor) = UNITS
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|digits| (digits, *factor)))
            .unwrap_or((text, 1));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        let number: u64 = digits.parse().map_err(|_| refused())?;
        number.checked_mul(factor).map(Self).ok_or_else(refused)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS
            .iter()
            .find(|(suffix, factor)| suffix.len() == 2 && self.0 != 0 && self.0.is_multiple_of(*factor));
        match fits {
            Some((suffix, factor)) => write!(f, "{}{suffix}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A number of processors, in thousandths: `0.5`, `2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cpu(u64);

impl Cpu {
    /// In thousandths of a processor: 10 to 1,024,000.
    pub fn millis(self) -> u64 {
        self.0
    }
}

impl FromStr for Cpu {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        const ALLOWED: &str = "a number of processors from 0.01 to 1024, with at most three decimals";
        let refused = || ParseQuantityError::new(text, ALLOWED);
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
            return Err(refused());
        }
        let (whole, decimals): (u64, u64) = (
            whole.parse().map_err(|_| refused())?,
            format!("{decimals:0<3}").parse().map_err(|_| refused())?,
        );
        let millis = whole.checked_mul(1_000).and_then(|millis| millis.checked_add(decimals));
        millis.filter(|millis| (10..=1_024_000).contains(millis)).map(Self).ok_or_else(refused)
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 1_000, self.0 % 1_000) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, rest) => write!(f, "{whole}.{}", format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

macro_rules! through_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = ParseQuantityError;

            fn try_from(text: String) -> Result<Self, ParseQuantityError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

through_text!(Span);
through_text!(ByteSize);
through_text!(Cpu);
