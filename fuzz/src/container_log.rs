use towline_agent::doors;

/// Bytes from which on a hook's line is cut.
const LINE_MAX: usize = 16 << 10;

/// What a container and a hook write. An engine puts a time before a container's line, and the rest is told as it is; a hook's
/// lines are the same however its output is cut into pieces.
pub fn container_log(data: &[u8]) {
    if let Some(line) = doors::container_line(data) {
        let told = if line.partial { line.text } else { line.text + "\n" };
        let written = String::from_utf8_lossy(data);
        assert_eq!(written.split_once(' ').map(|(_, text)| text), Some(told.as_str()));
    }
    let Some((&size, output)) = data.split_first() else { return };
    if output.len() >= LINE_MAX {
        return;
    }
    let lines = doors::hook_lines(output.chunks(usize::from(size) + 1));
    let mut told: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
    if !output.is_empty() && !output.ends_with(b"\n") {
        told.pop();
    }
    assert_eq!(told, String::from_utf8_lossy(output), "in pieces of {}", usize::from(size) + 1);
}
