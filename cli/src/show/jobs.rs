//! Jobs as people read them. Pure: the time comes in.

use std::fmt::Write as _;

use comfy_table::Cell;
use towline_hub::api::types::{JobInfo, JobList, JobRecordInfo, JobWithRecords};

use super::tables::{Style, plain, render, time_of_day, word};
use crate::time::{age, age_since};

/// How long a job took, or has taken so far.
pub(crate) fn took(job: &JobInfo, now_unix_ms: u64) -> String {
    let Some(started) = job.started_at else { return "-".to_owned() };
    let ended = job.ended_at.map_or(now_unix_ms, |ended| ended.unix_ms());
    match ended.saturating_sub(started.unix_ms()) {
        ms @ 0..10_000 => format!("{}.{}s", ms / 1_000, ms / 100 % 10),
        ms => age(ms),
    }
}

/// What a job is about: `put shop version 3`.
pub(crate) fn title(job: &JobInfo) -> String {
    let bundle = job.bundle.as_ref().map(|bundle| format!(" {bundle}")).unwrap_or_default();
    let version = job.version.map(|version| format!(" version {version}")).unwrap_or_default();
    plain(&format!("{}{bundle}{version}", job.kind))
}

/// Jobs, one a row.
pub(crate) fn jobs_table(list: &JobList, now_unix_ms: u64, style: Style) -> String {
    if list.jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let mut table = style.table(&["JOB", "KIND", "BUNDLE", "VERSION", "STATE", "AGE", "TOOK", "MESSAGE"]);
    for job in &list.jobs {
        table.add_row(vec![
            Cell::new(job.id.to_string()),
            Cell::new(plain(job.kind.as_str())),
            Cell::new(job.bundle.as_ref().map(|bundle| bundle.to_string()).unwrap_or_default()),
            Cell::new(job.version.map(|version| version.to_string()).unwrap_or_default()),
            style.status(job.state.as_str()),
            Cell::new(age_since(job.accepted_at.unix_ms(), now_unix_ms)),
            Cell::new(took(job, now_unix_ms)),
            Cell::new(plain(job.message.as_deref().unwrap_or_default())),
        ]);
    }
    let mut text = render(&table);
    if list.next.is_some() {
        text.push_str("\nolder ones are not shown: see --limit\n");
    }
    text
}

/// One job with its records.
pub(crate) fn job_text(found: &JobWithRecords, now_unix_ms: u64, style: Style) -> String {
    let JobWithRecords { job, records, .. } = found;
    let took = format!("{} after {}", word(job.state.as_str(), style), took(job, now_unix_ms));
    let facts = [
        ("job", job.id.to_string()),
        ("what", title(job)),
        ("state", if job.started_at.is_some() { took } else { word(job.state.as_str(), style) }),
        ("accepted", job.accepted_at.to_string()),
        ("started", job.started_at.map(|at| at.to_string()).unwrap_or_default()),
        ("ended", job.ended_at.map(|at| at.to_string()).unwrap_or_default()),
        ("reason", plain(job.reason.as_deref().unwrap_or_default())),
        ("key", job.request.as_ref().map(|request| request.to_string()).unwrap_or_default()),
        ("message", plain(job.message.as_deref().unwrap_or_default())),
    ];
    let facts = facts.iter().filter(|(_, value)| !value.is_empty());
    let mut text: String = facts.map(|(name, value)| format!("{name:<10} {value}\n")).collect();
    for (id, error) in &job.errors {
        let _ = writeln!(text, "{:<10} {}: {}", "error", plain(id), plain(&error.message));
        if let Some(help) = &error.help {
            let _ = writeln!(text, "{:<10} {}", "", plain(help));
        }
    }
    if !records.is_empty() {
        text.push('\n');
    }
    for record in records {
        text.push_str(&record_line(record, style));
        text.push('\n');
    }
    text
}

/// One step of a job on one line.
pub(crate) fn record_line(record: &JobRecordInfo, style: Style) -> String {
    let what = match (&record.workload, &record.result) {
        (None, _) => word(record.state.as_str(), style),
        (Some(_), Some(result)) => word(result.as_str(), style),
        (Some(_), None) => "…".to_owned(),
    };
    let workload = record.workload.as_ref().map(|workload| plain(workload.as_str()));
    let op = record.op.as_ref().map(|op| plain(op.as_str()));
    let step = record.step.as_deref().map(plain).filter(|step| Some(step) != op.as_ref());
    let words = [workload, op, step, Some(what)].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let message = record.message.as_deref().map(|message| format!(": {}", plain(message)));
    format!("{}  {words}{}", time_of_day(record.at.unix_ms()), message.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Style = Style { colour: false };

    fn job() -> serde_json::Value {
        json!({
            "id": "0".repeat(32), "kind": "put", "state": "failed", "bundle": "shop", "version": 3,
            "accepted_at": "2026-11-21T02:34:50Z", "started_at": "2026-11-21T02:34:50.100Z",
            "ended_at": "2026-11-21T02:34:51.350Z", "records": 3, "message": "1 workload failed",
            "errors": {"App/web": {"code": "cluster", "message": "port 80 is taken", "help": "free it"}},
        })
    }

    #[test]
    fn jobs_are_rows() {
        let now = "2026-11-21T02:35:00Z".parse::<towline_hub::time::Time>().unwrap().unix_ms();
        let list = serde_json::from_value(json!({"jobs": [job()], "next": "0".repeat(32)})).unwrap();
        let text = jobs_table(&list, now, PLAIN);
        assert!(text.contains("put   shop    3        failed  10s  1.2s  1 workload failed"), "{text}");
        assert!(text.ends_with("see --limit\n"), "{text}");
        assert_eq!(jobs_table(&JobList::default(), 0, PLAIN), "no jobs\n");
    }

    #[test]
    fn a_job_tells_its_story() {
        let records = json!([
            {"seq": 1, "at": "2026-11-21T02:34:50Z", "state": "running"},
            {"seq": 2, "at": "2026-11-21T02:34:51Z", "state": "running", "workload": "App/web", "op": "add",
             "step": "start", "result": "error", "message": "port 80 is taken\u{7}"},
            {"seq": 3, "at": "2026-11-21T02:34:52Z", "state": "failed"},
        ]);
        let found = serde_json::from_value(json!({"job": job(), "records": records})).unwrap();
        let text = job_text(&found, 0, PLAIN);
        assert!(text.contains("what       put shop version 3\nstate      failed after 1.2s\n"), "{text}");
        assert!(text.contains("error      App/web: port 80 is taken\n           free it\n"), "{text}");
        assert!(
            text.ends_with(
                "\n02:34:50  running\n02:34:51  App/web add start error: port 80 is taken \n02:34:52  failed\n"
            ),
            "{text}"
        );
    }
}
