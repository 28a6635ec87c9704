//! The battery: what every path to a platform must carry unharmed. It drives a [`MockPlatform`] at the far end through
//! whatever stands between, and compares both ends. For anyone who writes a transport, a proxy or an API.
//!
//! Each case is named after the case of the ancestor that it holds us to (`x_b1` …). Cases are run one after another,
//! each on its own mock state.

/// Placeholder.
#[derive(Debug)]
pub struct Case;

/// Placeholder.
pub fn battery() {}
