//! Where the bus is, who we are to it, and what is wrong with either.

use std::path::PathBuf;

use async_nats::ServerAddr;
use thiserror::Error;

/// Where the bus is, and who we are to it.
#[derive(Debug, Clone, Default)]
pub struct NatsConfig {
    /// Servers: `nats://`, `tls://`, `ws://` or `wss://`, all of one kind.
    pub servers: Vec<String>,
    /// The connection's name, shown by the server's monitoring.
    pub name: String,
    /// A file with a user's JWT and key, read again at every connect.
    pub credentials: Option<PathBuf>,
    /// Certificates to trust instead of the system's, in PEM. With it no server is talked to in the clear.
    pub ca_file: Option<PathBuf>,
}

/// Why a connection cannot be made, ever: what may pass by itself is not an error but waited for.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No server was named.
    #[error("no NATS server was named; give at least one, like `nats://127.0.0.1:4222`")]
    NoServer,
    /// A server's address is none.
    #[error(
        "`{url}` is not the address of a NATS server; it looks like `nats://host:4222` or `wss://host/path`"
    )]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// Web sockets and plain connections were mixed.
    #[error("`ws://` and `nats://` addresses cannot be mixed; name servers of one kind")]
    Mixed,
    /// A file could not be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    File {
        /// What it is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client refused to start.
    #[error("the NATS client did not start: {0}")]
    Client(#[source] async_nats::ConnectError),
}

/// Looks at addresses and files, and connects nowhere.
///
/// # Errors
/// What [`NatsTransport::connect`](super::NatsTransport::connect) would refuse.
pub fn check(config: &NatsConfig) -> Result<(), ConnectError> {
    let files = [("the credentials file", &config.credentials), ("the CA file", &config.ca_file)];
    for (what, path) in files {
        if let Some(path) = path {
            std::fs::File::open(path).map_err(|source| ConnectError::File {
                what,
                path: path.clone(),
                source,
            })?;
        }
    }
    addresses(config).map(drop)
}

pub(super) fn addresses(config: &NatsConfig) -> Result<Vec<ServerAddr>, ConnectError> {
    if config.servers.is_empty() {
        return Err(ConnectError::NoServer);
    }
    let parse =
        |url: &String| url.parse().map_err(|source| ConnectError::Address { url: url.clone(), source });
    let servers: Vec<ServerAddr> = config.servers.iter().map(parse).collect::<Result<_, _>>()?;
    let web = servers.iter().filter(|server| server.is_websocket()).count();
    if web != 0 && web != servers.len() {
        return Err(ConnectError::Mixed);
    }
    Ok(servers)
}

/// User and password of the first address that names one. The client itself passes over what stands in an address.
pub(super) fn user_of(servers: &[ServerAddr]) -> Option<(String, String)> {
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let server = servers.iter().find(|server| server.has_user_pass())?;
    Some((plain(server.username()?), plain(server.password().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let with = |servers: &[&str]| {
            let servers = servers.iter().map(|&server| server.to_owned()).collect();
            addresses(&NatsConfig { servers, ..NatsConfig::default() })
        };
        assert!(matches!(with(&[]), Err(ConnectError::NoServer)));
        assert!(matches!(with(&["nats://a:1", "ws://b:2"]), Err(ConnectError::Mixed)));
        assert!(matches!(with(&["http://a:1"]), Err(ConnectError::Address { .. })));
        assert_eq!(with(&["nats://a:1", "tls://b:2", "c:3"]).unwrap().len(), 3);
        assert_eq!(with(&["wss://a/path"]).unwrap().len(), 1);
        let user = user_of(&with(&["nats://a:1", "nats://us%40er:pa%2Fss@b:2"]).unwrap());
        assert_eq!(user, Some(("us@er".to_owned(), "pa/ss".to_owned())));
    }
}
