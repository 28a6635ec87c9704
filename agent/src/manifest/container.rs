//! What an `App` says that only a container engine can honour.

use std::{path::PathBuf, time::Duration};

use super::{
    fields::{Field, Fields},
    health::HealthSpec,
    host::HostChoice,
    rules,
};
use crate::runtime::docker::PULL;

/// How units of an app are containers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ContainerSpec {
    /// The image, with a tag or digest; `:latest` was added where there was neither.
    pub image: String,
    /// The host to run on, by name or by labels; any when absent.
    pub host: Option<HostChoice>,
    /// What of the host is seen in the container.
    pub mounts: Vec<MountSpec>,
    /// Where the health of an app stands in the text that its generation is the digest of; else absent.
    pub(crate) health: Option<HealthSpec>,
    /// When the image is fetched.
    pub pull_policy: PullPolicy,
    /// `bridge`, `host`, `none`, `container:<name>`, or a network of the engine.
    pub network_mode: String,
    /// All rights of the host.
    pub privileged: bool,
    /// `host` or `container:<name>`.
    pub pid_mode: Option<String>,
    /// `none`, `private`, `shareable`, `host` or `container:<name>`.
    pub ipc_mode: Option<String>,
}

impl ContainerSpec {
    /// How long fetching the image may take; nothing where it is never fetched.
    pub(super) fn longest_pull(&self) -> Duration {
        if self.pull_policy == PullPolicy::Never { Duration::ZERO } else { PULL }
    }
}

/// A part of the host that is seen in a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MountSpec {
    /// Absolute path on the host, or the name of a volume. One that ends in `/` is made when it is absent.
    pub source: String,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// It cannot be written to from within.
    pub read_only: bool,
    /// What is mounted below it later is seen on the other side.
    pub propagation: Propagation,
}

/// Whether later mounts are seen on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of mount(8)")]
pub enum Propagation {
    Private,
    Rprivate,
    Shared,
    Rshared,
    Slave,
    Rslave,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum PullPolicy {
    /// Before each new unit.
    Always,
    /// When the engine does not have it.
    IfNotPresent,
    /// Never: it must be there.
    Never,
}

/// Reads these fields, and complains about what the engine cannot honour.
pub(super) fn read(fields: &mut Fields<'_>, in_bundle: bool) -> ContainerSpec {
    let image = fields.get("image").required();
    let refuse_set = |field: Field<'_>, why: &str| {
        if field.value().is_some() {
            super::unsupported::refuse(&field, why);
        }
    };
    refuse_set(fields.get("umask"), "is unsupported by the docker runtime, whose engine knows none");
    super::unsupported::depends_on(fields, in_bundle);
    let mut docker = fields.get("docker").fields();
    let policies = [
        ("Always", PullPolicy::Always),
        ("IfNotPresent", PullPolicy::IfNotPresent),
        ("Never", PullPolicy::Never),
    ];
    let spec = ContainerSpec {
        image: image.text().map_or_else(String::new, |text| tagged(&image, &text)),
        host: fields.get("host").parsed(),
        mounts: fields.get("mounts").items().into_iter().filter_map(mount).collect(),
        health: None,
        pull_policy: docker.get("pullPolicy").choice(&policies).unwrap_or(PullPolicy::IfNotPresent),
        network_mode: docker.get("networkMode").text().unwrap_or_else(|| "bridge".to_owned()),
        privileged: docker.get("privileged").boolean().unwrap_or(false),
        pid_mode: docker.get("pidMode").text(),
        ipc_mode: docker.get("ipcMode").text(),
    };
    docker.finish();
    spec
}

/// With a tag: an engine asked for a name alone fetches every tag that there is.
fn tagged(field: &Field<'_>, text: &str) -> String {
    if text.is_empty() || text.chars().any(char::is_whitespace) {
        field.refuse(format!("found {text:?}, allowed is an image such as busybox:1.35"));
        return String::new();
    }
    let name = text.rsplit('/').next().unwrap_or(text);
    if name.contains(':') || name.contains('@') { text.to_owned() } else { format!("{text}:latest") }
}

fn mount(field: Field<'_>) -> Option<MountSpec> {
    let mut fields = field.required().fields();
    let source = fields.get("source").required();
    let target = super::path_field(&fields.get("target"));
    let read_only = fields.get("readOnly").boolean().unwrap_or(false);
    let words = [
        ("private", Propagation::Private),
        ("rprivate", Propagation::Rprivate),
        ("shared", Propagation::Shared),
        ("rshared", Propagation::Rshared),
        ("slave", Propagation::Slave),
        ("rslave", Propagation::Rslave),
    ];
    let propagation = fields.get("propagation").choice(&words).unwrap_or(Propagation::Rprivate);
    fields.finish();
    let text = source.text()?;
    let path = text.trim_end_matches('/');
    let is_path = path.starts_with('/') && rules::is_plain(path.as_ref());
    let is_volume = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if !is_path && !is_volume {
        source.refuse(format!(
            "found {text:?}, allowed is an absolute path without . and .., or a volume's name"
        ));
        return None;
    }
    Some(MountSpec { source: text, target: target?, read_only, propagation })
}
