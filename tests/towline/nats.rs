//! The bus over a real nats-server.

mod batteries;
mod loss;
mod processes;
mod takeover;
