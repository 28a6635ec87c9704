//! Readers of this module for the fuzzer: nothing else may reach them from outside.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Duration,
};

use bollard::{
    container::LogOutput,
    models::{ContainerInspectResponse, ContainerSummary},
};
use bytes::Bytes;
use jiff::Timestamp;

use super::{archive, files::Names, hooks, host::Unclear, labels, logs, mark, registry::RegistryAuth, view};
use crate::{
    runtime::{FileStat, UnitStatus},
    shim::{LogLine, LogStream},
};

/// Whose containers and marks are read.
pub const INSTANCE: &str = "acme/site";

/// The first entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What its header says.
    pub stat: FileStat,
    /// Where it leads, if it is a link.
    pub link: Option<PathBuf>,
    /// What is in it, if it is a file that is whole and not too large.
    pub content: Option<Vec<u8>>,
}

/// Reads the first entry of an archive, with content of at most `most` bytes.
///
/// # Errors
/// What is wrong with it.
pub fn archive(bytes: &[u8], most: usize) -> Result<Entry, String> {
    let found = archive::first(bytes, most).map_err(|error| error.to_string())?;
    Ok(Entry { stat: found.stat, link: found.link, content: found.content })
}

/// Whether no more than `bytes` would be read of an archive whose first entry is wanted, with content of at most `most` bytes.
#[must_use]
pub fn is_enough_of_archive(bytes: &[u8], most: usize) -> bool {
    archive::is_enough(bytes, most)
}

/// A container that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// It, as a unit.
    pub unit: UnitStatus,
    /// How long it is given to end.
    pub grace: Duration,
    /// Its labels, as they would be written again.
    pub labels: BTreeMap<String, String>,
}

/// Reads what an engine says of one container; none when it is none of ours.
#[must_use]
pub fn container(json: &[u8]) -> Option<Container> {
    let found: ContainerInspectResponse = serde_json::from_slice(json).ok()?;
    let seen = view::unit(&found, view::mark_to_be(&found), INSTANCE, Timestamp::UNIX_EPOCH)?;
    let labels = rewritten(found.config.as_ref()?.labels.as_ref()?)?;
    Some(Container { unit: seen.status, grace: seen.grace, labels })
}

/// Reads what an engine says of a container in a list; none when it is none of ours.
#[must_use]
pub fn listed_container(json: &[u8]) -> Option<Container> {
    let found: ContainerSummary = serde_json::from_slice(json).ok()?;
    // Computed of foreign ones, too.
    let _changes = view::mark(&found);
    let unclear = Unclear { runtime: String::new(), reason: String::new() };
    let seen = view::unseen(&found, INSTANCE, unclear, Timestamp::UNIX_EPOCH)?;
    Some(Container { unit: seen.status, grace: seen.grace, labels: rewritten(found.labels.as_ref()?)? })
}

/// Reads the labels of a container and writes them again; none of what is not ours.
fn rewritten(labels: &HashMap<String, String>) -> Option<BTreeMap<String, String>> {
    Some(labels::Label::read(labels, INSTANCE)?.write(INSTANCE).into_iter().collect())
}

/// As [`Container::labels`].
#[must_use]
pub fn container_labels(labels: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    rewritten(&labels.clone().into_iter().collect())
}

/// Reads the labels of a mark on an engine and writes them again; none of what is no mark.
#[must_use]
pub fn engine_mark(labels: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    Some(mark::Entry::read(&labels.into_iter().collect(), INSTANCE)?.write(INSTANCE).into_iter().collect())
}

/// Reads a line of a container's log, as the engine has it: a time, a space, and what was written.
#[must_use]
pub fn container_line(bytes: &[u8]) -> Option<LogLine> {
    logs::line(LogOutput::StdOut { message: Bytes::copy_from_slice(bytes) })
}

/// Cuts what a hook writes, which comes in pieces, into lines.
pub fn hook_lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<LogLine> {
    let mut cutter = hooks::Cutter::default();
    let mut lines = Vec::new();
    for piece in pieces {
        lines.extend(cutter.push(LogStream::Stdout, piece));
    }
    lines.extend(cutter.finish());
    lines
}

/// The numbers of a user and a group by `/etc/passwd` and `/etc/group` of an image; none if it does not know them.
#[must_use]
pub fn ids_of_image(user: &str, group: &str, passwd: &str, groups: &str) -> Option<(u64, u64)> {
    let names = Names { users: passwd.to_owned(), groups: groups.to_owned() };
    names.ids(user, group, str::to_owned).ok()
}

/// A registry that there are credentials for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// As images name it.
    pub name: String,
    /// Whether something is found for its images, or why that cannot be sent.
    pub found: Result<bool, String>,
}

/// Reads the file that `docker login` writes.
///
/// # Errors
/// What is wrong with it.
pub fn registries(text: &[u8]) -> Result<Vec<Registry>, String> {
    let auth = RegistryAuth::parse(text)?;
    let of_image = |name: &str| auth.of_image(&format!("{name}/image")).map(|found| found.is_some());
    let registry = |name: &str| Registry { name: name.to_owned(), found: of_image(name) };
    Ok(auth.registries().map(registry).collect())
}
