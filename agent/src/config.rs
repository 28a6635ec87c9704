//! The agent's configuration file (`--config`): which hosts have engines, and how they are reached.
//!
//! Read as strictly as a manifest: everything that is wrong is said at once, each with file and field; unknown fields are
//! refused. What a host does not say, `docker.defaults` says for it (see `config/hosts.rs`).

mod hosts;
mod parts;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    manifest::{Complaint, read_strictly},
    runtime::docker::HostConfig,
};

/// What a configuration file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileConfig {
    /// Hosts with engines, by name; none where the file names none.
    pub hosts: Vec<HostConfig>,
}

impl FileConfig {
    /// Reads `file`, and looks for the files that it names. A host that says nothing else is reached through `socket`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(file: &Path, socket: &Path) -> Result<Self, ConfigErrors> {
        let failed = |complaints| ConfigErrors { file: file.to_owned(), complaints };
        let text = std::fs::read(file).map_err(|error| {
            failed(vec![Complaint::new("", format!("cannot be read: {error}; name another with --config"))])
        })?;
        let config = Self::of(file, &text, socket)?;
        let missing: Vec<Complaint> = config.hosts.iter().flat_map(parts::missing).collect();
        if missing.is_empty() { Ok(config) } else { Err(failed(missing)) }
    }

    /// Reads the text of `file`.
    pub(crate) fn of(file: &Path, text: &[u8], socket: &Path) -> Result<Self, ConfigErrors> {
        Self::parse(text, socket).map_err(|complaints| ConfigErrors { file: file.to_owned(), complaints })
    }

    fn parse(text: &[u8], socket: &Path) -> Result<Self, Vec<Complaint>> {
        read_strictly(text, |root| {
            let mut fields = root.fields();
            let hosts = hosts::read(&fields.get("docker"), socket);
            fields.finish();
            Self { hosts }
        })
    }
}

/// Everything that is wrong with a configuration file; one line each when shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: PathBuf,
    complaints: Vec<Complaint>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.complaints.iter().enumerate() {
            let line_end = if index > 0 { "\n" } else { "" };
            write!(f, "{line_end}{}: ", self.file.display())?;
            if !complaint.path.is_empty() {
                write!(f, "{}: ", complaint.path)?;
            }
            f.write_str(&complaint.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
