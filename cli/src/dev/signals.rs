//! The signals that end us.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Interrupt, terminate, hang-up: caught from here on, for what runs must be stopped first.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    count: u32,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            count: 0,
        })
    }

    /// The name of the next one. Cancel safe.
    pub(super) async fn next(&mut self) -> &'static str {
        let name = tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        };
        self.count += 1;
        name
    }

    /// How many have come.
    pub(super) fn count(&self) -> u32 {
        self.count
    }
}
