//! What has to be done so that what is applied becomes what is wanted. Pure.

use bytes::Bytes;
use towline_hub::api::types::ActionInfo;
use towline_protocol::ResourceId;

use crate::input::Resource;

/// What stands applied, in the order in which it was.
pub(super) type Applied = Vec<(ResourceId, Bytes)>;

/// Deletes what is not wanted any more, the last first; then applies what is new or changed, in order of appearance.
pub(super) fn plan(applied: &Applied, wanted: &[Resource]) -> Vec<ActionInfo> {
    let gone = applied.iter().rev().filter(|(id, _)| wanted.iter().all(|resource| resource.id != *id));
    let deletes = gone.map(|(id, bytes)| ActionInfo {
        id: id.clone(),
        delete: Some(bytes.clone().into()),
        apply: None,
    });
    let changed = wanted
        .iter()
        .filter(|resource| applied.iter().all(|(id, bytes)| *id != resource.id || *bytes != resource.bytes));
    let applies = changed.map(|resource| ActionInfo {
        id: resource.id.clone(),
        delete: None,
        apply: Some(resource.bytes.clone().into()),
    });
    deletes.chain(applies).collect()
}

/// What stands applied after a plan of which all was done but what `failed` names.
pub(super) fn after(applied: Applied, plan: &[ActionInfo], failed: impl Fn(&ResourceId) -> bool) -> Applied {
    let mut applied = applied;
    for action in plan.iter().filter(|action| !failed(&action.id)) {
        match &action.apply {
            None => applied.retain(|(id, _)| *id != action.id),
            Some(bytes) => match applied.iter_mut().find(|(id, _)| *id == action.id) {
                Some((_, old)) => *old = bytes.0.clone(),
                None => applied.push((action.id.clone(), bytes.0.clone())),
            },
        }
    }
    applied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Origin;

    fn wanted(resources: &[(&str, &str)]) -> Vec<Resource> {
        let resource = |(id, text): &(&str, &str)| Resource {
            id: id.parse().unwrap(),
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            origin: Origin { source: "f.yaml".to_owned(), document: 1 },
        };
        resources.iter().map(resource).collect()
    }

    fn shown(plan: &[ActionInfo]) -> Vec<String> {
        let verb = |action: &ActionInfo| if action.delete.is_some() { "delete" } else { "apply" };
        plan.iter().map(|action| format!("{} {}", verb(action), action.id)).collect()
    }

    #[test]
    fn only_what_differs_is_done() {
        let first = wanted(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let steps = plan(&Vec::new(), &first);
        assert_eq!(shown(&steps), ["apply a", "apply b", "apply c"]);
        let applied = after(Vec::new(), &steps, |_| false);
        assert!(plan(&applied, &first).is_empty());

        let second = wanted(&[("d", "1"), ("b", "2")]);
        let steps = plan(&applied, &second);
        assert_eq!(shown(&steps), ["delete c", "delete a", "apply d", "apply b"]);
        assert!(plan(&after(applied.clone(), &steps, |_| false), &second).is_empty());

        let failed = after(applied, &steps, |id| ["a", "b"].contains(&id.as_str()));
        assert_eq!(shown(&plan(&failed, &second)), ["delete a", "apply b"], "what failed is tried again");
    }
}
