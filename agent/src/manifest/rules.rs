//! Rules that a well-formed app may still break, all of them checked.

use std::{
    collections::BTreeSet,
    path::{Component, Path},
};

use super::{app::AppSpec, fields::Complaints};

/// Checks `app`; each broken rule becomes a complaint.
pub(super) fn check(app: &AppSpec, complaints: &Complaints) {
    environment(app, complaints);
    ports(app, complaints);
    files(app, complaints);
    if let Some(dir) = &app.working_dir
        && !dir.is_absolute()
    {
        complaints.add("spec.workingDir", format!("found {dir:?}, allowed is an absolute path"));
    }
    if let Some(user) = &app.user {
        let parts: Vec<&str> = user.split(':').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            complaints.add(
                "spec.user",
                format!("found {user:?}, allowed is user or user:group, by name or number"),
            );
        }
    }
}

fn environment(app: &AppSpec, complaints: &Complaints) {
    for name in app.env.keys() {
        let path = format!("spec.env.{name}");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if name.is_empty()
            || !name.bytes().all(plain)
            || name.as_bytes().first().is_some_and(u8::is_ascii_digit)
        {
            complaints
                .add(path, "found a bad name, allowed are letters, digits, `_`, `.` and `-`, no digit first");
        } else if name.starts_with("TOWLINE_") {
            complaints.add(path, "found a reserved name, allowed is any that does not begin with TOWLINE_");
        } else if app.ports.iter().any(|port| port_variable(port.name.as_str()) == *name) {
            complaints.add(
                path,
                "found the variable of a declared port, which Towline sets itself; rename one of them",
            );
        }
    }
}

fn ports(app: &AppSpec, complaints: &Complaints) {
    let mut names = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for (index, port) in app.ports.iter().enumerate() {
        if !names.insert(&port.name) {
            complaints.add(
                format!("spec.ports[{index}].name"),
                format!("found {:?} again, allowed is each name once", port.name.as_str()),
            );
        }
        let path = format!("spec.ports[{index}].hostPort");
        let fixed = port.host_port != 0;
        if fixed && app.units > 1 {
            let text = format!(
                "found {} with {} units, allowed is 0 (any free port) or a single unit",
                port.host_port, app.units
            );
            complaints.add(path.clone(), text);
        }
        if fixed && !taken.insert((port.protocol, port.address, port.host_port)) {
            complaints.add(
                path,
                format!("found {} again, allowed is each port of an address once", port.host_port),
            );
        }
    }
}

fn files(app: &AppSpec, complaints: &Complaints) {
    let mut paths = BTreeSet::new();
    for (index, file) in app.files.iter().enumerate() {
        let path = format!("spec.files[{index}].path");
        let shown = file.path.display();
        if !is_plain(&file.path) {
            complaints
                .add(path, format!("found {shown}, allowed is a path to a file, without . and .. in it"));
        } else if !paths.insert(&file.path) {
            complaints.add(path, format!("found {shown} again, allowed is each file once"));
        }
    }
}

pub(super) fn is_plain(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    !text.is_empty()
        && !text.ends_with(b"/")
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// The environment variable that tells a unit the port named `name`.
pub(crate) fn port_variable(name: &str) -> String {
    format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"))
}
