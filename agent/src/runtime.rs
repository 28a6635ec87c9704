//! Runtimes: what runs things locally. One so far, so there is no trait yet; [`process::ProcessRuntime`] has the shape
//! that the trait will have (create and start, stop, delete, status, logs).

pub mod process;
