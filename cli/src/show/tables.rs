//! Tables and lines, out of the API's types. Pure: the time comes in.

use std::collections::BTreeMap;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use towline_hub::api::types::{
    Event, Instance, InstanceList, LogLineInfo, ServiceInfo, ServiceList, UnitInfo,
};

use crate::time::{age, age_since};

/// How text may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether there are colours.
    pub(crate) colour: bool,
}

impl Style {
    pub(super) fn table(self, columns: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        // A line that is wrapped can be neither copied nor searched.
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.force_no_tty();
        if self.colour {
            table.enforce_styling();
        }
        table.set_header(columns.iter().map(Cell::new));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
    }

    /// A status in the colour of its kind.
    pub(super) fn status(self, status: &str) -> Cell {
        let cell = Cell::new(plain(status));
        match colour_of(status).filter(|_| self.colour) {
            Some(colour) => cell.fg(colour),
            None => cell,
        }
    }
}

fn colour_of(status: &str) -> Option<Color> {
    Some(match status {
        "ready" | "started" | "connected" | "healthy" | "ok" | "done" | "active" | "add" => Color::Green,
        "updating" | "building" | "starting" | "never_seen" | "unknown" => Color::Yellow,
        "init" | "pending" | "running" | "paused" | "deleting" | "update" => Color::Yellow,
        "degraded" | "error" | "down" | "unreachable" | "gone" | "stalled" | "failed" | "remove" => {
            Color::Red
        }
        "stopped" | "deleted" | "unchanged" | "untouched" | "cancelled" | "superseded" => Color::DarkGrey,
        _ => return None,
    })
}

/// A status word in its colour, for lines that are no table.
pub(crate) fn word(status: &str, style: Style) -> String {
    let code = match colour_of(status).filter(|_| style.colour) {
        Some(Color::Green) => "32",
        Some(Color::Yellow) => "33",
        Some(Color::Red) => "31",
        Some(_) => "90",
        None => return plain(status),
    };
    format!("\u{1b}[{code}m{}\u{1b}[0m", plain(status))
}

/// Text from elsewhere, without what would move the cursor or break the row.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) fn render(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn pairs(pairs: &BTreeMap<String, String>) -> String {
    plain(&pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
}

/// Ports by name: `http=40123`.
pub(crate) fn ports_text(ports: &BTreeMap<String, u16>) -> String {
    plain(&ports.iter().map(|(name, port)| format!("{name}={port}")).collect::<Vec<_>>().join(","))
}

/// All instances, one a row.
pub(crate) fn instances_table(list: &InstanceList, style: Style) -> String {
    if list.instances.is_empty() {
        return "no instances\n".to_owned();
    }
    let mut table = style.table(&["INSTANCE", "STATE", "FOR", "HEALTH", "VERSION", "RUNTIME", "LABELS"]);
    for instance in &list.instances {
        let session = instance.session.clone().unwrap_or_default();
        table.add_row(vec![
            Cell::new(plain(&instance.id)),
            style.status(&instance.presence.state),
            Cell::new(age(instance.presence.age_ms)),
            style.status(&instance.health.state),
            Cell::new(plain(&session.version.unwrap_or_default())),
            Cell::new(plain(&session.runtime.unwrap_or_default())),
            Cell::new(pairs(&instance.labels)),
        ]);
    }
    let mut text = render(&table);
    if list.bus != "connected" {
        text.push_str("\nthe hub itself does not reach the bus: what is shown stands still\n");
    }
    text
}

/// One instance, one fact a row.
pub(crate) fn instance_table(instance: &Instance, style: Style) -> String {
    let session = instance.session.clone().unwrap_or_default();
    let heard = instance.presence.last_heard_ms_ago.map(|ms| format!(", heard {} ago", age(ms)));
    let state = format!(
        "{} for {}{}",
        word(&instance.presence.state, style),
        age(instance.presence.age_ms),
        heard.unwrap_or_default()
    );
    let detail = instance.health.detail.as_deref().map(|detail| format!(": {}", plain(detail)));
    let facts = [
        ("instance", plain(&instance.id)),
        ("state", state),
        ("health", format!("{}{}", word(&instance.health.state, style), detail.unwrap_or_default())),
        ("labels", pairs(&instance.labels)),
        ("on record", format!("{} ({})", instance.created_at, plain(&instance.origin))),
        ("version", plain(&session.version.unwrap_or_default())),
        ("runtime", plain(&session.runtime.unwrap_or_default())),
        ("epoch", session.epoch.map(|epoch| epoch.to_string()).unwrap_or_default()),
        ("boot", plain(&session.boot.unwrap_or_default())),
        ("store", plain(&session.store.unwrap_or_default())),
        ("calls", plain(&session.calls.join(", "))),
    ];
    facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<10} {value}\n"))
        .collect()
}

