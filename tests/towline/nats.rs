//! The bus over a real nats-server.

mod batteries;
mod bulk;
mod faults;
mod loss;
mod permissions;
mod processes;
mod takeover;
mod traps;
