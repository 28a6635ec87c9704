//! Where units run, and what differs there: how the agent is started, how an app is spelled, and how what is there is found.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::journal;

/// A runtime of the machine. Units on it have processes that are seen from here.
pub(crate) trait Place: Send + Sync {
    /// What the agent is told of it.
    fn options(&self) -> Vec<OsString>;

    /// Lines of `spec` that every app needs whose units are to write to `dir`.
    fn lines(&self, dir: &Path) -> String;

    /// Units of an instance that run, by what the runtime says.
    fn running(&self, instance: &str) -> BTreeSet<String>;

    /// All that is there of an instance besides what runs: units that have ended, and helpers.
    fn idle(&self, instance: &str, data: &Path) -> BTreeSet<String>;

    /// What tells each run of an app's units from every other.
    fn runs(&self, instance: &str, app: &str) -> BTreeSet<String>;

    /// Ends what a test that failed leaves.
    fn clear(&self, instance: &str);
}

/// Processes of this host.
pub(crate) struct Processes;

impl Place for Processes {
    fn options(&self) -> Vec<OsString> {
        Vec::new()
    }

    fn lines(&self, _: &Path) -> String {
        String::new()
    }

    fn running(&self, instance: &str) -> BTreeSet<String> {
        journal::running(instance)
    }

    fn idle(&self, instance: &str, data: &Path) -> BTreeSet<String> {
        let units: PathBuf = data.join("units");
        let entries = fs::read_dir(units).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let running = journal::running(instance);
        names.filter(|name| !running.contains(name)).collect()
    }

    fn runs(&self, _: &str, _: &str) -> BTreeSet<String> {
        // The journal knows the pid of each.
        BTreeSet::new()
    }

    fn clear(&self, instance: &str) {
        journal::kill_all(instance);
    }
}
