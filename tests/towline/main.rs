//! Tests across crates: one binary, so that it links once.

#[cfg(test)]
mod bundles;
#[cfg(test)]
mod chain;
#[cfg(test)]
mod docker;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test owns its tasks")]
mod nats;
#[cfg(test)]
mod process;
#[cfg(test)]
mod restarts;
