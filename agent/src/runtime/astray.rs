//! Files of units that are not as their app declares them.

use std::{fmt, path::PathBuf};

/// A file of a unit that is not as its app declares it. Never says what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Astray {
    /// The unit.
    pub unit: String,
    /// Where the file is: on the host, or within the container.
    pub path: PathBuf,
    /// In which way it differs.
    pub how: How,
}

/// In which way a file is not as declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It is not there.
    Gone,
    /// Something else has its place: a directory, a link.
    NoFile,
    /// It holds something else.
    Content,
    /// It has other permission bits.
    Mode,
    /// It belongs to another user or group.
    Owner,
    /// It was written for the unit, and is not declared any more.
    Undeclared,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "is gone",
            Self::NoFile => "is not a file",
            Self::Content => "has other content",
            Self::Mode => "has another mode",
            Self::Owner => "has another owner",
            Self::Undeclared => "is not declared any more",
        })
    }
}

impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.path.display(), self.unit, self.how)
    }
}
