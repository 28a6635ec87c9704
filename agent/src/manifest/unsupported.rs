//! Fields of SURFACE that the process runtime cannot honour. Their default is accepted; anything else is refused by
//! name, for a field that is silently ignored is worse than one that is missing.

use super::{
    fields::{Field, Fields},
    yaml::Value,
};

const NO_IMAGES: &str = "is unsupported by the process runtime, which runs programs of this host";
const DOCKER_ONLY: &str = "is unsupported by the process runtime: it concerns docker alone";

/// Asks for every such field and complains where one is set.
pub(super) fn check(fields: &mut Fields<'_>, in_bundle: bool) {
    unset(&fields.get("image"), NO_IMAGES);
    unset(&fields.get("host"), DOCKER_ONLY);
    empty_list(
        &fields.get("mounts"),
        "is unsupported by the process runtime, which shares the host's file system",
    );
    depends_on(fields, in_bundle);
    docker(fields.get("docker").fields());
}

/// What it names is checked with the whole bundle.
pub(super) fn depends_on(fields: &mut Fields<'_>, in_bundle: bool) {
    let depends_on = fields.get("dependsOn");
    if in_bundle {
        depends_on.texts();
    } else {
        empty_list(&depends_on, "is unsupported outside a bundle: it names resources of the same bundle");
    }
}

pub(super) fn refuse(field: &Field<'_>, why: &str) {
    field.refuse(format!("found a value, but this field {why}; remove it"));
}

fn unset(field: &Field<'_>, why: &str) {
    if field.value().is_some() {
        refuse(field, why);
    }
}

fn empty_list(field: &Field<'_>, why: &str) {
    if !field.items().is_empty() {
        refuse(field, why);
    }
}

fn docker(mut fields: Fields<'_>) {
    let defaults = [
        ("pullPolicy", Some(Value::String("IfNotPresent".to_owned()))),
        ("networkMode", Some(Value::String("bridge".to_owned()))),
        ("privileged", Some(Value::Bool(false))),
        ("pidMode", None),
        ("ipcMode", None),
    ];
    for (name, default) in defaults {
        let field = fields.get(name);
        if field.value().is_some() && field.value() != default.as_ref() {
            refuse(&field, DOCKER_ONLY);
        }
    }
    fields.finish();
}
