//! What hooks write. The engine's log of a container knows nothing of it, so it is kept here, as long as the agent lives, and
//! stands among the lines of the unit.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use crate::shim::{LogLine, LogStream};

/// Most lines that are kept of the hooks of one unit.
pub(in super::super) const LINES_MAX: usize = 200;

/// The longest line, in bytes; a longer one is cut into pieces.
const LINE_MAX: usize = 16 << 10;

/// How much of a last line is told, in characters.
const LAST_WORDS: usize = 200;

/// The lines of one unit's hooks.
#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<LogLine>,
    /// How many there were before them.
    gone: u64,
}

/// The lines of all hooks of a host.
#[derive(Debug, Default)]
pub(in super::super) struct HookLog {
    units: Mutex<BTreeMap<String, Lines>>,
}

impl HookLog {
    pub(super) fn push(&self, unit: &str, line: LogLine) {
        let mut units = self.units();
        let of_unit = units.entry(unit.to_owned()).or_default();
        of_unit.lines.push_back(line);
        if of_unit.lines.len() > LINES_MAX {
            of_unit.lines.pop_front();
            of_unit.gone += 1;
        }
    }

    /// The lines of a unit that come after the first `told`, as far as they are kept, and how many there are with them.
    pub(in super::super) fn after(&self, unit: &str, told: u64) -> (Vec<LogLine>, u64) {
        let units = self.units();
        let Some(Lines { lines, gone }) = units.get(unit) else { return (Vec::new(), told) };
        let skip = usize::try_from(told.saturating_sub(*gone)).unwrap_or(usize::MAX);
        (lines.iter().skip(skip).cloned().collect(), *gone + lines.len() as u64)
    }

    /// Forgets the units that there are not any more.
    pub(in super::super) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.units().retain(|unit, _| is_there(unit));
    }

    fn units(&self) -> MutexGuard<'_, BTreeMap<String, Lines>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts what a command writes into lines, and remembers the last.
#[derive(Debug, Default)]
pub(in super::super) struct Cutter {
    /// What stands without a line end.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last: String,
}

impl Cutter {
    /// Takes in `bytes`; returns every line that is complete.
    pub(in super::super) fn push(&mut self, stream: LogStream, bytes: &[u8]) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for mut piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            while !piece.is_empty() {
                let rest = self.rest(stream);
                let (now, later) = piece.split_at(piece.len().min(LINE_MAX.saturating_sub(rest.len())));
                rest.extend_from_slice(now);
                if rest.ends_with(b"\n") || rest.len() >= LINE_MAX {
                    lines.extend(self.take(stream));
                }
                piece = later;
            }
        }
        lines
    }

    /// What stands without a line end; the command will write no more.
    pub(in super::super) fn finish(&mut self) -> Vec<LogLine> {
        [LogStream::Stdout, LogStream::Stderr].into_iter().filter_map(|stream| self.take(stream)).collect()
    }

    /// Takes in a line that was cut elsewhere.
    pub(super) fn note(&mut self, line: &LogLine) {
        if !line.text.trim().is_empty() {
            self.last = line.text.trim().chars().take(LAST_WORDS).collect();
        }
    }

    /// The last line in which there was something, for the end of a sentence.
    pub(super) fn last_words(&self) -> String {
        if self.last.is_empty() { String::new() } else { format!(": {}", self.last) }
    }

    fn rest(&mut self, stream: LogStream) -> &mut Vec<u8> {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    fn take(&mut self, stream: LogStream) -> Option<LogLine> {
        let bytes = std::mem::take(self.rest(stream));
        if bytes.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let whole = text.strip_suffix('\n');
        let line = LogLine {
            time: Timestamp::now(),
            stream,
            text: whole.unwrap_or(&text).to_owned(),
            partial: whole.is_none() && bytes.len() >= LINE_MAX,
        };
        self.note(&line);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            time: Timestamp::UNIX_EPOCH,
            stream: LogStream::Stdout,
            text: text.to_owned(),
            partial: false,
        }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn each_line_is_told_once_and_the_oldest_go_first() {
        let log = HookLog::default();
        assert_eq!(log.after("web-1", 0), (Vec::new(), 0));
        log.push("web-1", line("one"));
        let (lines, told) = log.after("web-1", 0);
        assert_eq!((texts(&lines), told), (vec!["one"], 1));
        assert_eq!(log.after("web-1", told), (Vec::new(), 1));
        (0..LINES_MAX).for_each(|number| log.push("web-1", line(&number.to_string())));
        let (lines, told) = log.after("web-1", told);
        assert_eq!((lines.len(), lines[0].text.as_str(), told), (LINES_MAX, "0", LINES_MAX as u64 + 1));
        log.keep(|unit| unit == "web-2");
        assert_eq!(log.after("web-1", 0), (Vec::new(), 0));
    }

    #[test]
    fn lines_are_cut_where_they_end_and_where_they_are_too_long() {
        let mut cutter = Cutter::default();
        assert_eq!(texts(&cutter.push(LogStream::Stdout, b"one\ntw")), ["one"]);
        assert_eq!(texts(&cutter.push(LogStream::Stderr, b"bad\n \n")), ["bad", " "]);
        assert_eq!(texts(&cutter.push(LogStream::Stdout, b"o")), Vec::<&str>::new());
        assert_eq!(cutter.last_words(), ": bad");
        assert_eq!(texts(&cutter.finish()), ["two"]);
        assert_eq!(cutter.last_words(), ": two");
        let long = cutter.push(LogStream::Stdout, &[b'x'; LINE_MAX]);
        assert!(long.len() == 1 && long[0].partial);
        assert_eq!(cutter.last_words().len(), 2 + LAST_WORDS);
        let at_once = [vec![b'x'; 2 * LINE_MAX + 1], b"\n".to_vec()].concat();
        let lengths: Vec<_> =
            cutter.push(LogStream::Stdout, &at_once).iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [LINE_MAX, LINE_MAX, 1]);
        assert_eq!(Cutter::default().last_words(), "");
    }
}
