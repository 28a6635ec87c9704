use towline_agent::shim::LogLine;

use crate::unreadable;

/// A line of a unit's log: the unit wrote its text, and a full disk may have cut it anywhere.
pub fn log_line(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(line) = text.parse::<LogLine>() else { return };
    let tag = if line.partial { 'P' } else { 'F' };
    let printed = format!("{:.9} {} {tag} {}", line.time, line.stream, line.text);
    match printed.parse::<LogLine>() {
        Ok(again) => assert_eq!(again, line),
        Err(error) => unreadable(&printed, &error),
    }
}
