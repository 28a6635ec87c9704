use towline_agent::manifest::{Document, identify, parse, split};
use towline_agent::runtime::RuntimeKind;

use crate::unreadable;

/// A file that somebody wrote: cut into documents without losing a byte, and read into the same definition however often.
pub fn manifest(data: &[u8]) {
    let documents = split(data);
    nothing_is_lost(data, &documents);
    let identified = identify("fuzz", data);
    if let Err(errors) = &identified {
        assert!(errors.iter().all(|error| (1..=data.len() + 1).contains(&error.document)), "{errors}");
    }
    let Ok(manifests) = parse(RuntimeKind::Process, "fuzz", data) else { return };
    let identified = identified.unwrap_or_else(|errors| unreadable(&manifests, &errors));
    let ids = || manifests.iter().map(|manifest| (manifest.id.clone(), manifest.bytes.clone()));
    assert_eq!(identified, ids().collect::<Vec<_>>(), "identify and parse disagree");
    for manifest in &manifests {
        // The agent keeps the document, and reads it again when it starts.
        match parse(RuntimeKind::Process, "fuzz", &manifest.bytes).as_deref() {
            Ok([again]) => assert_eq!((&again.id, &again.spec), (&manifest.id, &manifest.spec)),
            Ok(others) => unreadable(manifest, &format!("{} documents", others.len())),
            Err(errors) => unreadable(manifest, errors),
        }
    }
}

/// Documents stand in order and apart, and between them is nothing but markers, marks, blanks, comments, directives.
fn nothing_is_lost(data: &[u8], documents: &[Document<'_>]) {
    let mut rest = data;
    let mut number = 0;
    for document in documents {
        assert!(document.number > number, "document {} follows {number}", document.number);
        number = document.number;
        let start = document.bytes.as_ptr().addr() - rest.as_ptr().addr();
        let between = rest.get(..start).unwrap_or_else(|| unreadable(&documents, &"they overlap"));
        assert!(is_no_content(between), "lost before document {number}: {}", between.escape_ascii());
        rest = rest.get(start + document.bytes.len()..).unwrap_or_default();
    }
    assert!(is_no_content(rest), "lost at the end: {}", rest.escape_ascii());
}

fn is_no_content(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').all(|line| {
        let unmarked = strip_mark(strip_mark(line).strip_prefix(b"---").unwrap_or(line));
        let text = strip_mark(unmarked.trim_ascii_start()).trim_ascii();
        text.is_empty() || text.starts_with(b"#") || text.starts_with(b"%") || text == b"..."
    })
}

fn strip_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}
