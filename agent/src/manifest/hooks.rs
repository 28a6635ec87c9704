//! Commands around the life of a unit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::{Field, Fields};
use crate::shim::HOOK_MAX;

/// Commands that are run before and after a unit starts and stops; each a list of words, empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Before a start, which fails if it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pre_start: Vec<String>,
    /// Once after a start, which fails if it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub post_start: Vec<String>,
    /// Before a unit is told to stop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<String>,
    /// When it has ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub post_stop: Vec<String>,
}

impl Hooks {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How long all of them may take together.
    pub(super) fn longest(&self) -> Duration {
        let hooks = [&self.pre_start, &self.post_start, &self.pre_stop, &self.post_stop];
        hooks.into_iter().filter(|hook| !hook.is_empty()).map(|_| HOOK_MAX).sum()
    }
}

/// Reads `hooks`.
pub(super) fn read(mut fields: Fields<'_>) -> Hooks {
    let hooks = Hooks {
        pre_start: words(&fields.get("preStart")),
        post_start: words(&fields.get("postStart")),
        pre_stop: words(&fields.get("preStop")),
        post_stop: words(&fields.get("postStop")),
    };
    fields.finish();
    hooks
}

fn words(field: &Field<'_>) -> Vec<String> {
    let words = field.texts();
    if words.first().is_some_and(String::is_empty) {
        field.refuse("found no program, allowed is a list such as [/bin/true]");
    }
    words
}
