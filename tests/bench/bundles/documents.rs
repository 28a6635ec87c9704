//! What is put.

use std::path::Path;

/// An app without units: all of a workload but its processes. `edition` makes one of the same name another one.
pub(super) fn idle_app(name: &str, edition: usize) -> String {
    app(name, &format!("  units: 0\n  command: [sleep, \"1000\"]\n  env: {{EDITION: \"{edition}\"}}\n"))
}

/// An app of one unit that runs on.
pub(super) fn sleeper(name: &str, edition: usize) -> String {
    app(name, &format!("  command: [sleep, \"1000\"]\n  env: {{EDITION: \"{edition}\"}}\n"))
}

/// An app of several units that run on.
pub(super) fn sleepers(name: &str, units: usize) -> String {
    app(name, &format!("  units: {units}\n  command: [sleep, \"1000\"]\n"))
}

/// A file of a few bytes.
pub(super) fn file(name: &str, folder: &Path) -> String {
    let path = folder.join(name);
    let spec = format!("  path: {}\n  content: of {name}\n", path.display());
    document("File", name, &spec)
}

fn app(name: &str, spec: &str) -> String {
    document("App", name, spec)
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: towline/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}
