//! Tests across crates: one binary, so that it links once.

#[cfg(test)]
mod chain;
#[cfg(test)]
mod nats;
#[cfg(test)]
mod process;
#[cfg(test)]
mod restarts;
