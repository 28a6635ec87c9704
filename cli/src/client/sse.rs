//! Server-sent events, out of the bytes that carry them. Pure: bytes in, events out.

use thiserror::Error;

/// The longest line: a log line is 16 KiB, in JSON at most six times that.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A line that is too long to be one of a hub's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a line of the stream is longer than {LINE_BYTES_MAX} bytes")]
pub(crate) struct LineTooLong;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// Its name: `line`, `end`, `connected`, …
    pub(crate) name: String,
    /// What it says.
    pub(crate) data: String,
    /// Its place in the stream, to go on after it.
    pub(crate) id: Option<String>,
}

/// Takes pieces of a stream, however they were cut.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    name: String,
    data: Option<String>,
    id: Option<String>,
}

impl Parser {
    /// The events that are complete with this piece.
    ///
    /// # Errors
    /// [`LineTooLong`]; the stream is no use then.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Vec<SseEvent>, LineTooLong> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() > LINE_BYTES_MAX {
                return Err(LineTooLong);
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                events.extend(self.take_line(line.trim_end_matches(['\n', '\r'])));
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            // Without data there is no event, says the standard.
            return self.data.take().map(|data| SseEvent { name, data, id: self.id.clone() });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                None => self.data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            "id" => self.id = Some(value.to_owned()),
            // Comments keep the connection alive; `retry` is for browsers.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b": hello\n\nevent: connected\nid: 7\ndata: {\"a\":1}\n\ndata: one\r\ndata:two\r\n\r\nevent: end\n\n";

    fn expected() -> Vec<SseEvent> {
        let event =
            |name: &str, data: &str| SseEvent { name: name.into(), data: data.into(), id: Some("7".into()) };
        vec![event("connected", "{\"a\":1}"), event("", "one\ntwo")]
    }

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        for size in 1..=STREAM.len() {
            let mut parser = Parser::default();
            let found: Vec<_> = STREAM.chunks(size).flat_map(|piece| parser.push(piece).unwrap()).collect();
            assert_eq!(found, expected(), "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'a'; LINE_BYTES_MAX / 4];
        let refused = (0..8).find_map(|_| parser.push(&piece).err());
        assert_eq!(refused, Some(LineTooLong));
    }
}
