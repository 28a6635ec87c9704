//! Reading one unit's log from segment to segment, without losing or repeating a line, while it is written and
//! rotated.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::PathBuf,
};

use crate::shim::{LogLine, segments};

/// Longest line that is read: a piece of 16 KiB and its head, with room.
const MAX_LINE: usize = 64 * 1024;

/// A place in a unit's log.
#[derive(Debug)]
pub(super) struct Tail {
    dir: PathBuf,
    segment: u64,
    file: Option<BufReader<File>>,
    /// The beginning of a line whose end was not written yet.
    partial: Vec<u8>,
    next: Option<LogLine>,
}

impl Tail {
    /// At the oldest line of the log in `dir`.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, segment: 0, file: None, partial: Vec::new(), next: None }
    }

    /// The next line, left in place; none when all that is written was read.
    pub(super) fn peek(&mut self) -> Option<&LogLine> {
        if self.next.is_none() {
            self.next = self.read();
        }
        self.next.as_ref()
    }

    /// The next line.
    pub(super) fn take(&mut self) -> Option<LogLine> {
        self.peek();
        self.next.take()
    }

    fn read(&mut self) -> Option<LogLine> {
        while self.complete_line().ok()? {
            let line = std::mem::take(&mut self.partial);
            let text = String::from_utf8_lossy(&line);
            // What is no log line (a disk was full) is passed over.
            if let Ok(line) = text.trim_end_matches('\n').parse() {
                return Some(line);
            }
        }
        None
    }

    /// Reads a line to its end, over into the next segment; says whether there was one.
    fn complete_line(&mut self) -> io::Result<bool> {
        loop {
            if self.read_line()? {
                return Ok(true);
            }
            let Some((number, path)) = self.newer() else { return Ok(false) };
            // The next segment is begun only when this one is complete: what is not there now never will be.
            if self.read_line()? {
                return Ok(true);
            }
            self.partial.clear();
            self.segment = number;
            // None if it was deleted under our hands: then the loop goes on to the one after it.
            self.file = File::open(path).ok().map(BufReader::new);
        }
    }

    /// Reads up to the end of a line; says whether it was reached.
    fn read_line(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let room = u64::try_from(MAX_LINE.saturating_sub(self.partial.len())).unwrap_or(0);
        let read = io::Read::take(&mut *file, room).read_until(b'\n', &mut self.partial)?;
        Ok(read > 0 && (self.partial.ends_with(b"\n") || self.partial.len() >= MAX_LINE))
    }

    fn newer(&self) -> Option<(u64, PathBuf)> {
        segments(&self.dir).ok()?.into_iter().find(|(number, _)| *number > self.segment)
    }
}
