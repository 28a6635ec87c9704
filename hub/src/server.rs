//! Serves a router on a listener: bounded connections, a time for each request's head, and an end that lets answers under
//! way be finished.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use towline_bus::task::Tasks;

use crate::limits;

/// How long to wait after a failed accept: it fails for want of file descriptors, mostly, and those come back.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts until the tasks stop, at most `connections` at once; further callers wait in the system's queue. Connections
/// are tasks beside this one.
pub(crate) async fn serve(listener: TcpListener, router: Router, connections: usize, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(connections));
    let stopping = tasks.stopping().clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let connection = serve_connection(stream, peer, router.clone(), stopping.clone(), slot);
                tasks.spawn_isolated("connection", connection);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // An event or an answer is written whole; waiting for more of it only delays it.
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    stopping: CancellationToken,
    slot: OwnedSemaphorePermit,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
    drop(slot);
}
