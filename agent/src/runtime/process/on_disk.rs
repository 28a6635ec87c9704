//! A unit's directory without a runtime over it, for whoever clears away what no agent will find again.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::{error::RuntimeError, files, remove_all, unit::UnitRecord};
use crate::shim::ShimSpec;

/// What a unit's directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitOnDisk {
    /// The instance, where that can be read.
    pub(crate) instance: Option<String>,
    /// Files elsewhere that were written for it.
    pub(crate) files: Vec<PathBuf>,
}

impl UnitOnDisk {
    /// Reads the label in `dir`.
    ///
    /// # Errors
    /// That there is none, or that it is another unit's: then the directory is not known to be ours.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let record = UnitRecord::read(dir)?;
        if dir.file_name().is_none_or(|name| name.to_str() != Some(record.unit.as_str())) {
            return Err(io::Error::other("it bears another unit's label"));
        }
        let instance = ShimSpec::read(dir).ok().map(|spec| spec.instance);
        Ok(Self { instance, files: record.files })
    }

    /// Removes the directory, and the files elsewhere that were written for it unless they are also `others`'. Waits for the disk.
    ///
    /// # Errors
    /// As [`UnitOnDisk::read`], or what cannot be removed.
    pub(crate) fn remove(dir: &Path, others: &BTreeSet<PathBuf>) -> Result<(), RuntimeError> {
        let failed = |source| RuntimeError::io(format!("cannot remove {}", dir.display()), source);
        let unit = Self::read(dir).map_err(failed)?;
        for path in unit.files.iter().filter(|path| !others.contains(*path)) {
            files::remove_one(path, dir)?;
        }
        if let Ok(spec) = ShimSpec::read(dir) {
            spec.bounds.remove();
        }
        remove_all(dir).map_err(failed)
    }
}
