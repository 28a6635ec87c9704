//! The demo service: something small that Towline can run, so that a first try needs nothing else.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, plainly};
use crate::time::parse_timeout;

/// Serves HTTP on the port that the environment names as PORT_HTTP, if it does; prints a line for each request, and one
/// every few seconds; ends cleanly on SIGTERM.
#[derive(Debug, Args)]
pub(crate) struct HelloArgs {
    /// What it calls itself
    #[arg(default_value = "hello")]
    name: String,
    /// How often it says that it is there
    #[arg(long, value_name = "D", default_value = "5s", value_parser = parse_timeout)]
    every: Duration,
}

/// Serves until it is told to end.
///
/// # Errors
/// When the port is not one, or in use.
pub(crate) async fn run(args: &HelloArgs) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::error(format!("cannot listen for signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let requests = Arc::new(AtomicU64::new(0));
    let serving = serve(port_of(std::env::var("PORT_HTTP").ok())?, args.name.clone(), Arc::clone(&requests));
    let mut serving = std::pin::pin!(serving);
    let mut ticks = tokio::time::interval(args.every);
    ticks.tick().await;
    say(&format!("{} is here (pid {})", args.name, std::process::id()))?;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            ended = &mut serving => return ended,
            _ = ticks.tick() => match requests.load(Ordering::Relaxed) {
                0 => say(&format!("{} is still here", args.name))?,
                count => say(&format!("{} is still here, {count} requests so far", args.name))?,
            },
        }
    }
    say(&format!("{} says goodbye", args.name))
}

fn port_of(variable: Option<String>) -> Result<Option<u16>, Failure> {
    let Some(text) = variable else { return Ok(None) };
    let wrong = |_| Failure::error(format!("PORT_HTTP is `{text}`, and allowed is a port from 0 to 65535"));
    text.parse().map(Some).map_err(wrong)
}

async fn serve(port: Option<u16>, name: String, requests: Arc<AtomicU64>) -> Result<(), Failure> {
    let Some(port) = port else { return std::future::pending().await };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let refused =
        |error: io::Error| Failure::error(format!("cannot listen on {address}: {}", plainly(&error)));
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    say(&format!("{name} listens on http://{}", listener.local_addr().map_err(refused)?))?;
    let answer = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
        let count = requests.fetch_add(1, Ordering::Relaxed) + 1;
        let path: String = request.uri().path().chars().take(200).collect();
        // The answer matters more than the line about it.
        let _ = say(&format!("{} {path} from {peer}", request.method()));
        std::future::ready(format!("{name} answers, for the {count}. time\n"))
    };
    let app = Router::new().fallback(answer).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await.map_err(refused)
}

fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::from_output(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_port_it_serves_nothing() {
        assert_eq!(port_of(None).unwrap(), None);
        assert_eq!(port_of(Some("8080".to_owned())).unwrap(), Some(8080));
        assert!(port_of(Some("many".to_owned())).unwrap_err().render().contains("PORT_HTTP"));
    }
}
