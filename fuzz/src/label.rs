use towline_agent::doors;

use crate::unreadable;

/// The label of a path: one of another version, or cut by a full disk, may lie there; what was read is written so that it
/// is read again.
pub fn label(data: &[u8]) {
    let Some(written) = doors::label(data) else { return };
    match doors::label(&written) {
        Some(again) => assert_eq!(again, written),
        None => unreadable(&String::from_utf8_lossy(&written), &"it is no label"),
    }
}
