//! The API of a whole hub, over HTTP on a free port, with agents on a memory broker.

mod bundles;
mod calls;
mod door;
mod events;
mod instances;
mod lifecycle;
mod metrics;
mod support;
