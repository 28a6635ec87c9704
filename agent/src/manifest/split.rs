//! Cutting a YAML stream into its documents without touching a byte of them.
//!
//! A marker is `---` at column 0 followed by white space or the end of the line: YAML forbids that inside every kind
//! of scalar, so no parser is needed to find it.

use std::ops::Range;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One document of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its number in the stream, from 1. Empty documents count, so that the number is what an editor would show.
    pub number: usize,
    /// The document, verbatim, without marker and byte order mark.
    pub bytes: &'a [u8],
}

/// The documents of `bytes` that hold anything besides white space, comments and directives, in order.
///
/// Never fails: what is no YAML at all is one document, for the parser to complain about.
pub fn split(bytes: &[u8]) -> Vec<Document<'_>> {
    pieces(bytes)
        .into_iter()
        .filter(|piece| piece.document)
        .enumerate()
        .filter_map(|(index, piece)| Some(Document { number: index + 1, bytes: bytes.get(piece.range)? }))
        .filter(|document| !is_empty(document.bytes))
        .collect()
}

/// A stretch of the input: the body of a document, or what stands between two.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) range: Range<usize>,
    pub(super) document: bool,
}

/// The whole input as adjoining pieces: nothing is lost, nothing counted twice.
pub(super) fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut offset = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let end = offset + line.len();
        if let Some(length) = marker(line) {
            // The stretch before the first marker is a document only if something stands in it.
            push_document(&mut pieces, bytes, start..offset, start == 0);
            pieces.push(Piece { range: offset..offset + length, document: false });
            start = offset + length;
        }
        offset = end;
    }
    push_document(&mut pieces, bytes, start..bytes.len(), false);
    pieces
}

fn push_document(pieces: &mut Vec<Piece>, bytes: &[u8], range: Range<usize>, preamble: bool) {
    let body = bytes.get(range.clone()).unwrap_or_default();
    let mark = if body.starts_with(BOM) { BOM.len() } else { 0 };
    if mark > 0 {
        pieces.push(Piece { range: range.start..range.start + mark, document: false });
    }
    let body = range.start + mark..range.end;
    let nothing = is_empty(bytes.get(body.clone()).unwrap_or_default());
    pieces.push(Piece { range: body, document: !(preamble && nothing) });
}

/// How much of `line` a document marker takes: all of it when nothing else stands on it.
fn marker(line: &[u8]) -> Option<usize> {
    let marked = line.strip_prefix(BOM).unwrap_or(line);
    let rest = marked.strip_prefix(b"---")?;
    match rest.first() {
        None | Some(b' ' | b'\t' | b'\r' | b'\n') => {}
        Some(_) => return None,
    }
    let blank = rest.iter().all(u8::is_ascii_whitespace);
    Some(if blank { line.len() } else { line.len() - rest.len() })
}

fn is_empty(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').map(|line| (line, line.trim_ascii())).all(|(line, trimmed)| {
        trimmed.is_empty()
            || trimmed.starts_with(b"#")
            || line.starts_with(b"%")
            || line.trim_ascii_end() == b"..."
    })
}
