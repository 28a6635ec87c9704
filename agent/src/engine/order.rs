//! In which order workloads start: what they depend on first, then by the declared order of kinds, then the larger of one
//! kind, then as written. The way down is the reverse. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use towline_protocol::WorkloadId;

/// A workload as ordering sees it, in the order of its documents.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: WorkloadId,
    pub(crate) depends_on: Vec<WorkloadId>,
    /// Bytes that it takes: the larger of one kind come first, while there is most room.
    pub(crate) size: u64,
}

/// Why there is no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("{workload}: spec.dependsOn: found {needs}, allowed are workloads of the same bundle")]
    Missing { workload: WorkloadId, needs: WorkloadId },
    #[error(
        "spec.dependsOn: found a circle of {}, allowed is none",
        workloads.iter().map(WorkloadId::as_str).collect::<Vec<_>>().join(", ")
    )]
    Circle { workloads: Vec<WorkloadId> },
}

/// Positions of `nodes` in the order they start in. Kinds that `declared` does not name come after those it does.
///
/// # Errors
/// A dependency that is not there, or a circle, by name.
pub(crate) fn start_order(nodes: &[Node], declared: &[String]) -> Result<Vec<usize>, OrderError> {
    let positions: BTreeMap<&WorkloadId, usize> =
        nodes.iter().enumerate().map(|(position, node)| (&node.id, position)).collect();
    let mut waits_for: Vec<BTreeSet<usize>> = Vec::with_capacity(nodes.len());
    let mut frees: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (position, node) in nodes.iter().enumerate() {
        let mut needs = BTreeSet::new();
        for needed in &node.depends_on {
            let missing = || OrderError::Missing { workload: node.id.clone(), needs: needed.clone() };
            let before = *positions.get(needed).ok_or_else(missing)?;
            if needs.insert(before) {
                frees.get_mut(before).into_iter().for_each(|freed| freed.push(position));
            }
        }
        waits_for.push(needs);
    }
    let kind =
        |node: &Node| declared.iter().position(|kind| kind == node.id.kind()).unwrap_or(declared.len());
    let key = |position: usize| {
        let node = nodes.get(position);
        Reverse((node.map_or(0, kind), Reverse(node.map_or(0, |node| node.size)), position))
    };
    let mut ready: BinaryHeap<_> = waits_for
        .iter()
        .enumerate()
        .filter(|(_, needs)| needs.is_empty())
        .map(|(position, _)| key(position))
        .collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse((_, _, position))) = ready.pop() {
        order.push(position);
        for freed in frees.get(position).into_iter().flatten() {
            let Some(needs) = waits_for.get_mut(*freed) else { continue };
            needs.remove(&position);
            if needs.is_empty() {
                ready.push(key(*freed));
            }
        }
    }
    if order.len() == nodes.len() {
        return Ok(order);
    }
    let circle = nodes.iter().zip(&waits_for).filter(|(_, needs)| !needs.is_empty());
    Err(OrderError::Circle { workloads: circle.map(|(node, _)| node.id.clone()).collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(id: &str, depends_on: &[&str], size: u64) -> Node {
        let depends_on = depends_on.iter().map(|id| id.parse().unwrap()).collect();
        Node { id: id.parse().unwrap(), depends_on, size }
    }

    fn names(nodes: &[Node], declared: &[&str]) -> Vec<String> {
        let declared: Vec<String> = declared.iter().map(ToString::to_string).collect();
        let order = start_order(nodes, &declared).unwrap();
        order.into_iter().map(|position| nodes[position].id.to_string()).collect()
    }

    #[test]
    fn z_e3_kinds_start_in_declared_order_and_the_larger_first() {
        let nodes = [
            node("App/web", &[], 0),
            node("Directory/small", &[], 1),
            node("File/conf", &[], 0),
            node("Directory/large", &[], 9),
        ];
        assert_eq!(
            names(&nodes, &["Directory", "File", "App"]),
            ["Directory/large", "Directory/small", "File/conf", "App/web"]
        );
        assert_eq!(names(&nodes, &["App"]), ["App/web", "Directory/large", "Directory/small", "File/conf"]);
    }

    #[test]
    fn z_e3_a_dependency_comes_first_whatever_its_kind() {
        let nodes = [
            node("Directory/d", &["App/init"], 0),
            node("App/init", &[], 0),
            node("App/web", &["Directory/d"], 0),
        ];
        assert_eq!(names(&nodes, &["Directory", "App"]), ["App/init", "Directory/d", "App/web"]);
    }

    #[test]
    fn what_has_no_order_is_refused_by_name() {
        let circle = [node("App/a", &["App/b"], 0), node("App/b", &["App/a"], 0), node("App/c", &[], 0)];
        let error = start_order(&circle, &[]).unwrap_err().to_string();
        assert_eq!(error, "spec.dependsOn: found a circle of App/a, App/b, allowed is none");
        let missing = [node("App/a", &["App/x"], 0)];
        let error = start_order(&missing, &[]).unwrap_err().to_string();
        assert!(error.starts_with("App/a: spec.dependsOn: found App/x"), "{error}");
        assert!(start_order(&[node("App/a", &["App/a"], 0)], &[]).is_err());
    }

    proptest! {
        #[test]
        fn every_order_is_whole_stable_and_after_its_needs(
            edges in proptest::collection::vec((0_usize..8, 0_usize..8), 0..12), kinds in proptest::collection::vec(0_u8..3, 8),
        ) {
            // Needs point backwards, so there is no circle.
            let nodes: Vec<Node> = (0..8).map(|index| {
                let needs = edges.iter().filter(|(from, to)| *from == index && to < from);
                let needs: Vec<String> = needs.map(|(_, to)| format!("K{}/w{to}", kinds[*to])).collect();
                node(&format!("K{}/w{index}", kinds[index]), &needs.iter().map(String::as_str).collect::<Vec<_>>(), 0)
            }).collect();
            let declared = ["K2".to_owned(), "K0".to_owned()];
            let order = start_order(&nodes, &declared).unwrap();
            let place = |id: &WorkloadId| order.iter().position(|position| nodes[*position].id == *id).unwrap();
            prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), nodes.len());
            for node in &nodes {
                for need in &node.depends_on {
                    prop_assert!(place(need) < place(&node.id));
                }
            }
            prop_assert_eq!(start_order(&nodes, &declared).unwrap(), order);
        }
    }
}
