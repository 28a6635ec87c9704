//! A unit's log: CRI lines (`2026-01-02T03:04:05.000000006Z stdout F text`) in numbered segments.
//!
//! Segments are only ever appended to and then deleted, never renamed, so a reader that knows segment and offset can
//! follow through any rotation. The oldest goes when there are more than `maxFiles`.

use std::{
    fmt::{self, Write as _},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use jiff::Timestamp;

/// Name of the log directory in a unit directory.
pub(crate) const LOG_DIR: &str = "logs";

/// Longest piece of a line, in bytes: what is longer is written as pieces marked `P`, as CRI runtimes do.
pub(super) const MAX_PIECE: usize = towline_protocol::limits::LOG_LINE_BYTES_MAX;

/// Which of its outputs a unit wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// One line of a unit's log, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the shim read it.
    pub time: Timestamp,
    /// Where the unit wrote it.
    pub stream: LogStream,
    /// More of the same line follows.
    pub partial: bool,
    /// The text, without its line end. Bytes that are no UTF-8 are shown as U+FFFD.
    pub text: String,
}

/// The line is not one of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log line: expected time, stream, F or P, and text")]
pub struct ParseLogLineError;

impl FromStr for LogLine {
    type Err = ParseLogLineError;

    fn from_str(line: &str) -> Result<Self, ParseLogLineError> {
        let mut parts = line.splitn(4, ' ');
        let mut next = || parts.next().ok_or(ParseLogLineError);
        let time = next()?.parse().map_err(|_| ParseLogLineError)?;
        let stream = match next()? {
            "stdout" => LogStream::Stdout,
            "stderr" => LogStream::Stderr,
            _ => return Err(ParseLogLineError),
        };
        let partial = match next()? {
            "F" => false,
            "P" => true,
            _ => return Err(ParseLogLineError),
        };
        Ok(Self { time, stream, partial, text: next()?.to_owned() })
    }
}

/// Cuts what a unit writes into lines and pieces of lines.
#[derive(Debug)]
pub(super) struct LineCutter {
    stream: LogStream,
    rest: Vec<u8>,
}

impl LineCutter {
    pub(super) fn new(stream: LogStream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes in `bytes`; appends every line that is complete to `out`, as log lines.
    pub(super) fn push(&mut self, mut bytes: &[u8], now: Timestamp, out: &mut Vec<Vec<u8>>) {
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.rest.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let (piece, skip) = match end {
                Some(end) => (end, end + 1),
                None => (bytes.len().min(room), bytes.len().min(room)),
            };
            let (taken, _) = bytes.split_at(piece);
            self.rest.extend_from_slice(taken);
            bytes = bytes.split_at(skip).1;
            if end.is_some() {
                self.emit(now, false, out);
            } else if self.rest.len() == MAX_PIECE {
                self.emit(now, true, out);
            }
        }
    }

    /// Appends what stands without a line end; the unit will write no more.
    pub(super) fn finish(&mut self, now: Timestamp, out: &mut Vec<Vec<u8>>) {
        if !self.rest.is_empty() {
            self.emit(now, false, out);
        }
    }

    fn emit(&mut self, now: Timestamp, partial: bool, out: &mut Vec<Vec<u8>>) {
        let mut head = String::new();
        let tag = if partial { 'P' } else { 'F' };
        // Nine digits always: then lines sort as text, too.
        let written = write!(head, "{now:.9} {} {tag} ", self.stream);
        debug_assert!(written.is_ok(), "writing to a String does not fail");
        let mut line = head.into_bytes();
        line.append(&mut self.rest);
        line.push(b'\n');
        out.push(line);
    }
}

/// Appends lines to the newest segment and begins another when it is full.
#[derive(Debug)]
pub(super) struct LogWriter {
    dir: PathBuf,
    number: u64,
    file: File,
    size: u64,
    max_size: u64,
    max_files: usize,
    /// Lines that could not be written (disk full).
    lost: u64,
}

impl LogWriter {
    /// Continues the log of the unit in `unit_dir`. One file holds at most `max_size` bytes, or a single line.
    pub(super) fn open(unit_dir: &Path, max_size: u64, max_files: u32) -> io::Result<Self> {
        let dir = unit_dir.join(LOG_DIR);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let number = segments(&dir)?.last().map_or(1, |(number, _)| *number);
        let file = open_segment(&dir, number)?;
        let size = file.metadata()?.len();
        let max_files = usize::try_from(max_files.max(1)).unwrap_or(usize::MAX);
        Ok(Self { dir, number, file, size, max_size, max_files, lost: 0 })
    }

