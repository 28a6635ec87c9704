//! The battery of runtimes over each of them, and what is docker's alone.

mod docker;
mod engine;
mod process;
