//! How far a container's log was told, and what of it comes again when it is read anew. Pure.

use jiff::Timestamp;

use crate::shim::{LogLine, LogStream};

/// How much earlier than the last line that was told a log is read again, in seconds: the two streams are written at the same
/// time, and a line of one may come after a somewhat later one of the other.
const SLACK: i64 = 2;

/// A place in the log of a container.
#[derive(Debug, Default)]
pub(super) struct Place {
    stdout: Stream,
    stderr: Stream,
}

/// The lines of each stream stand in the order of their times. Several may have the same.
#[derive(Debug, Default)]
struct Stream {
    /// The time of the last line that was told, and how many of that time were.
    told: Option<(Timestamp, usize)>,
    /// While lines come that were told: how many of that time have come again.
    again: Option<usize>,
    /// The last line that was told must come again.
    is_awaited: bool,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was told before.
    Old,
    /// It comes next.
    New,
    /// It is the next that there is, but not the next that there was.
    AfterGap,
}

impl Place {
    /// Whether nothing was told yet.
    pub(super) fn is_at_the_beginning(&self) -> bool {
        self.stdout.told.is_none() && self.stderr.told.is_none()
    }

    /// Reads the log anew; returns from which second on it is to be read, if not from its beginning.
    pub(super) fn read_again(&mut self) -> Option<i64> {
        let told = |stream: &Stream| Some(stream.told?.0.as_second());
        let since = told(&self.stdout).max(told(&self.stderr)).map(|newest| newest - SLACK);
        for stream in [&mut self.stdout, &mut self.stderr] {
            stream.again = stream.told.map(|_| 0);
            stream.is_awaited = told(stream) >= since && since.is_some();
        }
        since
    }

    /// What the next line is that was read.
    pub(super) fn turn(&mut self, line: &LogLine) -> Turn {
        let stream = self.of(line.stream);
        let (Some((last, count)), Some(again)) = (stream.told, stream.again) else { return Turn::New };
        if line.time < last {
            return Turn::Old;
        }
        if line.time == last && again < count {
            stream.again = Some(again + 1);
            return Turn::Old;
        }
        stream.again = None;
        if stream.is_awaited && again == 0 { Turn::AfterGap } else { Turn::New }
    }

    /// A line was told.
    pub(super) fn tell(&mut self, line: &LogLine) {
        let stream = self.of(line.stream);
        stream.told = Some(match stream.told {
            Some((last, count)) if line.time == last => (last, count + 1),
            // Somebody has set the clock back.
            Some((last, count)) if line.time < last => (last, count),
            _ => (line.time, 1),
        });
    }

    fn of(&mut self, stream: LogStream) -> &mut Stream {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stream: LogStream, millis: i64, text: &str) -> LogLine {
        let time = Timestamp::from_millisecond(millis).unwrap();
        LogLine { time, stream, text: text.to_owned(), partial: false }
    }

    fn out(millis: i64, text: &str) -> LogLine {
        line(LogStream::Stdout, millis, text)
    }

    /// Reads `log` anew, as an engine tells it that knows seconds alone; what is told.
    fn read(place: &mut Place, log: &[LogLine]) -> Vec<String> {
        let since = place.read_again().unwrap_or(0);
        let mut told = Vec::new();
        for line in log.iter().filter(|line| line.time.as_second() >= since) {
            match place.turn(line) {
                Turn::Old => continue,
                Turn::AfterGap => told.push("gap".to_owned()),
                Turn::New => {}
            }
            place.tell(line);
            told.push(line.text.clone());
        }
        told
    }

    #[test]
    fn no_line_is_told_twice_and_none_is_left_out() {
        let mut log = vec![
            out(1_000, "a"),
            out(5_000, "b"),
            line(LogStream::Stderr, 5_001, "x"),
            out(5_100, "c"),
            out(5_100, "d"),
        ];
        for cut in 0..=log.len() {
            let mut place = Place::default();
            let (before, mut all) = (read(&mut place, &log[..cut]), Vec::new());
            all.extend(before);
            assert_eq!(place.is_at_the_beginning(), cut == 0);
            all.extend(read(&mut place, &log[..cut]));
            all.extend(read(&mut place, &log));
            assert_eq!(all, ["a", "b", "x", "c", "d"], "cut at {cut}");
        }
        // Of the same time as the last, and of the other stream a moment before it.
        let mut place = Place::default();
        read(&mut place, &log);
        log.push(out(5_100, "e"));
        log.push(line(LogStream::Stderr, 5_099, "y"));
        log.push(out(9_000, "f"));
        assert_eq!(read(&mut place, &log), ["e", "y", "f"]);
        assert_eq!(read(&mut place, &log), Vec::<String>::new());
    }

    #[test]
    fn what_was_rotated_away_unread_leaves_a_mark() {
        let mut place = Place::default();
        read(&mut place, &[out(1_000, "a"), line(LogStream::Stderr, 1_000, "x"), out(9_000, "b")]);
        // The one before the last is too old to be asked for, and so is not missed.
        assert_eq!(read(&mut place, &[out(9_000, "b"), line(LogStream::Stderr, 9_001, "y")]), ["y"]);
        assert_eq!(read(&mut place, &[out(20_000, "d"), out(21_000, "e")]), ["gap", "d", "e"]);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_up_nothing_that_is_heard() {
        let mut place = Place::default();
        assert_eq!(read(&mut place, &[out(9_000, "a"), out(2_000, "b"), out(9_500, "c")]), ["a", "b", "c"]);
        assert_eq!(read(&mut place, &[out(9_000, "a"), out(9_500, "c"), out(9_600, "d")]), ["d"]);
    }
}
