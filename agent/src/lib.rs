//! Towline's remote end: carries out apply and sync on a local runtime, and tells the truth about what came of it.

pub mod direct;
pub mod manifest;
mod proc;
pub mod runtime;
pub mod shim;
pub mod store;
mod tasks;
mod wall;
