//! Where an engine is, and how it is reached.

use std::{collections::BTreeMap, fmt, net::Ipv6Addr, path::PathBuf, str::FromStr, time::Duration};

use towline_protocol::Name;

/// A host with an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Its name; none where there is one host, which nobody configured.
    pub name: Option<Name>,
    /// What apps may ask for.
    pub labels: BTreeMap<String, String>,
    /// The way to its engine.
    pub endpoint: Endpoint,
}

impl HostConfig {
    /// The one host that nobody configured, with its engine's socket.
    pub fn unnamed(socket: impl Into<PathBuf>) -> Self {
        Self { name: None, labels: BTreeMap::new(), endpoint: Endpoint::Socket(socket.into()) }
    }
}

/// The way to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket of this machine.
    Socket(PathBuf),
    /// Over TCP.
    Tcp {
        /// Host and port.
        address: String,
        /// What both sides show each other; none on this machine alone.
        tls: Option<TlsFiles>,
    },
    /// Through an SSH connection.
    Ssh(SshConfig),
}

/// Certificates, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whom the engine's certificate must be from; what this machine trusts otherwise counts, too.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// An SSH connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshConfig {
    /// The host's name or IP address.
    pub address: String,
    /// The port of its SSH server.
    pub port: u16,
    /// The user to be there.
    pub user: String,
    /// A file with the host's key; another key is refused.
    pub known_hosts: PathBuf,
    /// A private key.
    pub key: Option<PathBuf>,
    /// The socket of an SSH agent.
    pub agent: Option<PathBuf>,
    /// A file with a password.
    pub password_file: Option<PathBuf>,
    /// Where the engine listens, as seen from there.
    pub engine: RemoteEngine,
    /// How long to try before saying that there is no way through.
    pub timeout: Duration,
}

/// Where an engine listens at the far end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteEngine {
    /// At a socket.
    Socket(PathBuf),
    /// At a host and port.
    Tcp(String),
}

impl Default for RemoteEngine {
    fn default() -> Self {
        Self::Socket(PathBuf::from(super::DEFAULT_SOCKET))
    }
}

/// What was found says nowhere where an engine may listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}{why}, allowed is unix:///var/run/docker.sock or tcp://127.0.0.1:2375")]
pub struct ParseRemoteEngineError {
    found: String,
    why: &'static str,
}

impl FromStr for RemoteEngine {
    type Err = ParseRemoteEngineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |why| ParseRemoteEngineError { found: text.chars().take(80).collect(), why };
        let odd = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '\\';
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') && !path.contains(odd) && !path.contains(':') => {
                Ok(Self::Socket(path.into()))
            }
            Some(("unix", _)) => Err(refused(" without an absolute path")),
            Some(("tcp", address)) if is_host_and_port(address) => Ok(Self::Tcp(address.to_owned())),
            Some(("tcp", _)) => Err(refused(" without a host and a port")),
            Some(_) => Err(refused(" with another scheme")),
            None => Err(refused(" without a scheme")),
        }
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let host = match bracketed {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl fmt::Display for RemoteEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}
