//! What a bundle's new content means for each of its workloads. Pure: wanted and carried out in, operations out.

use std::collections::{BTreeMap, BTreeSet};

use towline_protocol::{
    ContentDigest, WorkloadId,
    bundle::{ChangeOp, ResultState},
};

/// A workload that is wanted. Given in start order.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) id: WorkloadId,
    pub(crate) digest: ContentDigest,
}

/// A workload that is there. Given in the order it was started in.
#[derive(Debug, Clone)]
pub(crate) struct There {
    pub(crate) id: WorkloadId,
    /// The definition that was carried out, if one was.
    pub(crate) holds: Option<ContentDigest>,
    pub(crate) state: ResultState,
    /// It failed since.
    pub(crate) failing: bool,
}

/// What becomes of one workload, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) id: WorkloadId,
    pub(crate) op: ChangeOp,
    pub(crate) reason: &'static str,
}

/// Operations in the order of the work: what goes first, in reverse of the way it came; then what comes, changes or
/// stays, in start order.
pub(crate) fn plan(wanted: &[Wanted], there: &[There]) -> Vec<Op> {
    let asked: BTreeSet<&WorkloadId> = wanted.iter().map(|wanted| &wanted.id).collect();
    let known: BTreeMap<&WorkloadId, &There> = there.iter().map(|there| (&there.id, there)).collect();
    let gone = there.iter().rev().filter(|there| !asked.contains(&there.id));
    let removes = gone.map(|there| Op {
        id: there.id.clone(),
        op: ChangeOp::Remove,
        reason: "the bundle no longer has it",
    });
    let rest = wanted.iter().map(|wanted| {
        let (op, reason) =
            known.get(&wanted.id).map_or((ChangeOp::Add, "it is new"), |there| becomes(wanted, there));
        Op { id: wanted.id.clone(), op, reason }
    });
    removes.chain(rest).collect()
}

fn becomes(wanted: &Wanted, there: &There) -> (ChangeOp, &'static str) {
    match there.holds {
        None => (ChangeOp::Add, "it was never carried out"),
        Some(holds) if holds != wanted.digest => (ChangeOp::Update, "its definition differs"),
        Some(_) if there.state == ResultState::Error || there.failing => {
            (ChangeOp::Update, "it failed before")
        }
        Some(_) => (ChangeOp::Untouched, "its definition is the same"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(content: u8) -> ContentDigest {
        ContentDigest::of(&[content])
    }

    fn wanted(id: &str, content: u8) -> Wanted {
        Wanted { id: id.parse().unwrap(), digest: digest(content) }
    }

    fn there(id: &str, content: Option<u8>, state: ResultState) -> There {
        There { id: id.parse().unwrap(), holds: content.map(digest), state, failing: false }
    }

    #[test]
    fn z_u2_removes_come_first_and_in_reverse() {
        let before = [
            there("App/a", Some(1), ResultState::Ok),
            there("App/b", Some(1), ResultState::Ok),
            there("App/c", Some(1), ResultState::Ok),
            there("App/d", Some(1), ResultState::Error),
            there("App/e", None, ResultState::Init),
        ];
        let after = [wanted("App/n", 1), wanted("App/c", 2), wanted("App/a", 1), wanted("App/d", 1)];
        let shown: Vec<String> =
            plan(&after, &before).iter().map(|op| format!("{} {}", op.op, op.id.name())).collect();
        assert_eq!(shown, ["remove e", "remove b", "add n", "update c", "untouched a", "update d"]);
        assert_eq!(plan(&after[2..3], &before[..1])[0].op, ChangeOp::Untouched);
    }

    proptest! {
        #[test]
        fn what_was_carried_out_needs_nothing_more(contents in proptest::collection::btree_map(0_u8..9, 0_u8..3, 0..9)) {
            let after: Vec<Wanted> = contents.iter().map(|(name, content)| wanted(&format!("App/{name}"), *content)).collect();
            let before: Vec<There> = contents.iter().map(|(name, content)| there(&format!("App/{name}"), Some(*content), ResultState::Ok)).collect();
            prop_assert!(plan(&after, &before).iter().all(|op| op.op == ChangeOp::Untouched));
        }

        #[test]
        fn every_workload_has_one_operation_and_it_is_the_right_one(
            old in proptest::collection::btree_map(0_u8..9, 0_u8..3, 0..9), new in proptest::collection::btree_map(0_u8..9, 0_u8..3, 0..9),
        ) {
            let after: Vec<Wanted> = new.iter().map(|(name, content)| wanted(&format!("App/{name}"), *content)).collect();
            let before: Vec<There> = old.iter().map(|(name, content)| there(&format!("App/{name}"), Some(*content), ResultState::Ok)).collect();
            let ops = plan(&after, &before);
            let all: BTreeSet<u8> = old.keys().chain(new.keys()).copied().collect();
            prop_assert_eq!(ops.len(), all.len());
            let first_other = ops.iter().position(|op| op.op != ChangeOp::Remove).unwrap_or(ops.len());
            prop_assert!(ops[first_other..].iter().all(|op| op.op != ChangeOp::Remove));
            for op in &ops {
                let name: u8 = op.id.name().parse().unwrap();
                let expected = match (old.get(&name), new.get(&name)) {
                    (Some(_), None) => ChangeOp::Remove,
                    (None, _) => ChangeOp::Add,
                    (Some(old), Some(new)) if old == new => ChangeOp::Untouched,
                    _ => ChangeOp::Update,
                };
                prop_assert_eq!(&op.op, &expected);
            }
        }
    }
}
