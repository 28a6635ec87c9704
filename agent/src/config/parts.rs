//! The ways to an engine, field by field.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    manifest::{Complaint, Field, Fields, Span},
    runtime::docker::{Endpoint, HostConfig, RemoteEngine, SshConfig, TlsFiles},
};

/// How long it may take to get through to a host.
const PATIENCE: Duration = Duration::from_secs(30);

/// A path that any program takes as it stands.
pub(super) fn path(field: &Field<'_>) -> Option<PathBuf> {
    let text = field.text()?;
    let odd = |letter: char| letter.is_whitespace() || letter.is_control() || "\"'%~$:\\".contains(letter);
    if !text.starts_with('/') || text.contains(odd) {
        field.refuse(format!(
            "found {text:?}, allowed is an absolute path without white space, quotes, and any of % ~ $ : and backslash"
        ));
        return None;
    }
    Some(text.into())
}

/// The name or the number of a host; the number of a port stands elsewhere.
fn address(fields: &mut Fields<'_>, of_all: bool) -> Option<String> {
    let field = fields.get("address");
    if of_all && field.value().is_some() {
        field.refuse("found an address for all hosts, but each has its own; remove it here");
        return None;
    }
    let text = field.text()?;
    if is_address(&text) {
        return Some(text);
    }
    field.refuse(format!(
        "found {text:?}, allowed is a host's name or IP address; its port stands in the field port"
    ));
    None
}

fn is_address(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let name = !text.is_empty() && text.len() <= 253 && !text.starts_with('-') && text.bytes().all(plain);
    name || text.parse::<Ipv6Addr>().is_ok()
}

/// As it stands before a port.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Over TCP, as far as it is said.
#[derive(Debug, Clone)]
pub(super) struct Tcp<'a> {
    at: Field<'a>,
    pub(super) is_there: bool,
    address: Option<String>,
    port: Option<u16>,
    has_tls: bool,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl<'a> Tcp<'a> {
    pub(super) fn read(at: &Field<'a>, of_all: bool) -> Self {
        let mut fields = at.fields();
        let tls = fields.get("tls");
        let mut files = tls.fields();
        let tcp = Self {
            at: at.clone(),
            is_there: at.value().is_some(),
            address: address(&mut fields, of_all),
            port: fields.get("port").number(1..=u16::MAX),
            has_tls: tls.value().is_some(),
            ca: path(&files.get("ca")),
            cert: path(&files.get("cert")),
            key: path(&files.get("key")),
        };
        files.finish();
        fields.finish();
        tcp
    }

    /// This, and what it leaves out from `defaults`.
    pub(super) fn or(&self, defaults: &Self) -> Self {
        let other = defaults.clone();
        Self {
            at: self.at.clone(),
            is_there: true,
            address: self.address.clone(),
            port: self.port.or(other.port),
            has_tls: self.has_tls || other.has_tls,
            ca: self.ca.clone().or(other.ca),
            cert: self.cert.clone().or(other.cert),
            key: self.key.clone().or(other.key),
        }
    }

    /// The whole of it, for the host of this name.
    pub(super) fn finish(self, name: &str) -> Option<Endpoint> {
        let address = self.address.unwrap_or_else(|| name.to_owned());
        let is_local = address == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let tls = match (self.has_tls, self.ca, self.cert, self.key) {
            (false, ..) if is_local => None,
            (false, ..) => {
                self.at.refuse(format!(
                    "found {address} without tls, allowed is that for this machine alone (127.0.0.1): whoever reaches an \
                     engine is root there; add tls: {{ca: …, cert: …, key: …}}"
                ));
                return None;
            }
            (true, Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca, cert, key }),
            (true, ca, cert, key) => {
                let missing = [("ca", ca), ("cert", cert), ("key", key)];
                let missing: Vec<&str> =
                    missing.into_iter().filter(|(_, file)| file.is_none()).map(|(name, _)| name).collect();
                self.at.refuse(format!(
                    "found tls without {}, but all three are required",
                    missing.join(" and ")
                ));
                return None;
            }
        };
        let port = self.port.unwrap_or_else(|| if tls.is_some() { 2376 } else { 2375 });
        Some(Endpoint::Tcp { address: format!("{}:{port}", bracketed(&address)), tls })
    }
}

/// Over SSH, as far as it is said.
#[derive(Debug, Clone)]
pub(super) struct Ssh<'a> {
    at: Field<'a>,
    pub(super) is_there: bool,
    address: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    known_hosts: Option<PathBuf>,
    key: Option<PathBuf>,
    agent: Option<PathBuf>,
    password_file: Option<PathBuf>,
    engine: Option<RemoteEngine>,
    timeout: Option<Span>,
}

impl<'a> Ssh<'a> {
    pub(super) fn read(at: &Field<'a>, of_all: bool) -> Self {
        let mut fields = at.fields();
        let ssh = Self {
            at: at.clone(),
            is_there: at.value().is_some(),
            address: address(&mut fields, of_all),
            port: fields.get("port").number(1..=u16::MAX),
            user: user(&fields.get("user")),
            known_hosts: path(&fields.get("knownHosts")),
            key: path(&fields.get("key")),
            agent: path(&fields.get("agent")),
            password_file: path(&fields.get("passwordFile")),
            engine: fields.get("engine").parsed(),
            timeout: timeout(&fields.get("timeout")),
        };
        fields.finish();
        ssh
    }

