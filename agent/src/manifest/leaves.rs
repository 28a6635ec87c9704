//! A document as a list of its values, for showing what differs between two.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::yaml::{self, Value};

/// One value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) path: String,
    /// The value itself: text in quotes.
    pub(crate) value: String,
    /// What is shown in its stead, where it may be a secret.
    pub(crate) hidden: Option<String>,
}

/// Characters of a digest that are shown: enough to tell one file from another, too few to find out what is in it.
const DIGEST_CHARS: usize = 8;

/// What may be a secret.
#[derive(Debug, Clone, Copy)]
enum Secret {
    /// Nothing of it is shown.
    All,
    /// Content of a file, as text.
    Text,
    /// Content of a file, in base64.
    Base64,
}

impl Secret {
    fn of(key: &str) -> Option<Self> {
        match key {
            "env" => Some(Self::All),
            "content" => Some(Self::Text),
            "base64" => Some(Self::Base64),
            _ => None,
        }
    }

    /// What is shown: of the content of a file, its digest.
    fn hide(self, value: &Value) -> String {
        let content = match (self, value) {
            (Self::Text, Value::String(text)) => Some(text.as_bytes().to_vec()),
            (Self::Base64, Value::String(text)) => {
                STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).ok()
            }
            _ => None,
        };
        content.map_or_else(
            || "(hidden)".to_owned(),
            |content| {
                let digest = blake3::hash(&content).to_hex();
                let digest: String = digest.chars().take(DIGEST_CHARS).collect();
                format!("(hidden, blake3 {digest}…)")
            },
        )
    }
}

/// The values of a document, in its order; of what cannot be read, none.
pub(crate) fn leaves(document: &[u8]) -> Vec<Leaf> {
    let mut found = Vec::new();
    if let Ok(tree) = yaml::read(document) {
        walk(&tree, String::new(), None, &mut found);
    }
    found
}

fn walk(value: &Value, path: String, secret: Option<Secret>, found: &mut Vec<Leaf>) {
    let shown = match value {
        Value::List(list) if !list.is_empty() => {
            for (index, item) in list.iter().enumerate() {
                walk(item, format!("{path}[{index}]"), secret, found);
            }
            return;
        }
        Value::Map(map) if !map.is_empty() => {
            for (key, item) in map {
                let secret = secret.or_else(|| Secret::of(key));
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
    let hidden = secret.map(|secret| secret.hide(value));
    found.push(Leaf { path, value: shown, hidden });
}
