//! `docker`: hosts, and what holds for all of them. Pure.
//!
//! ```yaml
//! docker:
//!   defaults: {labels: {…}, socket: … | tcp: {…} | ssh: {…}}
//!   hosts:
//!     NAME:   {labels: {…}, socket: … | tcp: {…} | ssh: {…}}
//! ```
//!
//! A host is reached in the way that it names itself; else in the one that the defaults name; else through the local socket.
//! Of the way that it is reached in, each field that it leaves out comes from the defaults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::parts::{Ssh, Tcp};
use crate::{
    manifest::Field,
    runtime::docker::{Endpoint, HostConfig},
};

/// Most hosts of one agent: each has tasks and connections of its own.
const HOSTS_MAX: usize = 64;

/// What stands for one host, or for all.
#[derive(Debug)]
struct Layer<'a> {
    at: Field<'a>,
    labels: BTreeMap<String, String>,
    has_socket: bool,
    socket: Option<PathBuf>,
    tcp: Tcp<'a>,
    ssh: Ssh<'a>,
}

/// A way to reach an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Socket,
    Tcp,
    Ssh,
}

impl<'a> Layer<'a> {
    /// `of_all`: an address is each host's own.
    fn read(at: Field<'a>, of_all: bool) -> Self {
        let mut fields = at.fields();
        let labels = fields.get("labels").text_map();
        let socket = fields.get("socket");
        let layer = Self {
            labels,
            has_socket: socket.value().is_some(),
            socket: super::parts::path(&socket),
            tcp: Tcp::read(&fields.get("tcp"), of_all),
            ssh: Ssh::read(&fields.get("ssh"), of_all),
            at,
        };
        for (key, _) in layer.labels.iter().filter(|(key, value)| !is_label(key) || !is_label(value)) {
            layer.at.refuse(format!(
                "labels.{key}: found a label that no selector can name, allowed is text without , and = and white space"
            ));
        }
        fields.finish();
        layer
    }

    fn ways(&self) -> Vec<Way> {
        let named =
            [(self.has_socket, Way::Socket), (self.tcp.is_there, Way::Tcp), (self.ssh.is_there, Way::Ssh)];
        named.into_iter().filter(|(is_there, _)| *is_there).map(|(_, way)| way).collect()
    }

    /// The way to this host, if exactly one can be meant.
    fn way(&self, defaults: &Self) -> Option<Way> {
        match (self.ways().as_slice(), defaults.ways().as_slice()) {
            ([way], _) | ([], [way]) => Some(*way),
            ([], []) => Some(Way::Socket),
            ([], _) => {
                self.at
                    .refuse("found no way to it, and the defaults name several: say which, such as ssh: {}");
                None
            }
            _ => {
                self.at.refuse("found several ways to it, allowed is one of socket, tcp and ssh");
                None
            }
        }
    }
}

fn is_label(text: &str) -> bool {
    !text.chars().any(|letter| matches!(letter, ',' | '=') || letter.is_whitespace())
}

/// Reads them; what is wrong is complained about. A host that says nothing else is reached through `socket`.
pub(super) fn read(docker: &Field<'_>, socket: &Path) -> Vec<HostConfig> {
    let mut fields = docker.fields();
    let defaults = Layer::read(fields.get("defaults"), true);
    let listed = fields.get("hosts");
    fields.finish();
    let entries = listed.entries();
    if docker.value().is_some() && entries.is_empty() {
        listed.refuse("found no host, allowed are 1 to 64, such as edge-1: {socket: /var/run/docker.sock}");
    }
    if entries.len() > HOSTS_MAX {
        listed.refuse(format!("found {} hosts, allowed are at most {HOSTS_MAX}", entries.len()));
    }
    let mut hosts: Vec<HostConfig> = entries
        .into_iter()
        .filter_map(|(key, at)| {
            let name = key.parse().map_err(|_| {
                at.refuse("found a bad name, allowed are 1 to 63 small letters, digits and - within");
            });
            let host = Layer::read(at, false);
            let endpoint = endpoint(&key, &host, &defaults, socket)?;
            let mut labels = defaults.labels.clone();
            labels.extend(host.labels);
            Some(HostConfig { name: Some(name.ok()?), labels, endpoint })
        })
        .collect();
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts
}

fn endpoint(name: &str, host: &Layer<'_>, defaults: &Layer<'_>, socket: &Path) -> Option<Endpoint> {
    match host.way(defaults)? {
        Way::Socket => {
            let named = host.socket.as_ref().or(defaults.socket.as_ref());
            Some(Endpoint::Socket(named.cloned().unwrap_or_else(|| socket.to_owned())))
        }
        Way::Tcp => host.tcp.or(&defaults.tcp).finish(name),
        Way::Ssh => host.ssh.or(&defaults.ssh).finish(name),
    }
}
