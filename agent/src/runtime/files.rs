//! Files of units: what is told of one, and what is asked of one that is put there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest file that is read or copied: 16 MiB. It is held in memory as a whole, a few times over on its way, and an
/// agent has 25 MiB for itself; what is larger is not configuration.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it all")]
pub enum FileKind {
    File,
    Directory,
    Link,
    /// A device, a socket, a pipe.
    Other,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Link => "a link",
            Self::Other => "a device, a socket or a pipe",
        })
    }
}

/// What there is to know of a file besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// What it is. A link is told as such, not what it leads to.
    pub kind: FileKind,
    /// Its permission bits: at most `0o7777`.
    pub mode: u32,
    /// Bytes, of a file; of others the number means nothing.
    pub size: u64,
    /// Its owner, as the unit sees it.
    pub uid: u32,
    /// Its group, as the unit sees it.
    pub gid: u32,
}

/// How a file is left that is copied into a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileAccess {
    /// Its permission bits: at most `0o7777`.
    pub mode: u32,
    /// Its owner, by name or number; the unit's user if none.
    pub owner: Option<String>,
    /// Its group, by name or number; the unit's group if none.
    pub group: Option<String>,
}
