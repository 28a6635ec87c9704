//! Maps that are asked several times for each call.

use std::collections::HashMap;

/// A map whose hashes cost a fraction of the standard ones. They are seeded at random; keys that meet on purpose could slow
/// it down, so it is for keys that this side made, or checked against what it made.
pub(crate) type QuickMap<K, V> = HashMap<K, V, foldhash::quality::RandomState>;
