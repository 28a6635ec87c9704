//! Figures, and whether they hold.

use std::time::Duration;

/// What a figure is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// It is watched, not judged.
    None,
}

/// Prints a figure.
pub(crate) fn report(name: &str, value: f64, unit: &str, bar: Bar) {
    let (bar, holds) = match bar {
        Bar::AtLeast(least) => (Some(format!(">= {least}")), Some(value >= least)),
        Bar::AtMost(most) => (Some(format!("<= {most}")), Some(value <= most)),
        Bar::None => (None, None),
    };
    let value = (value * 10_000.0).round() / 10_000.0;
    println!(
        "{}",
        serde_json::json!({"name": name, "value": value, "unit": unit, "bar": bar, "holds": holds})
    );
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The value below which this share of the samples lies. Sorts them.
pub(crate) fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index within the samples"
    )]
    let index = ((samples.len().saturating_sub(1)) as f64 * share).round() as usize;
    samples[index]
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1_024
}
