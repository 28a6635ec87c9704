//! Looks from outside: does a port take connections, and what does it answer.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::socks;

/// How much of an answer is read for its status line.
const STATUS_LINE_MAX: usize = 256;

/// How soon a proxy closes a connection that leads nowhere.
const LEADS_NOWHERE: Duration = Duration::from_millis(250);

/// How soon that is heard from another host.
const LEADS_NOWHERE_FAR: Duration = Duration::from_secs(1);

/// Who takes the connections of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The unit itself.
    Unit,
    /// Somebody who takes every connection, and closes those that lead nowhere at once.
    Proxy,
    /// The same on another host, whose ports a SOCKS proxy leads to that listens at this socket.
    Far(PathBuf),
}

impl Peer {
    /// How long a connection must last to have come to the unit; none where each has.
    fn patience(&self) -> Option<Duration> {
        match self {
            Self::Unit => None,
            Self::Proxy => Some(LEADS_NOWHERE),
            Self::Far(_) => Some(LEADS_NOWHERE_FAR),
        }
    }
}

/// Whether `address` takes a connection within `limit`.
///
/// # Errors
/// Why not, as what is said of a port.
pub(crate) async fn knock(address: SocketAddr, peer: &Peer, limit: Duration) -> Result<(), String> {
    let knocked = async {
        let mut stream = connect(address, peer).await?;
        let Some(patience) = peer.patience() else { return Ok(()) };
        // Whatever it says, and also nothing for a while, comes from the unit.
        match timeout(patience.min(limit / 2), stream.read(&mut [0])).await {
            Ok(Ok(0) | Err(_)) => Err("closed the connection at once".to_owned()),
            _ => Ok(()),
        }
    };
    within(limit, knocked).await
}

/// A GET and the status that is expected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Get<'a> {
    pub(crate) path: &'a str,
    pub(crate) status: u16,
}

/// Whether `address` answers within `limit` as expected.
///
/// # Errors
/// What it does instead, as what is said of it.
pub(crate) async fn get(
    address: SocketAddr,
    peer: &Peer,
    get: Get<'_>,
    limit: Duration,
) -> Result<(), String> {
    let asked = async {
        let mut stream = connect(address, peer).await?;
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: towline\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            get.path
        );
        let broken = |error: io::Error| format!("broke the connection: {error}");
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut answer = Vec::new();
        while answer.len() < STATUS_LINE_MAX && !answer.contains(&b'\n') {
            if stream.read_buf(&mut answer).await.map_err(broken)? == 0 {
                break;
            }
        }
        match status(&answer) {
            Some(status) if status == get.status => Ok(()),
            Some(status) => Err(format!("answered {status}, expected {}", get.status)),
            None if answer.is_empty() => Err("closed the connection without an answer".to_owned()),
            None => Err("answered no HTTP".to_owned()),
        }
    };
    within(limit, asked).await
}

/// A connection, whatever is between.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: SocketAddr, peer: &Peer) -> Result<Box<dyn Stream>, String> {
    let stream: io::Result<Box<dyn Stream>> = match peer {
        Peer::Unit | Peer::Proxy => TcpStream::connect(address).await.map(|stream| Box::new(stream) as _),
        Peer::Far(socket) => socks::connect(socket, address).await.map(|stream| Box::new(stream) as _),
    };
    stream.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused the connection".to_owned(),
        _ => format!("cannot be reached: {error}"),
    })
}

async fn within(limit: Duration, look: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let late = || format!("did not answer within {}", humantime::format_duration(limit));
    timeout(limit, look).await.unwrap_or_else(|_| Err(late()))
}

/// The status in the first line of an answer: `HTTP/1.1 200 OK`.
pub(crate) fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/"))?;
    // A number may have a sign, a status has none.
    words
        .next()
        .filter(|word| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers one connection after another with `answers`, and closes each.
    async fn server<const N: usize>(answers: [&'static str; N]) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                if !answer.is_empty() {
                    let mut request = [0; 512];
                    let length = stream.read(&mut request).await.unwrap();
                    assert!(request[..length].starts_with(b"GET /a?b=c HTTP/1.0\r\nHost: 127.0.0.1:"));
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, tasks)
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_its_status() {
        let long = "HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody";
        let (address, _server) =
            server([long, "HTTP/1.0 500 no\r\n\r\n", "SSH-2.0-x\r\n", "", "HTTP/1.1 204"]).await;
        let ask = |status| get(address, &Peer::Unit, Get { path: "/a?b=c", status }, LIMIT);
        assert_eq!(ask(200).await, Ok(()));
        assert_eq!(ask(200).await, Err("answered 500, expected 200".to_owned()));
        assert_eq!(ask(200).await, Err("answered no HTTP".to_owned()));
        let closed = ask(200).await.unwrap_err();
        assert!(closed.contains("the connection"), "{closed}");
        assert_eq!(ask(204).await, Ok(()));
    }

    #[tokio::test]
    async fn who_does_not_listen_or_does_not_answer_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(knock(address, &Peer::Unit, LIMIT).await, Ok(()));
        assert_eq!(knock(address, &Peer::Proxy, LIMIT).await, Ok(()), "who waits for us does listen");
        let limit = Duration::from_millis(50);
        let late = get(address, &Peer::Unit, Get { path: "/", status: 200 }, limit).await;
        assert_eq!(late, Err("did not answer within 50ms".to_owned()));
        drop(listener);
        let refused = Err("refused the connection".to_owned());
        assert_eq!(knock(address, &Peer::Unit, LIMIT).await, refused);
        assert_eq!(get(address, &Peer::Unit, Get { path: "/", status: 200 }, LIMIT).await, refused);
        let (nowhere, _server) = server(["", ""]).await;
        assert_eq!(
            knock(nowhere, &Peer::Proxy, LIMIT).await,
            Err("closed the connection at once".to_owned())
        );
        assert_eq!(knock(nowhere, &Peer::Unit, LIMIT).await, Ok(()));
    }

    #[test]
    fn only_a_status_line_has_a_status() {
        let table: [(&[u8], Option<u16>); 6] = [
            (b"HTTP/1.1 200 OK\r\n", Some(200)),
            (b"HTTP/2 204\n", Some(204)),
            (b"HTTP/1.1 2000 OK\r\n", None),
            (b"HTTP/1.1\r\n200", None),
            (b"\xff 200", None),
            (b"", None),
        ];
        for (answer, expected) in table {
            assert_eq!(status(answer), expected, "{answer:?}");
        }
    }
}
