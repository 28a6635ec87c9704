//! What differs between two definitions, for people: one line for each value, secrets hidden. Pure.

use std::collections::BTreeMap;

use crate::manifest::leaves;

/// Longest diff: what is more would not be read, and a put with many workloads must fit its answer.
const MOST_BYTES: usize = 8 * 1024;

/// Lines that begin with `-` (was) and `+` (is), by path; none if nothing differs. A value that may be a secret
/// (environment, file content) is never in it; that it changed is, and of a file's content the beginning of a digest.
pub(crate) fn diff(before: Option<&[u8]>, after: Option<&[u8]>) -> Option<String> {
    let (before, after) = (read(before), read(after));
    let mut lines = String::new();
    for path in before.keys().chain(after.keys().filter(|path| !before.contains_key(*path))) {
        let (old, new) = (before.get(path), after.get(path));
        if old == new {
            continue;
        }
        for (mark, value) in [('-', old), ('+', new)] {
            let Some((text, hidden)) = value else { continue };
            let text = hidden.as_ref().unwrap_or(text);
            lines.push_str(&format!("{mark} {path}: {text}\n"));
        }
        if lines.len() > MOST_BYTES {
            let end = (0..=MOST_BYTES).rev().find(|end| lines.is_char_boundary(*end)).unwrap_or(0);
            lines.truncate(end);
            lines.push_str("…\n");
            break;
        }
    }
    (!lines.is_empty()).then_some(lines)
}

/// Values, and what is shown in their stead, by path.
type Leaves = BTreeMap<String, (String, Option<String>)>;

fn read(definition: Option<&[u8]>) -> Leaves {
    let leaves = definition.map(leaves).unwrap_or_default();
    leaves.into_iter().map(|leaf| (leaf.path, (leaf.value, leaf.hidden))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: towline/v1\nkind: App\nmetadata: {name: web}\nspec:\n";

    fn shown(before: &str, after: &str) -> String {
        let whole = |spec: &str| format!("{HEAD}{spec}");
        diff(Some(whole(before).as_bytes()), Some(whole(after).as_bytes())).unwrap_or_default()
    }

    #[test]
    fn a_diff_can_be_read() {
        let before = "  command: [sleep, \"1\"]\n  units: 1\n  umask: \"022\"\n";
        let after = "  # a comment is no change\n  command: [sleep, \"2\"]\n  units: 3\n";
        assert_eq!(
            shown(before, after),
            "- spec.command[1]: \"1\"\n+ spec.command[1]: \"2\"\n- spec.umask: \"022\"\n- spec.units: 1\n+ spec.units: 3\n"
        );
        assert_eq!(shown(before, before), "");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let table = [
            ("  env: {TOKEN: hunter2}\n", "  env: {TOKEN: hunter3}\n"),
            ("  env: {A: b}\n", "  env: {A: b, hunter: hunter2}\n"),
            ("  files: [{path: x, content: hunter2}]\n", "  files: [{path: x, base64: aHVudGVyMg==}]\n"),
            ("  content: hunter2\n", "  base64: aHVudGVyMg==\n"),
            ("  env: [hunter2]\n", "  env: hunter3\n"),
        ];
        for (before, after) in table {
            let text = shown(before, after);
            assert!(text.contains("(hidden"), "{text}");
            assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        }
        assert_eq!(
            shown("  env: {A: x}\n", "  env: {A: y}\n"),
            "- spec.env.A: (hidden)\n+ spec.env.A: (hidden)\n"
        );
    }

    #[test]
    fn content_is_told_by_its_digest_however_it_was_written() {
        let digest: String = blake3::hash(b"hunter2").to_hex().chars().take(8).collect();
        let text = shown("  files: [{content: x}]\n", "  files: [{content: hunter2}]\n");
        assert!(text.ends_with(&format!("+ spec.files[0].content: (hidden, blake3 {digest}…)\n")), "{text}");
        let text = shown("  a: b\n", "  a: b\n  base64: |\n    aHVu\n    dGVyMg==\n");
        assert_eq!(text, format!("+ spec.base64: (hidden, blake3 {digest}…)\n"));
        assert_eq!(
            shown("  a: b\n", "  a: b\n  content: [hunter2]\n"),
            "+ spec.content[0]: (hidden, blake3 ".to_owned() + &digest + "…)\n"
        );
        assert_eq!(shown("  a: b\n", "  a: b\n  base64: \"?\"\n"), "+ spec.base64: (hidden)\n");
    }

    #[test]
    fn a_long_diff_is_cut() {
        let long = format!("  command: [\"{}\"]\n", "ä".repeat(20_000));
        assert!(shown("", &long).len() < MOST_BYTES + 10);
    }
}
