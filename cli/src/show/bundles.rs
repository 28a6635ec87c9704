//! Bundles as people read them. Pure: the time comes in.

use std::fmt::Write as _;

use comfy_table::Cell;
use towline_hub::api::types::{
    BundleInfo, BundleList, BundleRecords, BundleStanding, ChangeInfo, WorkloadInfo,
};
use towline_protocol::bundle::ChangeOp;

use super::tables::{Style, plain, render, time_of_day, word};
use crate::time::{age, age_since};

/// What a put means or meant, workload by workload; `in_full` with what differs below each.
pub(crate) fn plan_text(changes: &[ChangeInfo], in_full: bool, style: Style) -> String {
    let width = changes.iter().map(|change| change.workload.as_str().chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for change in changes {
        let sign = match change.op {
            ChangeOp::Add => "+",
            ChangeOp::Update => "~",
            ChangeOp::Remove => "-",
            _ => " ",
        };
        let op = word(change.op.as_str(), style);
        let gap = " ".repeat("untouched".len().saturating_sub(change.op.as_str().len()));
        let reason = change.reason.as_deref().map(plain).unwrap_or_default();
        let line = format!("{sign} {op}{gap}  {:<width$}  {reason}", plain(change.workload.as_str()));
        let _ = writeln!(text, "{}", line.trim_end());
        if in_full && !change.units.is_empty() {
            let units: Vec<String> = change.units.iter().map(|unit| plain(unit)).collect();
            let _ = writeln!(text, "      units: {}", units.join(", "));
        }
        for line in change.diff.iter().filter(|_| in_full).flat_map(|diff| diff.lines()) {
            let _ = writeln!(text, "      {}", diff_line(line, style));
        }
    }
    text.push_str(&totals(changes));
    text
}

/// A line of a difference in its colour.
fn diff_line(line: &str, style: Style) -> String {
    let line = plain(line);
    let code = match line.chars().next().filter(|_| style.colour) {
        Some('+') => "32",
        Some('-') => "31",
        _ => return line,
    };
    format!("\u{1b}[{code}m{line}\u{1b}[0m")
}

/// `1 to add, 2 to update, 0 to remove, 3 untouched`.
fn totals(changes: &[ChangeInfo]) -> String {
    let number = |op: &ChangeOp| changes.iter().filter(|change| change.op == *op).count();
    format!(
        "{} to add, {} to update, {} to remove, {} untouched\n",
        number(&ChangeOp::Add),
        number(&ChangeOp::Update),
        number(&ChangeOp::Remove),
        number(&ChangeOp::Untouched)
    )
}

/// Workloads by state: `5 ok, 1 error`.
fn counts(bundle: &BundleInfo) -> String {
    let counts = bundle.counts.iter().filter(|(_, number)| **number > 0);
    plain(&counts.map(|(state, number)| format!("{number} {state}")).collect::<Vec<_>>().join(", "))
}

fn applied(bundle: &BundleInfo) -> String {
    bundle.applied.map_or_else(|| "-".to_owned(), |version| version.to_string())
}

/// All bundles, one a row.
pub(crate) fn bundles_table(list: &BundleList, now_unix_ms: u64, style: Style) -> String {
    if list.bundles.is_empty() {
        return "no bundles\n".to_owned();
    }
    let mut table =
        style.table(&["BUNDLE", "PHASE", "ACCEPTED", "APPLIED", "WORKLOADS", "FOR", "DESCRIPTION"]);
    for bundle in &list.bundles {
        table.add_row(vec![
            Cell::new(bundle.name.to_string()),
            style.status(bundle.phase.as_str()),
            Cell::new(bundle.accepted),
            Cell::new(applied(bundle)),
            Cell::new(counts(bundle)),
            Cell::new(age_since(bundle.since.unix_ms(), now_unix_ms)),
            Cell::new(plain(&bundle.description)),
        ]);
    }
    render(&table)
}

/// A bundle and its workloads, one a row.
pub(crate) fn bundle_table(standing: &BundleStanding, now_unix_ms: u64, style: Style) -> String {
    let BundleStanding { bundle, workloads, .. } = standing;
    let facts = [
        ("bundle", bundle.name.to_string()),
        ("about", plain(&bundle.description)),
        (
            "phase",
            format!(
                "{} for {}",
                word(bundle.phase.as_str(), style),
                age_since(bundle.since.unix_ms(), now_unix_ms)
            ),
        ),
        ("accepted", format!("version {}", bundle.accepted)),
        (
            "applied",
            bundle.applied.map_or_else(|| "none yet".to_owned(), |version| format!("version {version}")),
        ),
        ("digest", bundle.digest.to_string()),
        ("job", bundle.job.map(|job| job.to_string()).unwrap_or_default()),
    ];
    let facts = facts.iter().filter(|(_, value)| !value.is_empty());
    let mut text: String = facts.map(|(name, value)| format!("{name:<10} {value}\n")).collect();
    if workloads.is_empty() {
        text.push_str("\nno workloads\n");
        return text;
    }
    let mut table =
        style.table(&["WORKLOAD", "VERSION", "RESULT", "FOR", "OBSERVED", "SEEN", "DRIFT", "RETRY"]);
    for workload in workloads {
        table.add_row(workload_cells(workload, now_unix_ms, style));
    }
    text.push('\n');
    text.push_str(&render(&table));
    let remarks: String = workloads.iter().flat_map(remarks).collect();
    if !remarks.is_empty() {
        text.push('\n');
        text.push_str(&remarks);
    }
    text
}

fn workload_cells(workload: &WorkloadInfo, now_unix_ms: u64, style: Style) -> Vec<Cell> {
    let (observed, seen) = match &workload.observed {
        Some(seen) => (style.status(seen.status.as_str()), format!("{} ago", age(seen.age_ms))),
        None => (Cell::new("-"), String::new()),
    };
    let drift = workload.drift.as_ref().map_or_else(
        || "-".to_owned(),
        |drift| {
            let word = if drift.mending { "mending" } else { "reported" };
            format!("{word}, seen {} ago", age(drift.age_ms))
        },
    );
    let retry = workload.retry.as_ref().map(|retry| format!("in {}", age(retry.in_ms)));
    vec![
        Cell::new(plain(workload.id.as_str())),
        Cell::new(workload.version),
        style.status(workload.result.state.as_str()),
        Cell::new(age_since(workload.result.since.unix_ms(), now_unix_ms)),
        observed,
        Cell::new(seen),
        Cell::new(drift),
        Cell::new(retry.unwrap_or_else(|| "-".to_owned())),
    ]
}

/// What has to be said about a workload in a sentence.
fn remarks(workload: &WorkloadInfo) -> Vec<String> {
    let observed = workload.observed.as_ref().and_then(|observed| observed.reason.as_deref());
    let drift = workload.drift.as_ref().map(|drift| drift.message.as_str());
    [("", workload.result.message.as_deref()), ("observed: ", observed), ("drift: ", drift)]
        .into_iter()
        .filter_map(|(what, text)| {
            text.map(|text| format!("{}: {what}{}\n", plain(workload.id.as_str()), plain(text)))
        })
        .collect()
}

/// The record of a bundle, one result a row.
pub(crate) fn changes_table(records: &BundleRecords, style: Style) -> String {
    if records.changes.is_empty() {
        return "no records\n".to_owned();
    }
    let mut table = style.table(&["SEQ", "AT", "VERSION", "WORKLOAD", "RESULT", "JOB", "MESSAGE"]);
    for record in &records.changes {
        let workload = record.workload.as_ref().map_or("-", |workload| workload.as_str());
        // Years matter here as little as milliseconds: those are in the JSON.
        let at = record.at.to_string();
        let day = at.get(..10).unwrap_or_default();
        table.add_row(vec![
            Cell::new(record.seq),
            Cell::new(format!("{day} {}", time_of_day(record.at.unix_ms()))),
            Cell::new(record.version),
            Cell::new(plain(workload)),
            style.status(record.state.as_str()),
            Cell::new(record.job.map(|job| job.to_string()).unwrap_or_default()),
            Cell::new(plain(record.message.as_deref().unwrap_or_default())),
        ]);
    }
    render(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Style = Style { colour: false };

    fn bundle() -> serde_json::Value {
        json!({
            "name": "shop", "description": "what we sell", "phase": "active", "accepted": 3, "applied": 2,
            "digest": "0".repeat(64), "counts": {"ok": 2, "error": 1, "init": 0}, "since": "2026-11-21T02:34:50.000Z",
        })
    }

    fn now() -> u64 {
        "2026-11-21T02:35:00Z".parse::<towline_hub::time::Time>().unwrap().unix_ms()
    }

    #[test]
    fn a_plan_reads_like_a_difference() {
        let changes = json!([
            {"workload": "App/old", "op": "remove", "units": ["old-1", "old-2"]},
            {"workload": "App/web", "op": "update", "reason": "spec.units changed", "diff": "-  units: 1\n+  units: 2\u{1b}[2J\n"},
            {"workload": "File/motd", "op": "untouched"},
        ]);
        let changes: Vec<ChangeInfo> = serde_json::from_value(changes).unwrap();
        assert_eq!(
            plan_text(&changes, true, PLAIN),
            "- remove     App/old\n      units: old-1, old-2\n\
             ~ update     App/web    spec.units changed\n      \
                   -  units: 1\n      \
                   +  units: 2 [2J\n  \
               untouched  File/motd\n\
             0 to add, 1 to update, 1 to remove, 1 untouched\n"
        );
        let coloured = plan_text(&changes, true, Style { colour: true });
        assert!(coloured.contains("\u{1b}[32m+  units: 2 [2J\u{1b}[0m"), "{coloured}");
        assert_eq!(plan_text(&changes, false, PLAIN).lines().count(), 4);
        assert_eq!(plan_text(&[], true, PLAIN), "0 to add, 0 to update, 0 to remove, 0 untouched\n");
    }

    #[test]
    fn bundles_are_rows() {
        let list = serde_json::from_value(json!({"bundles": [bundle()]})).unwrap();
        let text = bundles_table(&list, now(), PLAIN);
        assert_eq!(
            text,
            "BUNDLE  PHASE   ACCEPTED  APPLIED  WORKLOADS      FOR  DESCRIPTION\n\
             shop    active  3         2        2 ok, 1 error  10s  what we sell\n"
        );
        assert_eq!(bundles_table(&BundleList::default(), 0, PLAIN), "no bundles\n");
    }

    #[test]
    fn the_axes_of_a_status_stand_apart() {
        let standing = json!({"bundle": bundle(), "workloads": [
            {"id": "App/web", "version": 3,
             "result": {"state": "error", "message": "port 80 is taken", "since": "2026-11-21T02:34:50Z"},
             "observed": {"status": "degraded", "reason": "1 of 2 units", "age_ms": 1_500},
             "drift": {"message": "1 unit is missing", "mending": true, "since": "2026-11-21T02:34:50Z", "age_ms": 3_000},
             "retry": {"attempts": 2, "in_ms": 4_000}},
            {"id": "File/motd", "version": 1, "result": {"state": "ok", "since": "2026-11-21T02:34:50Z"}},
        ]});
        let text = bundle_table(&serde_json::from_value(standing).unwrap(), now(), PLAIN);
        assert!(text.contains("accepted   version 3\napplied    version 2\n"), "{text}");
        assert!(
            text.contains("App/web    3        error   10s  degraded  1s ago  mending, seen 3s ago  in 4s\n"),
            "{text}"
        );
        assert!(
            text.contains("File/motd  1        ok      10s  -                 -                     -\n"),
            "{text}"
        );
        assert!(text.ends_with(
            "App/web: port 80 is taken\nApp/web: observed: 1 of 2 units\nApp/web: drift: 1 unit is missing\n"
        ));
    }

    #[test]
    fn a_record_is_a_row() {
        let records = json!({"changes": [
            {"seq": 7, "at": "2026-11-21T02:34:50.123Z", "version": 3, "workload": "App/web", "state": "error", "message": "no\nroom"},
        ]});
        let text = changes_table(&serde_json::from_value(records).unwrap(), PLAIN);
        assert!(text.contains("7    2026-11-21 02:34:50  3        App/web   error"), "{text}");
        assert!(text.ends_with("no room\n"), "{text}");
    }
}
