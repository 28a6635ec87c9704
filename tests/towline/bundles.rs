//! Bundles and jobs from the command line down: `towline`, the hub's API, the bus, and what answers at its end.

mod agent;
mod commands;
mod killed;
mod support;
