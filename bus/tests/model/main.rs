//! The session protocol, looked at from every side: all orders of messages, losses, freezes and restarts, within bounds,
//! on the very machines that serve. `docs/decisions/0007` says why the explorer is our own.

#[cfg(test)]
mod between;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod naive;
#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a model says how many states it saw")]
mod properties;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod state;