/// Services with their units, one unit a row.
pub(crate) fn services_table(list: &ServiceList, now_unix_ms: u64, style: Style) -> String {
    if list.services.is_empty() {
        return "no services\n".to_owned();
    }
    let mut services: Vec<&ServiceInfo> = list.services.iter().collect();
    services.sort_by(|a, b| a.id.cmp(&b.id));
    let why = services.iter().any(|service| service.units.iter().any(|unit| unit.reason.is_some()));
    let mut columns = vec!["SERVICE", "STATUS", "UNIT", "STATE", "PID", "PORTS", "RESTARTS", "AGE"];
    columns.extend(why.then_some("REASON"));
    let mut table = style.table(&columns);
    let mut remarks = Vec::new();
    for service in services {
        let head = [Cell::new(plain(service.id.as_str())), style.status(service.status.as_str())];
        let mut units: Vec<&UnitInfo> = service.units.iter().collect();
        units.sort_by(|a, b| a.id.cmp(&b.id));
        let (first, others) =
            units.split_first().map_or((None, &[][..]), |(first, others)| (Some(*first), others));
        table.add_row(head.into_iter().chain(unit_cells(first, why, now_unix_ms, style)));
        for unit in others {
            let blank = [Cell::new(""), Cell::new("")];
            table.add_row(blank.into_iter().chain(unit_cells(Some(unit), why, now_unix_ms, style)));
        }
        let failure = service.metadata.get("failure").map(String::as_str);
        let drift = service.metadata.get("drift").map(String::as_str);
        for remark in service.excuse.as_deref().into_iter().chain(failure).chain(drift) {
            remarks.push(format!("{}: {}\n", plain(service.id.as_str()), plain(remark)));
        }
    }
    let mut text = render(&table);
    if !remarks.is_empty() {
        text.push('\n');
        text.extend(remarks);
    }
    text
}

fn unit_cells(unit: Option<&UnitInfo>, why: bool, now_unix_ms: u64, style: Style) -> Vec<Cell> {
    let Some(unit) = unit else {
        return vec![Cell::new("-")];
    };
    let since = unit.since.map(|since| age_since(since.unix_ms(), now_unix_ms));
    let mut cells = vec![
        Cell::new(plain(&unit.id)),
        style.status(unit.status.as_str()),
        Cell::new(unit.pid.map(|pid| pid.to_string()).unwrap_or_default()),
        Cell::new(ports_text(&unit.ports)),
        Cell::new(unit.restarts),
        Cell::new(since.unwrap_or_default()),
    ];
    cells.extend(why.then(|| Cell::new(plain(unit.reason.as_deref().unwrap_or_default()))));
    cells
}

/// One event on one line.
pub(crate) fn event_line(event: &Event) -> String {
    let Event { instance, kind, at, detail, .. } = event;
    format!("{at}  {}  {}  {}", plain(instance), plain(kind), plain(detail))
}

/// One log line. Its colours are the app's own; on a terminal nothing else of it is obeyed.
pub(crate) fn log_line(line: &LogLineInfo, tame: bool) -> String {
    let unit = plain(&line.unit);
    if tame { format!("{unit}  {}", tamed(&line.text)) } else { format!("{unit}  {}", line.text) }
}

