//! What tells units that must be replaced from those that may stay. Pure.
//!
//! A generation is a digest of all that shapes a unit. The number of units, labels and the way of replacing them do not; nor
//! do files where the app says `restartOnConfigChange: false`, for those are written under units that run on.

use std::collections::BTreeSet;

use super::entry::Entry;
use crate::manifest::{AppSpec, Drift, FileSpec, Manifest, Strategy, StrategyType};

/// Characters of a generation: 64 bits, which is plenty to tell the few generations of one app apart.
const CHARS: usize = 16;

/// Of a definition that follows none.
pub(super) fn of(manifest: &Manifest) -> String {
    let spec = &manifest.spec;
    let mut shape = shape(spec);
    shape.files.clone_from(&spec.files);
    if !spec.restart_on_config_change {
        shape.files = in_place(spec);
    }
    // Maps in it are sorted, so equal shapes have equal text.
    let text = serde_json::to_vec(&shape).expect("a specification holds only text, numbers and lists");
    short(blake3::hash(&text))
}

/// Of a definition with `digest` that follows another: the same, unless units must be replaced.
pub(super) fn following(manifest: &Manifest, digest: &str, before: &Entry) -> String {
    let fresh = of(manifest);
    let Ok(old) = &before.manifest else { return fresh };
    let generation = &before.resource.facts.generation;
    if shape(&old.spec) != shape(&manifest.spec) {
        return fresh;
    }
    if keeps_units(&old.spec, &manifest.spec) {
        return generation.clone();
    }
    if fresh != *generation {
        return fresh;
    }
    // The files are those that its units were started with, but not those that they had last.
    short(blake3::hash(format!("{fresh} {digest}").as_bytes()))
}

/// Whether units that differ in nothing but files may stay.
fn keeps_units(old: &AppSpec, new: &AppSpec) -> bool {
    old.files == new.files
        || (!new.restart_on_config_change && (new.container.is_none() || !loses_a_file(old, new)))
}

/// An engine puts files into a container and takes none out: one that is to go goes with the container.
fn loses_a_file(old: &AppSpec, new: &AppSpec) -> bool {
    let kept: BTreeSet<_> = new.files.iter().map(|file| &file.path).collect();
    old.files.iter().any(|file| !kept.contains(&file.path))
}

/// What of the files shapes units although they are written in place: in a container, their paths.
fn in_place(spec: &AppSpec) -> Vec<FileSpec> {
    if spec.container.is_none() {
        return Vec::new();
    }
    let paths: BTreeSet<_> = spec.files.iter().map(|file| file.path.clone()).collect();
    let bare = |path| FileSpec { path, content: Vec::new(), mode: 0, owner: None, group: None };
    paths.into_iter().map(bare).collect()
}

/// All that shapes a unit but its files.
fn shape(spec: &AppSpec) -> AppSpec {
    let mut shape = AppSpec {
        units: 0,
        strategy: Strategy { kind: StrategyType::Rolling, max_unavailable: 0, max_surge: 0 },
        drift: Drift::Repair,
        restart_on_config_change: true,
        files: Vec::new(),
        ..spec.clone()
    };
    // Where older agents had it.
    if let Some(container) = &mut shape.container {
        container.health = shape.health.take();
    }
    shape
}

