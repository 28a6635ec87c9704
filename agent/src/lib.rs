//! Towline's remote end: carries out apply and sync on a local runtime, and tells the truth about what came of it.

pub mod manifest;
mod proc;
pub mod runtime;
pub mod shim;
mod tasks;
