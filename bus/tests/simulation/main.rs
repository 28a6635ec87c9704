//! Hubs and agents on the very machines that serve, under a virtual clock and seeded faults: one binary, no runtime.
//!
//! `TOWLINE_SEEDS` says how many seeds are tried (1,000 unless told); `TOWLINE_SEED` tries one and prints its log.

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a simulation says how far it came")]
mod races;

#[cfg(test)]
mod scenarios;

#[cfg(test)]
mod agent;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hub;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod random;
#[cfg(test)]
mod shrink;
#[cfg(test)]
mod world;
