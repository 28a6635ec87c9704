//! What a running `towline dev` tells the commands in other terminals: where its hub is, and where the token.
//!
//! One small file for each process in a place of this user's own, for their eyes alone. It is removed at the end; one
//! whose process has gone is ignored, and tells the next `towline dev` what that process left behind.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use towline_protocol::InstanceId;

/// How to reach a `towline dev` that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    /// The address of its hub.
    pub(crate) hub: String,
    /// Where its token is.
    pub(crate) token_file: PathBuf,
    /// The instance that it serves.
    pub(crate) instance: InstanceId,
    /// Its data directory, if that was to be removed at the end.
    #[serde(default)]
    pub(crate) scratch: Option<PathBuf>,
    /// Its process: pids are used again, so the start time belongs to it.
    pid: u32,
    /// In clock ticks since boot.
    start_time: u64,
}

/// Where such files may be, for this user: `$XDG_RUNTIME_DIR`, else the state directory. The first is written to; all
/// are read, for terminals differ in what they set.
pub(crate) fn places() -> Vec<PathBuf> {
    places_in(|name| std::env::var_os(name))
}

fn places_in(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    // The XDG specification has relative paths ignored.
    let dir = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = dir("XDG_STATE_HOME").or_else(|| Some(dir("HOME")?.join(".local/state")));
    [dir("XDG_RUNTIME_DIR").filter(|path| path.is_dir()), state]
        .into_iter()
        .flatten()
        .map(|path| path.join("towline"))
        .collect()
}

impl Context {
    /// The context of this very process.
    pub(crate) fn of_this_process(hub: impl Into<String>, token_file: PathBuf, instance: InstanceId) -> Self {
        let pid = std::process::id();
        let start_time = start_time(pid).unwrap_or(0);
        Self { hub: hub.into(), token_file, instance, scratch: None, pid, start_time }
    }

    /// Notes a directory that is removed at the end.
    #[must_use]
    pub(crate) fn with_scratch(self, scratch: Option<PathBuf>) -> Self {
        Self { scratch, ..self }
    }

    /// The newest one whose process lives.
    pub(crate) fn find(places: &[PathBuf]) -> Option<Self> {
        let living = all(places).into_iter().map(|(_, context)| context).filter(Self::lives);
        living.max_by_key(|context| context.start_time)
    }

    /// Those whose process has gone without taking them back, and their files.
    pub(crate) fn orphans(places: &[PathBuf]) -> Vec<(PathBuf, Self)> {
        all(places).into_iter().filter(|(_, context)| !context.lives()).collect()
    }

    fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Makes this context known until the value is dropped.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(crate) fn publish(&self, place: &Path) -> io::Result<Published> {
        DirBuilder::new().recursive(true).mode(0o700).create(place)?;
        let path = place.join(format!("dev-{}.json", self.pid));
        let draft = path.with_extension("new");
        let published = Published { path: path.clone(), draft: draft.clone() };
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        fs::rename(&draft, &path)?;
        Ok(published)
    }
}

/// A context that others can see. Dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
    draft: PathBuf,
}

impl Drop for Published {
    fn drop(&mut self) {
        // What is not there need not be removed; a directory with other files in it stays.
        let _ = fs::remove_file(&self.draft);
        let _ = fs::remove_file(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

fn all(places: &[PathBuf]) -> Vec<(PathBuf, Context)> {
    let read = |path: PathBuf| {
        let context = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some((path, context))
    };
    places.iter().flat_map(|place| files(place)).filter_map(read).collect()
}

fn files(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("dev-") && name.ends_with(".json")
    };
    entries.flatten().map(|entry| entry.path()).filter(is_ours).collect()
}

/// When the process began, if it lives.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so fields count from the last one.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn context() -> Context {
        Context::of_this_process("http://127.0.0.1:1", "/t/token".into(), "default/local".parse().unwrap())
    }

    #[test]
    fn a_context_is_found_while_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("towline");
        let places = [dir.path().join("nowhere"), place.clone()];
        assert_eq!(Context::find(&places), None);
        let published = context().publish(&place).unwrap();
        assert_eq!(Context::find(&places), Some(context()));
        let modes =
            [&place, &published.path].map(|path| path.metadata().unwrap().permissions().mode() & 0o777);
        assert_eq!(modes, [0o700, 0o600]);
        drop(published);
        assert_eq!(Context::find(&places), None);
        assert!(!place.exists(), "nothing is left");
    }

    #[test]
    fn the_context_of_a_process_that_has_gone_is_an_orphan() {
        let dir = tempfile::tempdir().unwrap();
        let stale = Context { start_time: 1, ..context() };
        let path = dir.path().join("dev-1.json");
        fs::write(&path, serde_json::to_vec(&stale).unwrap()).unwrap();
        fs::write(dir.path().join("dev-2.json"), "not a context").unwrap();
        let places = [dir.path().to_owned()];
        assert_eq!(Context::find(&places), None);
        let _published = context().publish(dir.path()).unwrap();
        assert_eq!(Context::find(&places), Some(context()));
        assert_eq!(Context::orphans(&places), [(path, stale)]);
    }

    #[test]
    fn the_place_is_this_users_own() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().display().to_string();
        let places = |set: &[(&str, &str)]| {
            places_in(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        let state = PathBuf::from("/h/.local/state/towline");
        assert_eq!(places(&[("HOME", "/h")]), std::slice::from_ref(&state));
        assert_eq!(
            places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", &runtime)]),
            [dir.path().join("towline"), state.clone()]
        );
        assert_eq!(places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/does/not/exist")]), [state]);
        assert_eq!(places(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), [PathBuf::from("/s/towline")]);
        assert_eq!(places(&[("XDG_STATE_HOME", "relative")]), Vec::<PathBuf>::new());
    }
}
