use std::collections::BTreeMap;

use serde_json::Value;
use towline_agent::doors;

use crate::unreadable;

/// Earlier holders that a mark names at most.
const BEFORE_MAX: usize = 16;

/// The mark of a host, and the labels of one on an engine: another agent wrote it, of another version perhaps, and whatever stands
/// there is written so that it is read again. Whoever raises it makes it higher, and not much longer.
pub fn mark(data: &[u8]) {
    if let Some([written, raised]) = doors::mark(data) {
        let epoch = epoch(&written);
        match doors::mark(&written) {
            Some([again, _]) => assert_eq!(again, written),
            None => unreadable(&String::from_utf8_lossy(&written), &"it is no mark"),
        }
        if !raised.is_empty() {
            let text = || String::from_utf8_lossy(&raised);
            assert!(doors::mark(&raised).is_some(), "no mark: {}", text());
            assert!(self::epoch(&raised) > epoch, "not higher: {}", text());
            let before = value(&raised).get("before").and_then(|before| Some(before.as_array()?.len()));
            assert!(before.is_some_and(|before| before <= BEFORE_MAX), "{before:?}");
        }
    }
    let Ok(labels) = serde_json::from_slice::<BTreeMap<String, String>>(data) else { return };
    let Some(written) = doors::engine_mark(labels) else { return };
    match doors::engine_mark(written.clone()) {
        Some(again) => assert_eq!(again, written),
        None => unreadable(&written, &"it is no mark"),
    }
}

fn epoch(mark: &[u8]) -> u64 {
    let epoch = value(mark).get("epoch").and_then(Value::as_u64);
    epoch.unwrap_or_else(|| unreadable(&String::from_utf8_lossy(mark), &"it has no epoch"))
}

fn value(mark: &[u8]) -> Value {
    serde_json::from_slice(mark).unwrap_or_else(|error| unreadable(&String::from_utf8_lossy(mark), &error))
}
