//! A connection through a SOCKS 5 proxy that listens at a socket of this machine: the way to the ports of a host behind SSH.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// SOCKS 5, one way of letting somebody in: without asking.
const HELLO: [u8; 3] = [5, 1, 0];
const WELCOME: [u8; 2] = [5, 0];
/// SOCKS 5, a connection; the reserved byte.
const CONNECT: [u8; 3] = [5, 1, 0];
const IPV4: u8 = 1;
const IPV6: u8 = 4;

/// Has the proxy at `socket` connect to `address`, as seen from there. A proxy may say yes before it knows, and close the
/// connection then.
///
/// # Errors
/// That there is no proxy, or what it said.
pub(super) async fn connect(socket: &Path, address: SocketAddr) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&HELLO).await?;
    let mut welcome = [0; 2];
    stream.read_exact(&mut welcome).await?;
    if welcome != WELCOME {
        return Err(io::Error::other("the proxy does not speak SOCKS 5, or wants to know who asks"));
    }
    stream.write_all(&request(address)).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(refused)?;
    let [_, said, _, kind] = head;
    if said != 0 {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("the proxy says {said}")));
    }
    let rest = match kind {
        IPV4 => 4 + 2,
        IPV6 => 16 + 2,
        other => return Err(io::Error::other(format!("the proxy says where it is in a way {other}"))),
    };
    let mut bound = [0; 16 + 2];
    stream.read_exact(bound.get_mut(..rest).unwrap_or_default()).await.map_err(refused)?;
    Ok(stream)
}

fn request(address: SocketAddr) -> Vec<u8> {
    let mut words = CONNECT.to_vec();
    match address.ip() {
        IpAddr::V4(address) => {
            words.push(IPV4);
            words.extend(address.octets());
        }
        IpAddr::V6(address) => {
            words.push(IPV6);
            words.extend(address.octets());
        }
    }
    words.extend(address.port().to_be_bytes());
    words
}

/// `ssh` knows no other way to say that there is nobody.
fn refused(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            io::Error::new(io::ErrorKind::ConnectionRefused, "the proxy closed the connection")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// What is asked of a proxy that answers so, and what comes of it.
    async fn asked(address: &str, answer: &'static [u8]) -> (Vec<u8>, io::Result<[u8; 2]>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("proxy.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let proxy = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 3];
            stream.read_exact(&mut hello).await.unwrap();
            assert_eq!(hello, [5, 1, 0]);
            stream.write_all(&WELCOME).await.unwrap();
            let mut request = vec![0; if address.starts_with('[') { 22 } else { 10 }];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
            request
        };
        let ours = async {
            let mut stream = connect(&socket, address.parse().unwrap()).await?;
            let mut first = [0; 2];
            stream.read_exact(&mut first).await.map(|_| first)
        };
        tokio::join!(proxy, ours)
    }

    #[tokio::test]
    async fn what_comes_after_the_answer_is_the_units() {
        let (request, first) = asked("10.1.2.3:8080", b"\x05\0\0\x01\0\0\0\0\0\0hi").await;
        assert_eq!((request, first.unwrap()), (b"\x05\x01\0\x01\x0a\x01\x02\x03\x1f\x90".to_vec(), *b"hi"));
        let answer = b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0hi";
        let (request, first) = asked("[fd00::7]:80", answer).await;
        assert_eq!(request.get(..6), Some(b"\x05\x01\0\x04\xfd\0".as_slice()));
        assert_eq!((request.get(19..), first.unwrap()), (Some(b"\x07\0\x50".as_slice()), *b"hi"));
    }

    #[tokio::test]
    async fn who_is_not_there_is_refused_however_that_is_said() {
        for answer in [b"".as_slice(), b"\x05\0", b"\x05\x05\0\x01\0\0\0\0\0\0"] {
            let (_, refused) = asked("10.1.2.3:8080", answer).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{answer:?}");
        }
        let nowhere = connect(Path::new("/no/such.sock"), "10.1.2.3:80".parse().unwrap()).await;
        assert_eq!(nowhere.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