    /// This, and what it leaves out from `defaults`.
    pub(super) fn or(&self, defaults: &Self) -> Self {
        let (own, other) = (self.clone(), defaults.clone());
        Self {
            at: own.at,
            is_there: true,
            address: own.address,
            port: own.port.or(other.port),
            user: own.user.or(other.user),
            known_hosts: own.known_hosts.or(other.known_hosts),
            key: own.key.or(other.key),
            agent: own.agent.or(other.agent),
            password_file: own.password_file.or(other.password_file),
            engine: own.engine.or(other.engine),
            timeout: own.timeout.or(other.timeout),
        }
    }

    /// The whole of it, for the host of this name.
    pub(super) fn finish(self, name: &str) -> Option<Endpoint> {
        let mut fields = self.at.fields();
        let known_hosts = fields.get("knownHosts");
        if self.known_hosts.is_none() && known_hosts.value().is_none() {
            known_hosts.refuse(
                "found nothing, but it is required: a file with the host's key, as ssh-keyscan prints it and you have \
                 compared it",
            );
        }
        let authenticates = self.key.is_some() || self.agent.is_some() || self.password_file.is_some();
        let tried = ["key", "agent", "passwordFile"].map(|way| fields.get(way).value().is_some());
        if !authenticates && !tried.contains(&true) {
            self.at.refuse("found none of key, agent and passwordFile, but one of them is required");
        }
        Some(Endpoint::Ssh(SshConfig {
            address: self.address.unwrap_or_else(|| name.to_owned()),
            port: self.port.unwrap_or(22),
            user: self.user.unwrap_or_else(|| "root".to_owned()),
            known_hosts: self.known_hosts?,
            key: self.key,
            agent: self.agent,
            password_file: self.password_file,
            engine: self.engine.unwrap_or_default(),
            timeout: self.timeout.map_or(PATIENCE, Span::get),
        }))
    }
}

fn user(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.is_empty() || text.starts_with('-') || !text.bytes().all(plain) {
        field.refuse(format!("found {text:?}, allowed is the name of a user"));
        return None;
    }
    Some(text)
}

fn timeout(field: &Field<'_>) -> Option<Span> {
    let span: Span = field.parsed()?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(600);
    if !allowed.contains(&span.get()) {
        field.refuse(format!("found {span}, allowed is 1s to 10m"));
        return None;
    }
    Some(span)
}

/// What of the files that a host names is not there, or cannot be used.
pub(super) fn missing(host: &HostConfig) -> Vec<Complaint> {
    let name = host.name.as_ref().map(ToString::to_string).unwrap_or_default();
    let at = |field: &str| format!("docker.hosts.{name}.{field}");
    let checks = match &host.endpoint {
        // It may come later: an engine that is not there is no mistake of the file's.
        Endpoint::Socket(_) | Endpoint::Tcp { tls: None, .. } => Vec::new(),
        Endpoint::Tcp { tls: Some(tls), .. } => vec![
            (at("tcp.tls.ca"), readable(&tls.ca)),
            (at("tcp.tls.cert"), readable(&tls.cert)),
            (at("tcp.tls.key"), secret(&tls.key)),
        ],
        Endpoint::Ssh(ssh) => vec![
            (at("ssh.knownHosts"), readable(&ssh.known_hosts)),
            (at("ssh.key"), ssh.key.as_deref().map_or(Ok(()), secret)),
            (at("ssh.agent"), ssh.agent.as_deref().map_or(Ok(()), socket)),
            (at("ssh.passwordFile"), ssh.password_file.as_deref().map_or(Ok(()), secret)),
        ],
    };
    checks.into_iter().filter_map(|(path, found)| Some(Complaint::new(path, found.err()?))).collect()
}

fn readable(file: &Path) -> Result<(), String> {
    let opened = std::fs::read(file);
    opened.map(drop).map_err(|error| {
        format!("found {}, which cannot be read: {error}; put it there, or name another", file.display())
    })
}

/// Readable by its owner alone.
fn secret(file: &Path) -> Result<(), String> {
    readable(file)?;
    let mode = std::fs::metadata(file).map_or(0, |found| found.permissions().mode());
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let (shown, mode) = (file.display(), mode & 0o777);
    Err(format!(
        "found {shown} with mode {mode:04o}, allowed is that its owner alone reads it: chmod 600 {shown}"
    ))
}

fn socket(file: &Path) -> Result<(), String> {
    let is_socket = std::fs::metadata(file).map(|found| found.file_type().is_socket());
    let wrong = match is_socket {
        Ok(true) => return Ok(()),
        Ok(false) => "is no socket".to_owned(),
        Err(error) => format!("cannot be used: {error}"),
    };
    Err(format!(
        "found {}, which {wrong}; start an agent there: ssh-agent -a {}",
        file.display(),
        file.display()
    ))
}
