//! Readers of foreign bytes for the fuzzer: nothing else may reach them from outside.

use std::path::Path;

pub use crate::engine::doors::{Member, bundle, label};
pub use crate::runtime::docker::doors::{
    Container, Entry, INSTANCE, Registry, archive, container, container_labels, container_line, engine_mark,
    hook_lines, ids_of_image, is_enough_of_archive, listed_container, registries,
};
pub use crate::shim::reread_command as shim_command;
use crate::{
    config::FileConfig, health::http_status as status_in, mark::reread, proc::read_stat, runtime::process,
    shim::FileAnswer,
};

/// Reads a mark and writes it again: as it stands, and as the next agent leaves it that raises it by one epoch; none when it is no
/// mark. The second is empty when there is no higher epoch.
#[must_use]
pub fn mark(text: &[u8]) -> Option<[Vec<u8>; 2]> {
    reread(text)
}

/// Reads a configuration file; `socket` is the engine of hosts that name none.
///
/// # Errors
/// Everything that is wrong with it, as it is shown.
pub fn config(text: &[u8], socket: &Path) -> Result<FileConfig, String> {
    FileConfig::of(Path::new("agent.yaml"), text, socket).map_err(|errors| errors.to_string())
}

/// The numbers of a `user[:group]` by `/etc/passwd` and `/etc/group` of this host; none if it does not know them.
#[must_use]
pub fn ids_of_host(user: &str, passwd: &str, groups: &str) -> Option<(u32, u32)> {
    process::ids(user, passwd, groups)
}

/// What the system says of a process: its parent, its start, whether it has ended, and whether it is stopped.
#[must_use]
pub fn process_stat(text: &[u8]) -> Option<(i32, u64, bool, bool)> {
    let found = read_stat(rustix::process::Pid::INIT, text)?;
    Some((found.parent, found.start_time, found.zombie, found.stopped))
}

/// The status in the answer of a unit that is looked at.
#[must_use]
pub fn http_status(answer: &[u8]) -> Option<u16> {
    status_in(answer)
}

/// Reads what a process with a unit's rights says of a file, and writes it again; none when it is not whole.
#[must_use]
pub fn file_answer(told: &[u8]) -> Option<Vec<u8>> {
    let (answer, content) = FileAnswer::hear(told).ok()?;
    let mut written = Vec::new();
    answer.tell(&content, &mut written).ok()?;
    Some(written)
}
