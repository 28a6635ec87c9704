use towline_agent::doors::{self, Container};

use crate::unreadable;

/// What an engine says of a container, alone or in a list, with labels that any of its users may have written: a unit has the
/// ports that it declares, and labels are written so that they are read again.
pub fn container(data: &[u8]) {
    for Container { unit, labels, .. } in
        doors::container(data).into_iter().chain(doors::listed_container(data))
    {
        assert_eq!(labels.get("dev.towline.unit"), Some(&unit.unit));
        let declared = labels.get("dev.towline.ports").map(String::as_str).unwrap_or_default();
        let declared: Vec<serde_json::Value> = match serde_json::from_str(declared) {
            Ok(declared) => declared,
            Err(error) => unreadable(&declared, &error),
        };
        assert!(unit.ports.len() <= declared.len(), "{:?} of {declared:?}", unit.ports);
        match doors::container_labels(&labels) {
            Some(again) => assert_eq!(again, labels),
            None => unreadable(&labels, &"they are none of ours"),
        }
    }
}
