//! Reading a tree strictly: each field is asked for by name, and every complaint is collected on the way.
//!
//! A field that is absent or null takes its default. What nobody asked for is unknown, and [`Fields::finish`] says so
//! with the list of what was asked for; thus the reader itself is the one place that spells the allowed names.

use std::{cell::RefCell, collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

use super::{error::Complaint, yaml::Value};

/// Where complaints gather. Shared by all fields of a document.
#[derive(Debug, Default)]
pub(crate) struct Complaints(RefCell<Vec<Complaint>>);

impl Complaints {
    pub(crate) fn add(&self, path: impl Into<String>, text: impl Into<String>) {
        self.0.borrow_mut().push(Complaint::new(path, text));
    }

    pub(crate) fn into_inner(self) -> Vec<Complaint> {
        self.0.into_inner()
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    path: String,
    value: Option<&'a Value>,
    complaints: &'a Complaints,
}

impl<'a> Field<'a> {
    pub(crate) fn root(value: &'a Value, complaints: &'a Complaints) -> Self {
        Self { path: String::new(), value: Some(value), complaints }
    }

    /// The value, unless it is absent or null.
    pub(crate) fn value(&self) -> Option<&'a Value> {
        self.value.filter(|value| !matches!(value, Value::Null))
    }

    pub(crate) fn refuse(&self, text: impl Into<String>) {
        self.complaints.add(self.path.clone(), text);
    }

    /// Refuses what was found because it has the wrong type.
    fn mismatch(&self, found: &Value, allowed: &str) {
        // The commonest slip by far: a number where a text is meant.
        let hint = match found {
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) if allowed.starts_with("a text") => {
                " (put it in quotes)"
            }
            _ => "",
        };
        self.refuse(format!("found {}, allowed is {allowed}{hint}", found.describe()));
    }

    /// Complains when the field is absent; otherwise hands it on.
    pub(crate) fn required(self) -> Self {
        if self.value().is_none() {
            self.refuse("found nothing, but it is required");
        }
        self
    }

    pub(crate) fn text(&self) -> Option<String> {
        match self.value()? {
            Value::String(text) if text.contains('\0') => {
                self.refuse("found a zero byte, allowed is a text without one");
                None
            }
            Value::String(text) => Some(text.clone()),
            other => {
                self.mismatch(other, "a text");
                None
            }
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.value()? {
            Value::Bool(value) => Some(*value),
            other => {
                self.mismatch(other, "true or false");
                None
            }
        }
    }

    pub(crate) fn number<T: TryFrom<i128> + Display + Copy + Into<i128>>(
        &self,
        allowed: RangeInclusive<T>,
    ) -> Option<T> {
        let range = (*allowed.start()).into()..=(*allowed.end()).into();
        let expected = format!("a whole number from {} to {}", allowed.start(), allowed.end());
        match self.value()? {
            Value::Integer(value) if range.contains(value) => T::try_from(*value).ok(),
            other => {
                self.mismatch(other, &expected);
                None
            }
        }
    }

    /// A text that parses; the error says what is allowed.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|error: T::Err| self.refuse(error.to_string())).ok()
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let allowed = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let Value::String(text) = self.value()? else {
            self.value().inspect(|other| self.mismatch(other, &format!("one of {}", allowed())));
            return None;
        };
        let choice = choices.iter().find(|(word, _)| word == text).map(|(_, value)| *value);
        if choice.is_none() {
            let found: String = text.chars().take(80).collect();
            self.refuse(format!("found {found:?}, allowed is one of {}", allowed()));
        }
        choice
    }

    /// The items of a list; of nothing when absent.
    pub(crate) fn items(&self) -> Vec<Field<'a>> {
        match self.value() {
            None => Vec::new(),
            Some(Value::List(list)) => {
                let item = |(index, value)| Field {
                    path: format!("{}[{index}]", self.path),
                    value: Some(value),
                    complaints: self.complaints,
                };
                list.iter().enumerate().map(item).collect()
            }
            Some(other) => {
                self.mismatch(other, "a list");
                Vec::new()
            }
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(|item| item.clone().required().text()).collect()
    }

    /// A map from text to text.
    pub(crate) fn text_map(&self) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        for (key, field) in self.entries() {
            if let Some(text) = field.required().text() {
                map.insert(key, text);
            }
        }
        map
    }

    /// Every key of a map with its value, in order.
    pub(crate) fn entries(&self) -> Vec<(String, Field<'a>)> {
        match self.value() {
            None => Vec::new(),
            Some(Value::Map(map)) => {
                map.iter().map(|(key, value)| (key.clone(), self.child(key, Some(value)))).collect()
            }
            Some(other) => {
                self.mismatch(other, "a map");
                Vec::new()
            }
        }
    }

    /// The fields of a map; all of them absent when the map is.
    pub(crate) fn fields(&self) -> Fields<'a> {
        Fields { entries: self.entries(), of: self.clone(), asked: Vec::new() }
    }

    fn child(&self, key: &str, value: Option<&'a Value>) -> Field<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Field { path, value, complaints: self.complaints }
    }
}

/// The fields of one map. Ask for each with [`Fields::get`], then [`Fields::finish`].
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    entries: Vec<(String, Field<'a>)>,
    of: Field<'a>,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn get(&mut self, name: &'static str) -> Field<'a> {
        self.asked.push(name);
        let found = self.entries.iter().find(|(key, _)| key == name);
        found.map_or_else(|| self.of.child(name, None), |(_, field)| field.clone())
    }

    /// Complains about the map as a whole.
    pub(crate) fn refuse(&self, text: impl Into<String>) {
        self.of.refuse(text);
    }

    /// Complains about every field that was not asked for.
    pub(crate) fn finish(self) {
        for (key, field) in &self.entries {
            if !self.asked.contains(&key.as_str()) {
                field.refuse(format!("found an unknown field, allowed are {}", self.asked.join(", ")));
            }
        }
    }
}
