//! The mark: who may act, of two agents with stores of their own.

use std::sync::Arc;

use towline_protocol::Epoch;

use super::Stand;
use crate::{
    runtime::{Runtime, RuntimeError},
    shim::Status,
};

/// As the hub tells an agent to act.
async fn told_to_act(runtime: &Arc<dyn Runtime>, epoch: u64) {
    let mark = runtime.mark().clone();
    let epoch = Epoch::new(epoch).expect("a small number is an epoch");
    let raised = tokio::task::spawn_blocking(move || mark.raise(epoch)).await.expect("it does not panic");
    raised.expect("nobody is above it");
}

fn is_fenced<T>(done: &Result<T, RuntimeError>) -> bool {
    matches!(done, Err(RuntimeError::Fenced { .. }))
}

pub(super) async fn an_agent_of_a_later_epoch_acts_and_an_earlier_one_does_not_any_more(
    stand: &mut Stand<'_>,
) {
    told_to_act(&stand.runtime, 5).await;
    let first = stand.start("exec sleep 1000", "").await;
    let later = stand.place.open_other().await;
    told_to_act(&later, 6).await;
    let spec = stand.spec("web", "exec sleep 1000", "");
    let second = later.start(&spec).await.expect("it acts, after a while");
    // It looks, and changes nothing.
    let earlier = &stand.runtime;
    assert!(is_fenced(&earlier.start(&spec).await));
    assert!(is_fenced(&earlier.stop(&first.unit).await));
    assert!(is_fenced(&earlier.start_again(&first.unit).await));
    assert!(is_fenced(&earlier.delete(&first.unit).await));
    let seen = later.observe("default/App/web", None).await.expect("the runtime answers");
    let mut seen: Vec<_> =
        seen.into_iter().map(|seen| (seen.unit, seen.state.status, seen.state.pid)).collect();
    let mut expected = vec![
        (first.unit, Status::Started, first.state.pid),
        (second.unit, Status::Started, second.state.pid),
    ];
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(seen, expected);
    std::mem::replace(&mut stand.runtime, later).close().await;
}
