//! Times as people write them, and ages as people read them.

use std::str::FromStr;
use std::time::Duration;

use towline_hub::time::{parse_duration, parse_since};
use towline_protocol::limits::CALL_TIME_MAX;

/// How long to wait. At most as long as the longest call.
///
/// # Errors
/// A sentence that says what is allowed.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(|error| error.to_string())?;
    if time > CALL_TIME_MAX { Err("the longest allowed is 20m".to_owned()) } else { Ok(time) }
}

/// A point in time, made absolute when it was typed: a stream that is resumed later must not move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(u64);

impl Since {
    pub(crate) const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms)
    }

    /// As the API reads it.
    pub(crate) fn to_param(self) -> String {
        towline_hub::time::Time::from_unix_ms(self.0).to_string()
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_since(text, towline_bus::clock::unix_ms()).map(Self).map_err(|error| error.to_string())
    }
}

/// An age in its largest whole unit: `12s`, `3m`, `2h`, `5d`.
pub(crate) fn age(age_ms: u64) -> String {
    let seconds = age_ms / 1_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The age of what began at `since_unix_ms`.
pub(crate) fn age_since(since_unix_ms: u64, now_unix_ms: u64) -> String {
    age(now_unix_ms.saturating_sub(since_unix_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_at_a_glance() {
        for (age_ms, shown) in [
            (0, "0s"),
            (999, "0s"),
            (12_345, "12s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (3_599_999, "59m"),
            (7_200_000, "2h"),
            (86_400_000, "1d"),
            (u64::MAX, "213503982334d"),
        ] {
            assert_eq!(age(age_ms), shown);
        }
        assert_eq!(age_since(5_000, 1_000), "0s", "an agent's clock may be ahead of ours");
    }

    #[test]
    fn timeouts_are_bounded() {
        assert_eq!(parse_timeout("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "0s", "-1s", "5", "21m"] {
            assert!(parse_timeout(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn since_becomes_absolute() {
        let since: Since = "2026-11-21T02:34:50Z".parse().unwrap();
        assert_eq!(since.to_param(), "2026-11-21T02:34:50.000Z");
        assert!("yesterday".parse::<Since>().unwrap_err().contains("10m"));
    }
}
