use towline_protocol::subject::Root;

/// The subject of a message from the bus: one that is ours has one spelling.
pub fn subject(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let root = Root::default();
    match root.parse(text) {
        Ok(subject) => assert_eq!(root.subject(&subject), text),
        Err(error) => assert!(!error.reason.is_empty(), "{text:?} is refused without a word"),
    }
}
