use towline_agent::doors;

use crate::unreadable;

/// A line on a shim's socket: a command is written so that it is read again.
pub fn shim_command(data: &[u8]) {
    let Ok(line) = std::str::from_utf8(data) else { return };
    let Some(written) = doors::shim_command(line) else { return };
    match doors::shim_command(&written) {
        Some(again) => assert_eq!(again, written),
        None => unreadable(&written, &"it is no command"),
    }
}
