//! What is bounded, and what is done by two at once.

use super::Stand;
use crate::shim::Status;

pub(super) async fn a_log_keeps_to_its_bounds(stand: &mut Stand<'_>) {
    let script = "i=0; while [ $i -lt 6000 ]; do echo $i 0123456789012345678901234567890123456789012345678901234567890; \
                  i=$((i+1)); done; echo the end; exec sleep 1000";
    let unit = stand.start(script, "  logs: {maxSize: 64Ki, maxFiles: 2}\n").await;
    while stand.texts(1).await.last().is_none_or(|last| last != "the end") {
        stand.until(&unit.unit, "it to write", |seen| seen.state.status == Status::Started).await;
    }
    // Whoever reads while it writes may see more than is kept at any time.
    let all = stand.texts(1).await;
    let bytes: usize = all.iter().map(String::len).sum();
    // What a line takes besides its text counts, too, so there may be less.
    assert!(bytes <= 2 * 65_536, "{bytes} bytes are kept");
    assert!(all.len() > 100, "the last lines are kept: {}", all.len());
    assert!(!all.contains(&"0 0123456789012345678901234567890123456789012345678901234567890".to_owned()));
}

pub(super) async fn what_two_agents_do_at_once_is_done_once(stand: &mut Stand<'_>) {
    let mut units = Vec::new();
    for _ in 0..3 {
        units.push(stand.start("exec sleep 1000", "").await.unit);
    }
    let other = stand.place.open().await;
    for unit in &units {
        assert!(other.list().iter().any(|seen| seen.unit == *unit), "the other sees what there is");
    }
    for unit in &units {
        let (one, two) = tokio::join!(stand.runtime.stop(unit), other.stop(unit));
        one.expect("it stops");
        two.expect("it has stopped");
    }
    for unit in &units {
        let (one, two) = tokio::join!(stand.runtime.delete(unit), other.delete(unit));
        // Whoever comes later finds it done.
        let is_fine = |done: &Result<(), crate::runtime::RuntimeError>| {
            matches!(done, Ok(()) | Err(crate::runtime::RuntimeError::NotFound { .. }))
        };
        assert!(is_fine(&one) && is_fine(&two), "{one:?} {two:?}");
    }
    other.close().await;
    let fresh = stand.place.open().await;
    assert_eq!(fresh.list(), Vec::new(), "nothing is left half done");
    fresh.close().await;
}
