//! Reading one unit's log from segment to segment, without losing or repeating a line, while it is written and
//! rotated.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::PathBuf,
};

use crate::{
    runtime::logs::gap,
    shim::{LogLine, segments},
};

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
    next: VecDeque<LogLine>,
    /// Segments were removed before they were read.
    missed: bool,
    /// Why it cannot be read on.
    failure: Option<io::Error>,
}

impl Tail {
    /// At the oldest line of the log in `dir`.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            segment: 0,
            file: None,
            partial: Vec::new(),
            next: VecDeque::new(),
            missed: false,
            failure: None,
        }
    }

    /// The next line, left in place; none when all that is written was read.
    pub(super) fn peek(&mut self) -> Option<&LogLine> {
        if self.next.is_empty()
            && let Some(line) = self.read()
        {
            // At the time of the line after it, so that merging keeps them together.
            let gap = std::mem::take(&mut self.missed).then(|| gap(line.time));
            self.next.extend(gap);
            self.next.push_back(line);
        }
        self.next.front()
    }

    /// The next line.
    pub(super) fn take(&mut self) -> Option<LogLine> {
        self.peek();
        self.next.pop_front()
    }

    /// Why it could not be read to its end, if it could not.
    pub(super) fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    fn read(&mut self) -> Option<LogLine> {
        loop {
            match self.complete_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failure = Some(error);
                    return None;
                }
            }
            let line = std::mem::take(&mut self.partial);
            let text = String::from_utf8_lossy(&line);
            // What is no log line (a disk was full) is passed over.
            if let Ok(line) = text.trim_end_matches('\n').parse() {
                return Some(line);
            }
        }
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
            // The oldest there is, is where reading begins; after that, none may be left out in silence.
            self.missed |= self.segment != 0 && number > self.segment + 1;
            // None if it was deleted under our hands: then the loop goes on to the one after it.
            self.file = File::open(path).ok().map(BufReader::new);
            self.missed |= self.segment != 0 && self.file.is_none();
            self.segment = number;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_rotated_away_unread_leaves_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let segment = |number: u64, text: &str| {
            let line = format!("1970-01-01T00:00:00Z stdout F {text}\n");
            fs::write(dir.path().join(format!("{number:08}.log")), line).unwrap();
        };
        let mut tail = Tail::new(dir.path().to_owned());
        let mut texts = || std::iter::from_fn(|| tail.take()).map(|line| line.text).collect::<Vec<_>>();
        segment(3, "three");
        segment(4, "four");
        assert_eq!(texts(), ["three", "four"], "where reading begins, nothing is missing");
        segment(6, "six");
        segment(7, "seven");
        let gap = gap(jiff::Timestamp::UNIX_EPOCH).text;
        assert_eq!(texts(), [&gap, "six", "seven"]);
    }

    #[test]
    fn what_cannot_be_read_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(dir.path().to_owned());
        assert!(tail.take().is_none() && tail.failure().is_none());
        fs::create_dir(dir.path().join("00000001.log")).unwrap();
        assert!(tail.take().is_none());
        assert_eq!(tail.failure().map(|error| error.kind()), Some(io::ErrorKind::IsADirectory));
    }
}
