use towline_agent::doors;

/// The answer of a unit that is asked how it is: a status is a number of three digits that stands in its first line.
pub fn http_status(data: &[u8]) {
    let Some(status) = doors::http_status(data) else { return };
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    assert!(line.trim_start().starts_with("HTTP/"), "{line:?} is no HTTP");
    assert!(line.contains(&format!("{status:03}")), "{status} of {line:?}");
}
