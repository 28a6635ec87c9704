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

    /// Eight workloads of three kinds and several sizes, which need each other in any way.
    fn anything() -> impl Strategy<Value = Vec<Node>> {
        let edges = proptest::collection::vec((0_usize..8, 0_usize..8), 0..12);
        let shapes = proptest::collection::vec((0_u8..3, 0_u64..3), 8);
        (edges, shapes).prop_map(|(edges, shapes)| {
            let id = |index: usize| format!("K{}/w{index}", shapes[index].0);
            let one = |index: usize| {
                let needs = edges.iter().filter(|(from, _)| *from == index).map(|(_, to)| id(*to));
                let needs: Vec<String> = needs.collect();
                let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
                node(&id(index), &needs, shapes[index].1)
            };
            (0..8).map(one).collect()
        })
    }

    /// The same without circles: each needs only what is written before it.
    fn without_circles() -> impl Strategy<Value = Vec<Node>> {
        anything().prop_map(|mut nodes| {
            for index in 0..nodes.len() {
                let before: Vec<WorkloadId> = nodes[..index].iter().map(|node| node.id.clone()).collect();
                nodes[index].depends_on.retain(|needed| before.contains(needed));
            }
            nodes
        })
    }

    fn declared() -> Vec<String> {
        vec!["K2".to_owned(), "K0".to_owned()]
    }

    /// What a workload is compared by that waits for nothing: kind as declared, the larger first, as written.
    fn key(nodes: &[Node], position: usize) -> (usize, Reverse<u64>, usize) {
        let kind = declared().iter().position(|kind| kind == nodes[position].id.kind()).unwrap_or(2);
        (kind, Reverse(nodes[position].size), position)
    }

    proptest! {
        #[test]
        fn every_order_is_whole_and_each_step_takes_the_first_that_waits_for_nothing(nodes in without_circles()) {
            let order = start_order(&nodes, &declared()).unwrap();
            prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), nodes.len());
            prop_assert_eq!(order.len(), nodes.len());
            for (step, taken) in order.iter().enumerate() {
                let started = |needed: &WorkloadId| order[..step].iter().any(|before| nodes[*before].id == *needed);
                let ready = |position: &&usize| nodes[**position].depends_on.iter().all(started);
                let first = order[step..].iter().filter(ready).min_by_key(|position| key(&nodes, **position));
                prop_assert_eq!(first, Some(taken));
            }
        }

        #[test]
        fn on_the_way_down_nothing_goes_before_what_needs_it(nodes in without_circles()) {
            let mut down = start_order(&nodes, &declared()).unwrap();
            down.reverse();
            let place = |id: &WorkloadId| down.iter().position(|position| nodes[*position].id == *id).unwrap();
            for node in &nodes {
                for needed in &node.depends_on {
                    prop_assert!(place(&node.id) < place(needed));
                }
            }
        }

        #[test]
        fn without_an_order_those_that_have_none_are_named(nodes in anything()) {
            // Whoever waits only for those that can start can start, until nobody else can.
            let mut can: BTreeSet<WorkloadId> = BTreeSet::new();
            while let Some(next) = nodes.iter().find(|node| {
                !can.contains(&node.id) && node.depends_on.iter().all(|needed| can.contains(needed))
            }) {
                can.insert(next.id.clone());
            }
            let cannot: Vec<WorkloadId> =
                nodes.iter().map(|node| node.id.clone()).filter(|id| !can.contains(id)).collect();
            match start_order(&nodes, &declared()) {
                Ok(order) => prop_assert!(cannot.is_empty() && order.len() == nodes.len()),
                Err(error) => prop_assert_eq!(error, OrderError::Circle { workloads: cannot }),
            }
        }
    }
}
