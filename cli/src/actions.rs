//! The file of `towline sync`: `actions: [{id, delete, apply}]`, `delete` and `apply` being documents.
//!
//! A document is written as text (`apply: |`), which is passed on verbatim, or as YAML in its place, which is passed on
//! as JSON: that is YAML, too, and says the same.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use towline_agent::manifest;
use towline_hub::api::types::ActionInfo;
use towline_protocol::ResourceId;

use crate::ids::AppId;
use crate::input::{ReadInputError, Source};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    actions: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: Option<String>,
    delete: Option<Document>,
    apply: Option<Document>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Tree(serde_json::Map<String, serde_json::Value>),
}

impl Document {
    fn into_bytes(self) -> Bytes {
        match self {
            Self::Text(text) => text.into(),
            Self::Tree(tree) => serde_json::Value::Object(tree).to_string().into(),
        }
    }
}

/// An action, and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    /// What to do.
    pub(crate) info: ActionInfo,
    /// Where it stands: `actions.yaml: actions[3]`.
    pub(crate) place: String,
}

/// All actions of all sources, in order.
///
/// # Errors
/// Everything that is wrong with any of them, at once.
pub(crate) fn actions(sources: &[Source]) -> Result<Vec<Action>, ReadInputError> {
    let mut found = Vec::new();
    let mut complaints = Vec::new();
    for source in sources {
        match serde_saphyr::from_slice::<File>(&source.bytes) {
            Ok(file) => {
                for (index, entry) in file.actions.into_iter().enumerate() {
                    let place = Place { source: &source.name, index };
                    match check(entry, &place) {
                        Ok(info) => found.push(Action { info, place: place.to_string() }),
                        Err(complaint) => complaints.push(complaint),
                    }
                }
            }
            Err(error) => complaints.push(format!("{}: {}", source.name, first_line(&error.to_string()))),
        }
    }
    if !complaints.is_empty() {
        return Err(ReadInputError::Malformed { complaints: complaints.join("\n") });
    }
    if found.is_empty() {
        let names = sources.iter().map(|source| format!("`{}`", source.name)).collect::<Vec<_>>().join(", ");
        return Err(ReadInputError::NoDocuments { names });
    }
    Ok(found)
}

/// The parser draws the place below its sentence; the sentence names it already.
fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or(text).trim_start_matches("error: ")
}

/// Where an action stands.
struct Place<'a> {
    source: &'a str,
    index: usize,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: actions[{}]", self.source, self.index)
    }
}

fn check(entry: Entry, place: &Place<'_>) -> Result<ActionInfo, String> {
    let delete = entry.delete.map(|document| identified(document, &format!("{place}.delete"))).transpose()?;
    let apply = entry.apply.map(|document| identified(document, &format!("{place}.apply"))).transpose()?;
    let named = match entry.id {
        None => None,
        Some(id) => Some(id.parse::<AppId>().map_err(|why| format!("{place}.id: found {id:?}: {why}"))?),
    };
    let mut ids = named.iter().map(AppId::as_resource);
    let mut ids = ids.by_ref().chain(delete.iter().map(|(id, _)| id)).chain(apply.iter().map(|(id, _)| id));
    let Some(id) = ids.next() else {
        return Err(format!("{place}: found neither delete nor apply, at least one of them is required"));
    };
    if let Some(other) = ids.find(|other| *other != id) {
        return Err(format!("{place}: found {id} and {other} in one action, allowed is one id"));
    }
    if delete.is_none() && apply.is_none() {
        return Err(format!("{place}: found neither delete nor apply, at least one of them is required"));
    }
    let id = id.clone();
    let bytes = |document: (ResourceId, Bytes)| document.1.into();
    Ok(ActionInfo { id, delete: delete.map(bytes), apply: apply.map(bytes) })
}

fn identified(document: Document, place: &str) -> Result<(ResourceId, Bytes), String> {
    let bytes = document.into_bytes();
    let found = manifest::identify(place, &bytes).map_err(|errors| errors.to_string())?;
    match found.as_slice() {
        [(id, _)] => {
            let id = id.parse().map_err(|error| format!("{place}: {error}"))?;
            Ok((id, bytes))
        }
        others => Err(format!("{place}: found {} documents, allowed is one", others.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<ActionInfo>, String> {
        let source = Source { name: "s.yaml".to_owned(), bytes: Bytes::copy_from_slice(text.as_bytes()) };
        let found = actions(&[source]).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|action| action.info).collect())
    }

    const DOCUMENT: &str = "apiVersion: towline/v1\nkind: App\nmetadata: {name: web}\n";

    #[test]
    fn text_is_passed_on_verbatim_and_trees_as_json() {
        let indented = DOCUMENT.lines().map(|line| format!("      {line}\n")).collect::<String>();
        let found =
            read(&format!("actions:\n  - id: web\n    delete: |\n{indented}    apply:\n{indented}")).unwrap();
        let [action] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(action.id.as_str(), "default/App/web");
        assert_eq!(Bytes::from(action.delete.clone().unwrap()), DOCUMENT);
        let apply = Bytes::from(action.apply.clone().unwrap());
        let tree: serde_json::Value = serde_json::from_slice(&apply).unwrap();
        assert_eq!(
            tree,
            serde_json::json!({"apiVersion": "towline/v1", "kind": "App", "metadata": {"name": "web"}})
        );
    }

    #[test]
    fn an_id_may_be_left_out_but_not_differ() {
        let apply = "{apiVersion: towline/v1, kind: App, metadata: {name: web}}";
        assert_eq!(
            read(&format!("actions: [{{apply: {apply}}}]")).unwrap()[0].id.as_str(),
            "default/App/web"
        );
        let other = read(&format!("actions: [{{id: App/db, apply: {apply}}}]")).unwrap_err();
        assert_eq!(
            other,
            "s.yaml: actions[0]: found default/App/db and default/App/web in one action, allowed is one id"
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, part) in [
            ("actions: [{id: web}]", "s.yaml: actions[0]: found neither delete nor apply"),
            ("actions: [{}]", "s.yaml: actions[0]: found neither delete nor apply"),
            ("actions: [{id: WEB, apply: \"\"}]", "s.yaml: actions[0].apply: found 0 documents"),
            ("actions: [{apply: {kind: App}}]", "s.yaml: actions[0].apply: document 1: "),
            ("actions: [{remove: x}]", "s.yaml: "),
            ("apply: []", "s.yaml: "),
            ("- a\n- b", "s.yaml: "),
            ("actions: []", "`s.yaml` holds no documents"),
            ("\u{0}", "s.yaml: "),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text:?} gave {error:?}");
            let places = error.lines().filter(|line| !line.starts_with("s.yaml: ")).count();
            assert!(places == 0 || error.starts_with('`'), "{text:?} gave {error:?}");
        }
    }
}