    /// Appends `lines`. What cannot be written is dropped and counted: a full disk must not stop the unit.
    pub(super) fn append(&mut self, lines: &[Vec<u8>]) {
        let mut batch = Vec::new();
        let mut count = 0;
        for line in lines {
            let used = self.size + batch.len() as u64;
            if used > 0 && used + line.len() as u64 > self.max_size {
                self.write(&batch, count);
                (batch, count) = (Vec::new(), 0);
                self.rotate();
            }
            batch.extend_from_slice(line);
            count += 1;
        }
        self.write(&batch, count);
    }

    /// Lines dropped so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    fn write(&mut self, batch: &[u8], count: u64) {
        match self.file.write_all(batch) {
            Ok(()) => self.size += batch.len() as u64,
            Err(_) => {
                self.lost += count;
                // Half a line must not run into the next one; where the file ends now is all that is sure.
                let whole = self.file.set_len(self.size);
                self.size = self.file.metadata().map_or(self.size, |data| data.len());
                debug_assert!(whole.is_ok() || self.lost > 0, "a loss was counted");
            }
        }
    }

    fn rotate(&mut self) {
        let Ok(file) = open_segment(&self.dir, self.number + 1) else { return };
        self.file = file;
        self.number += 1;
        self.size = 0;
        let Ok(present) = segments(&self.dir) else { return };
        let surplus = present.len().saturating_sub(self.max_files);
        for (_, path) in present.into_iter().take(surplus) {
            // One that stays is tried again at the next rotation.
            fs::remove_file(path).ok();
        }
    }
}

fn open_segment(dir: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(format!("{number:08}.log")))
}

/// The segments in the log directory `dir`, oldest first.
pub(crate) fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<LogLine> {
        let mut cutter = LineCutter::new(LogStream::Stdout);
        let mut out = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, Timestamp::UNIX_EPOCH, &mut out);
        }
        cutter.finish(Timestamp::UNIX_EPOCH, &mut out);
        out.iter().map(|line| String::from_utf8_lossy(line).trim_end_matches('\n').parse().unwrap()).collect()
    }

    #[test]
    fn a_line_is_written_as_cri_has_it() {
        let mut cutter = LineCutter::new(LogStream::Stderr);
        let mut out = Vec::new();
        cutter.push(b"hello world\n", Timestamp::UNIX_EPOCH, &mut out);
        assert_eq!(out, [b"1970-01-01T00:00:00.000000000Z stderr F hello world\n".to_vec()]);
    }

    #[test]
    fn long_lines_become_pieces() {
        let long = vec![b'x'; MAX_PIECE + 5];
        let lines = cut(&[&long, b"\nshort\n", b"no end"]);
        let seen: Vec<(usize, bool)> = lines.iter().map(|line| (line.text.len(), line.partial)).collect();
        assert_eq!(seen, [(MAX_PIECE, true), (5, false), (5, false), (6, false)]);
    }

    #[test]
    fn segments_rotate_and_stay_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), 100, 3).unwrap();
        for number in 0..50 {
            writer.append(&[format!("line {number:04}\n").into_bytes(), b"another line\n".to_vec()]);
        }
        drop(writer);
        let mut writer = LogWriter::open(dir.path(), 100, 3).unwrap();
        writer.append(&[b"last\n".to_vec(), vec![b'y'; 300]]);
        assert_eq!(writer.lost(), 0);
        let present = segments(&dir.path().join(LOG_DIR)).unwrap();
        assert_eq!(present.len(), 3);
        assert!(present.iter().all(|(_, path)| fs::metadata(path).unwrap().len() <= 300));
        let (_, newest) = present.last().unwrap();
        assert_eq!(fs::metadata(newest).unwrap().len(), 300, "one long line has a segment of its own");
    }

    proptest! {
        #[test]
        fn no_byte_of_a_line_is_lost(text in "([a-z]{0,9}\n){0,9}[a-z]{0,9}", at in 0_usize..90) {
            let (head, tail) = text.as_bytes().split_at(at.min(text.len()));
            let lines: Vec<String> = cut(&[head, tail]).into_iter().map(|line| line.text).collect();
            let expected: Vec<String> = text.lines().map(str::to_owned).collect();
            prop_assert_eq!(lines, expected);
        }
    }
}
