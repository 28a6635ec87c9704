use towline_agent::doors;

use crate::unreadable;

/// What a process with a unit's rights says of a file, which the unit may meddle with: it is written so that it is read again, and
/// has the bytes that it announces.
pub fn file_answer(data: &[u8]) {
    let Some(written) = doors::file_answer(data) else { return };
    match doors::file_answer(&written) {
        Some(again) => assert_eq!(again, written),
        None => unreadable(&String::from_utf8_lossy(&written), &"it is not whole"),
    }
}
