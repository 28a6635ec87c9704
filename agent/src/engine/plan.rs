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

    fn states() -> impl Strategy<Value = ResultState> {
        let all = [
            ResultState::Init,
            ResultState::Ok,
            ResultState::Error,
            ResultState::Paused,
            ResultState::Unchanged,
        ];
        proptest::sample::select(all.to_vec())
    }

    /// What is there, in any start order: carried out or never, in any state, failing since or not.
    fn anything_there() -> impl Strategy<Value = Vec<There>> {
        let one = (proptest::option::of(0_u8..3), states(), any::<bool>());
        let all = proptest::collection::btree_map(0_u8..9, one, 0..9);
        all.prop_map(|all| all.into_iter().collect::<Vec<_>>()).prop_shuffle().prop_map(|all| {
            let there = |(name, (holds, state, failing)): (u8, (Option<u8>, ResultState, bool))| There {
                failing,
                ..there(&format!("App/{name}"), holds, state)
            };
            all.into_iter().map(there).collect()
        })
    }

    /// What is wanted, in any start order.
    fn anything_wanted() -> impl Strategy<Value = Vec<Wanted>> {
        let all = proptest::collection::btree_map(0_u8..9, 0_u8..3, 0..9);
        all.prop_map(|all| all.into_iter().collect::<Vec<_>>()).prop_shuffle().prop_map(|all| {
            all.into_iter().map(|(name, content)| wanted(&format!("App/{name}"), content)).collect()
        })
    }

    proptest! {
        #[test]
        fn every_workload_has_one_operation_and_it_is_the_right_one(
            after in anything_wanted(), before in anything_there(),
        ) {
            let ops = plan(&after, &before);
            let all: BTreeSet<&WorkloadId> =
                before.iter().map(|there| &there.id).chain(after.iter().map(|wanted| &wanted.id)).collect();
            prop_assert_eq!(ops.iter().map(|op| &op.id).collect::<BTreeSet<_>>(), all);
            prop_assert_eq!(ops.iter().map(|op| &op.id).collect::<BTreeSet<_>>().len(), ops.len());
            for op in &ops {
                let old = before.iter().find(|there| there.id == op.id);
                let new = after.iter().find(|wanted| wanted.id == op.id);
                let expected = match (old, new) {
                    (_, None) => ChangeOp::Remove,
                    (None, _) | (Some(There { holds: None, .. }), _) => ChangeOp::Add,
                    (Some(old), Some(new)) => {
                        let sound = !old.failing && old.state != ResultState::Error;
                        let same = old.holds == Some(new.digest);
                        if sound && same { ChangeOp::Untouched } else { ChangeOp::Update }
                    }
                };
                prop_assert_eq!(&op.op, &expected, "{:?} {:?}", old, new);
            }
        }

        #[test]
        fn what_goes_comes_first_in_reverse_and_the_rest_in_start_order(
            after in anything_wanted(), before in anything_there(),
        ) {
            let ops = plan(&after, &before);
            let goes = ops.iter().take_while(|op| op.op == ChangeOp::Remove).count();
            let ids = |ops: &[Op]| ops.iter().map(|op| op.id.clone()).collect::<Vec<_>>();
            let stays = |id: &WorkloadId| after.iter().any(|wanted| wanted.id == *id);
            let mut down: Vec<WorkloadId> =
                before.iter().map(|there| there.id.clone()).filter(|id| !stays(id)).collect();
            down.reverse();
            prop_assert_eq!(ids(&ops[..goes]), down);
            let up: Vec<WorkloadId> = after.iter().map(|wanted| wanted.id.clone()).collect();
            prop_assert_eq!(ids(&ops[goes..]), up);
        }

        #[test]
        fn a_plan_that_was_carried_out_leaves_nothing_to_do(
            after in anything_wanted(), before in anything_there(),
        ) {
            let mut now = before;
            for op in plan(&after, &now) {
                now.retain(|there| there.id != op.id || op.op == ChangeOp::Untouched);
                let wanted = after.iter().find(|wanted| wanted.id == op.id && op.op != ChangeOp::Untouched);
                now.extend(wanted.map(|wanted| There {
                    id: wanted.id.clone(),
                    holds: Some(wanted.digest),
                    state: ResultState::Ok,
                    failing: false,
                }));
            }
            let left = plan(&after, &now);
            prop_assert!(left.iter().all(|op| op.op == ChangeOp::Untouched), "{:?}", left);
            prop_assert_eq!(left.len(), after.len());
        }
    }
}