/// Text of an app, without what would move the cursor, rename the window or fill the clipboard: the app may be anybody's.
fn tamed(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    let mut is_coloured = false;
    while let Some(c) = rest.chars().next() {
        let (sequence, after) = match colours(rest) {
            Some(length) => rest.split_at(length),
            None => rest.split_at(c.len_utf8()),
        };
        match c {
            '\u{1b}' if sequence.len() > 1 => {
                is_coloured = true;
                shown.push_str(sequence);
            }
            '\t' => shown.push('\t'),
            c if c.is_control() => shown.push(char::REPLACEMENT_CHARACTER),
            c => shown.push(c),
        }
        rest = after;
    }
    if is_coloured {
        // The next line is another unit's.
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// The length of a sequence that sets colours, if the text begins with one: `ESC [ 1 ; 31 m`.
fn colours(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !matches!(c, '0'..='9' | ';' | ':'))?;
    parameters.get(end..)?.starts_with('m').then_some("\u{1b}[".len() + end + 1)
}

/// `03:12:01` in UTC, for lines that are read as they come.
pub(crate) fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Style = Style { colour: false };

    #[test]
    fn an_app_colours_its_lines_and_commands_nothing() {
        let line = |text: &str| LogLineInfo {
            unit: "web-1".to_owned(),
            at: towline_hub::time::NanoTime::from_unix_ns(0),
            source: towline_protocol::platform::LogSource::Stdout,
            text: text.to_owned(),
            partial: false,
        };
        for (text, shown) in [
            ("größer\tok", "größer\tok"),
            ("\u{1b}[1;31mred\u{1b}[m", "\u{1b}[1;31mred\u{1b}[m\u{1b}[0m"),
            ("\u{1b}]52;c;aGk=\u{7}", "\u{fffd}]52;c;aGk=\u{fffd}"),
            ("\u{1b}]0;title\u{1b}\\", "\u{fffd}]0;title\u{fffd}\\"),
            ("\u{1b}[2J\u{1b}[", "\u{fffd}[2J\u{fffd}["),
            ("\u{9b}31m\r\u{8}", "\u{fffd}31m\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(log_line(&line(text), true), format!("web-1  {shown}"));
            assert_eq!(log_line(&line(text), false), format!("web-1  {text}"), "a pipe takes it as it is");
        }
    }

    fn services() -> ServiceList {
        serde_json::from_value(json!({"services": [
            {"id": "default/App/web", "status": "degraded", "units": [
                {"id": "web-b", "status": "error", "reason": "exited with 1\u{1b}[2J", "since": "2026-11-21T02:00:00Z", "restarts": 3},
                {"id": "web-a", "status": "started", "pid": 4711, "ports": {"http": 40123}, "since": "2026-11-21T01:59:48Z"},
            ]},
            {"id": "default/App/off", "status": "stopped"},
            {"id": "default/App/lost", "status": "unknown", "excuse": "the runtime\ndid not answer"},
        ]}))
        .unwrap()
    }

    #[test]
    fn services_show_their_units() {
        let now: towline_hub::time::Time = "2026-11-21T02:00:00Z".parse().unwrap();
        let shown = services_table(&services(), now.unix_ms(), PLAIN);
        let expected = "\
SERVICE           STATUS    UNIT   STATE    PID   PORTS       RESTARTS  AGE  REASON
default/App/lost  unknown   -
default/App/off   stopped   -
default/App/web   degraded  web-a  started  4711  http=40123  0         12s
                            web-b  error                      3         0s   exited with 1 [2J

default/App/lost: the runtime did not answer
";
        assert_eq!(shown, expected);
        assert_eq!(services_table(&ServiceList::default(), 0, PLAIN), "no services\n");
    }

    #[test]
    fn colours_are_for_terminals() {
        let coloured = services_table(&services(), 0, Style { colour: true });
        assert!(coloured.contains("\u{1b}["));
        assert!(!services_table(&services(), 0, PLAIN).contains('\u{1b}'));
        assert_eq!(word("ready", PLAIN), "ready");
        assert_eq!(word("ready", Style { colour: true }), "\u{1b}[32mready\u{1b}[0m");
    }

    #[test]
    fn instances_show_how_they_stand() {
        let list: InstanceList = serde_json::from_value(json!({
            "bus": "disconnected", "as_of": "2026-11-21T02:00:00Z",
            "instances": [
                {"id": "default/a", "labels": {"site": "oslo", "x": "y"}, "created_at": "2026-11-21T02:00:00Z",
                 "origin": "created", "presence": {"state": "connected", "since": "2026-11-21T02:00:00Z", "age_ms": 7_200_000},
                 "health": {"state": "healthy"},
                 "session": {"epoch": 7, "version": "0.1.0", "runtime": "process", "calls": ["ping"], "applied": ""}},
                {"id": "default/bb", "labels": {}, "created_at": "2026-11-21T02:00:00Z", "origin": "created",
                 "presence": {"state": "never_seen", "since": "2026-11-21T02:00:00Z", "age_ms": 5}, "health": {"state": "unknown"}},
            ],
        }))
        .unwrap();
        let expected = "\
INSTANCE    STATE       FOR  HEALTH   VERSION  RUNTIME  LABELS
default/a   connected   2h   healthy  0.1.0    process  site=oslo,x=y
default/bb  never_seen  0s   unknown

the hub itself does not reach the bus: what is shown stands still
";
        assert_eq!(instances_table(&list, PLAIN), expected);
        let one = instance_table(list.instances.first().unwrap(), PLAIN);
        assert!(one.contains("state      connected for 2h\n") && one.contains("epoch      7\n"), "{one}");
    }

    #[test]
    fn a_log_line_names_its_unit() {
        let line: LogLineInfo = serde_json::from_value(json!({
            "unit": "web-a", "at": "2026-11-21T02:00:00.000000001Z", "source": "stdout", "text": "\u{1b}[1mhello\u{1b}[0m"
        }))
        .unwrap();
        assert_eq!(log_line(&line, false), "web-a  \u{1b}[1mhello\u{1b}[0m");
        assert_eq!(time_of_day(86_400_000 * 3 + 3_723_999), "01:02:03");
    }
}
