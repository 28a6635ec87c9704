//! A document as a list of its values, for showing what differs between two.

use super::yaml::{self, Value};

/// One value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) path: String,
    /// As it is shown: text in quotes.
    pub(crate) value: String,
    /// It may be a secret, and must not be shown.
    pub(crate) secret: bool,
}

/// The values of a document, in its order; of what cannot be read, none.
pub(crate) fn leaves(document: &[u8]) -> Vec<Leaf> {
    let mut found = Vec::new();
    if let Ok(tree) = yaml::read(document) {
        walk(&tree, String::new(), false, &mut found);
    }
    found
}

fn walk(value: &Value, path: String, secret: bool, found: &mut Vec<Leaf>) {
    let shown = match value {
        Value::List(list) if !list.is_empty() => {
            for (index, item) in list.iter().enumerate() {
                walk(item, format!("{path}[{index}]"), secret, found);
            }
            return;
        }
        Value::Map(map) if !map.is_empty() => {
            for (key, item) in map {
                let secret = secret || matches!(key.as_str(), "env" | "content" | "base64");
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(item, path, secret, found);
            }
            return;
        }
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::List(_) => "[]".to_owned(),
        Value::Map(_) => "{}".to_owned(),
    };
    found.push(Leaf { path, value: shown, secret });
}