fn short(digest: blake3::Hash) -> String {
    digest.to_hex().chars().take(CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{manifest, runtime::RuntimeKind};

    fn read(runtime: RuntimeKind, more: &str) -> Manifest {
        let image = if runtime == RuntimeKind::Docker { "  image: busybox\n" } else { "" };
        let text = format!(
            "apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{image}  command: [sleep, \"1\"]\n{more}"
        );
        manifest::parse(runtime, "test", text.as_bytes()).unwrap().remove(0)
    }

    fn files(files: &str) -> String {
        format!("  files: [{files}]\n")
    }

    /// Which of the definitions, each following the one before, have the units of the first replaced.
    fn replaced(runtime: RuntimeKind, definitions: &[String]) -> Vec<bool> {
        let mut before: Option<Entry> = None;
        let mut changes = Vec::new();
        for definition in definitions {
            let entry = Entry::define(read(runtime, definition), before.as_ref(), 1);
            let generation = |entry: &Entry| entry.resource.facts.generation.clone();
            changes.extend(before.map(|before| generation(&before) != generation(&entry)));
            before = Some(entry);
        }
        changes
    }

    #[test]
    fn health_counts_where_older_agents_had_it() {
        let check = "  health: {exec: {command: [/bin/true]}}\n";
        let text = serde_json::to_string(&shape(&read(RuntimeKind::Docker, check).spec)).unwrap();
        let old = r#""mounts":[],"health":{"command":["/bin/true"],"interval":"10s","timeout":"5s","retries":3,"start_period":"0s"},"pull_policy""#;
        assert!(text.contains(old) && text.matches("health").count() == 1, "{text}");
        let of_process = |more| of(&read(RuntimeKind::Process, more));
        assert_ne!(of_process(""), of_process(check));
        assert_ne!(of_process(""), of_process("  hooks: {preStop: [/bin/true]}\n"));
    }

    #[test]
    fn units_that_older_agents_started_stay() {
        // As they computed it: no field has come since that is written where it is not declared.
        let text = r#"{"command":["sleep","1"],"args":[],"env":{},"working_dir":null,"user":null,"umask":18,"units":0,"restart":{"condition":"always","delay":"1s","max_delay":"1m","attempts":0},"stop":{"signal":"SIGTERM","grace_period":"10s"},"ports":[],"files":[{"path":"a","content":[98],"mode":384,"owner":null,"group":null}],"logs":{"max_size":"10Mi","max_files":3},"strategy":{"kind":"Rolling","max_unavailable":0,"max_surge":0},"drift":"Repair"}"#;
        let manifest = read(RuntimeKind::Process, &files("{path: a, content: b}"));
        assert_eq!(of(&manifest), short(blake3::hash(text.as_bytes())));
        let plain = of(&read(RuntimeKind::Process, ""));
        assert_eq!(plain, of(&read(RuntimeKind::Process, "  restartOnConfigChange: false\n  units: 3\n")));
    }

    #[test]
    fn f_d10_files_alone_replace_units_only_where_that_is_wanted() {
        let stays = |file: &str| format!("{}  restartOnConfigChange: false\n", files(file));
        for runtime in [RuntimeKind::Process, RuntimeKind::Docker] {
            let one = files("{path: a, content: one}");
            let two = files("{path: a, content: two}");
            assert_eq!(replaced(runtime, &[one.clone(), two.clone(), one.clone()]), [true, true]);
            let other_mode = files("{path: a, content: one, mode: \"0644\"}");
            assert_eq!(replaced(runtime, &[one.clone(), other_mode]), [true]);
            let wished = [one.clone(), stays("{path: a, content: two}"), stays("{path: a, content: three}")];
            assert_eq!(replaced(runtime, &wished), [false, false], "also with the very change that says so");
            let more = [stays(""), stays("{path: a, content: one}")];
            assert_eq!(replaced(runtime, &more), [false]);
            let flag_alone =
                [stays("{path: a, content: one}"), one.clone(), stays("{path: a, content: one}")];
            assert_eq!(replaced(runtime, &flag_alone), [false, false]);
            // Started with `one`, told of `two`: it has read neither anew.
            assert_eq!(
                replaced(runtime, &[one.clone(), stays("{path: a, content: two}"), one]),
                [false, true]
            );
            let other = format!("{}  env: {{A: b}}\n", stays("{path: a, content: one}"));
            assert_eq!(replaced(runtime, &[stays("{path: a, content: one}"), other]), [true]);
        }
    }

    #[test]
    fn f_d16_a_file_that_goes_takes_its_container_along_and_no_process() {
        let stays = |file: &str| format!("{}  restartOnConfigChange: false\n", files(file));
        let steps = [
            stays("{path: a, content: one}"),
            stays("{path: a, content: one}, {path: b, content: one}"),
            stays("{path: a, content: one}"),
            stays("{path: a, content: two}"),
        ];
        assert_eq!(replaced(RuntimeKind::Process, &steps), [false, false, false]);
        assert_eq!(replaced(RuntimeKind::Docker, &steps), [false, true, false]);
    }
}
