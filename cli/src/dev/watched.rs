//! The manifests that are watched: a file, a directory, or the example that ships.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use towline_agent::{manifest, runtime::RuntimeKind};

use crate::failure::Failure;
use crate::input::{Input, ReadInputError, Resource, Source, read_sources, resources};

/// What runs when nothing is named. It needs nothing but Towline itself.
const EXAMPLE: &str = include_str!("../../../examples/dev/hello.yaml");

/// What the example is called in complaints.
const EXAMPLE_NAME: &str = "the example (examples/dev/hello.yaml)";

/// The last good state of what is watched.
#[derive(Debug)]
pub(super) struct Watched {
    path: Option<PathBuf>,
    resources: Vec<Resource>,
    /// What the files looked like when they were read last.
    read: Marks,
    /// What they looked like at the last look.
    seen: Marks,
}

/// Enough of each file to notice that it was written or replaced.
type Marks = Vec<(PathBuf, u64, u64, i128)>;

impl Watched {
    /// Reads and checks it for the first time.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let marks = path.map(marks).unwrap_or_default();
        let resources = load(path)?;
        Ok(Self { path: path.map(Path::to_owned), resources, read: marks.clone(), seen: marks })
    }

    /// What is wanted.
    pub(super) fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The short name of the first app, to show what can be done with it.
    pub(super) fn first_app(&self) -> Option<&str> {
        let id =
            self.resources.iter().map(|resource| resource.id.as_str()).find(|id| id.contains("/App/"))?;
        Some(id.strip_prefix("default/App/").unwrap_or(id))
    }

    /// Looks again. `None`: nothing has changed, or it is being written this very moment. An error leaves the last good
    /// state in force, and is told once.
    pub(super) fn look_again(&mut self) -> Option<Result<(), Failure>> {
        let path = self.path.clone()?;
        let now = marks(&path);
        // A file that changes between two looks is still being written.
        let settled = now == self.seen;
        self.seen.clone_from(&now);
        if !settled || now == self.read {
            return None;
        }
        self.read = now;
        Some(load(Some(&path)).map(|resources| self.resources = resources))
    }
}

/// What the process runtime would refuse is refused here, with file, document and path.
fn load(path: Option<&Path>) -> Result<Vec<Resource>, Failure> {
    let sources = match path {
        Some(path) => read_sources(&[Input::Path(path.to_owned())])?,
        None => vec![Source { name: EXAMPLE_NAME.to_owned(), bytes: Bytes::from_static(EXAMPLE.as_bytes()) }],
    };
    let found = resources(&sources)?;
    let refused = sources
        .iter()
        .filter_map(|source| manifest::parse(RuntimeKind::Process, &source.name, &source.bytes).err());
    let complaints: Vec<String> = refused.map(|errors| errors.to_string()).collect();
    if !complaints.is_empty() {
        return Err(ReadInputError::Malformed { complaints: complaints.join("\n") }.into());
    }
    Ok(found)
}

fn marks(path: &Path) -> Marks {
    let mark = |path: PathBuf| {
        let found = path.metadata().ok()?;
        let modified_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        Some((path, found.ino(), found.size(), modified_ns))
    };
    let files: Vec<PathBuf> = match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect(),
        Err(_) => vec![path.to_owned()],
    };
    let mut marks: Marks = files.into_iter().filter_map(mark).collect();
    marks.sort();
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, spec: &str) -> String {
        format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    }

    fn ids(watched: &Watched) -> Vec<&str> {
        watched.resources().iter().map(|resource| resource.id.as_str()).collect()
    }

    #[test]
    fn the_example_is_sound() {
        let watched = Watched::open(None).unwrap();
        assert_eq!(ids(&watched), ["default/App/hello", "default/App/ticker"]);
        assert_eq!(watched.first_app(), Some("hello"));
    }

    #[test]
    fn a_change_is_read_once_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), app("a", "command: [x]")).unwrap();
        let mut watched = Watched::open(Some(dir.path())).unwrap();
        assert!(watched.look_again().is_none());
        fs::write(dir.path().join("b.yaml"), app("b", "command: [x]")).unwrap();
        assert!(watched.look_again().is_none(), "it may still be being written");
        watched.look_again().unwrap().unwrap();
        assert_eq!(ids(&watched), ["default/App/a", "default/App/b"]);
        assert!(watched.look_again().is_none());
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert!(watched.look_again().is_none());
        watched.look_again().unwrap().unwrap();
        assert_eq!(ids(&watched), ["default/App/b"]);
    }

    #[test]
    fn a_broken_file_is_told_once_and_the_last_good_state_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, app("a", "command: [x]")).unwrap();
        let mut watched = Watched::open(Some(&path)).unwrap();
        fs::write(&path, app("a", "command: [x], units: -1")).unwrap();
        assert!(watched.look_again().is_none());
        let failure = watched.look_again().unwrap().unwrap_err().render();
        assert!(failure.contains("a.yaml: document 1: spec.units: "), "{failure}");
        assert!(watched.look_again().is_none());
        assert_eq!(ids(&watched), ["default/App/a"]);
    }
}
