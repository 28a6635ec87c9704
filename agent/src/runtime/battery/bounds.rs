//! What is bounded, and what is done by two at once.

use std::collections::BTreeSet;

use super::{Stand, all};
use crate::{runtime::LogQuery, shim::Status};

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

/// More is asked for than may be held: neither number nor size is exceeded, and what comes is the end.
pub(super) async fn a_tail_keeps_to_its_bytes(stand: &mut Stand<'_>) {
    const BYTES_MAX: usize = 8 << 20;
    let line = "0123456789abcdef".repeat(64);
    let script = format!(
        "i=0; while [ $i -lt 9000 ]; do echo {line}; i=$((i+1)); done; echo the end; exec sleep 1000"
    );
    stand.start(&script, "  logs: {maxSize: 64Mi, maxFiles: 2}\n").await;
    let tail = async |tail| all(stand.runtime.logs(LogQuery { tail: Some(tail), ..Stand::query() })).await;
    while tail(1).await.first().is_none_or(|last| last.line.text != "the end") {
        tokio::time::sleep(super::PAUSE).await;
    }
    let lines = tail(9_500).await;
    let bytes: usize = lines.iter().map(|line| line.line.text.len()).sum();
    assert!((BYTES_MAX - 2 * line.len()..=BYTES_MAX).contains(&bytes), "{bytes} bytes came");
    assert_eq!(lines.last().map(|last| last.line.text.as_str()), Some("the end"));
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
        let (one, two) = tokio::join!(stand.runtime.start_again(unit), other.start_again(unit));
        let (one, two) = (one.expect("it starts"), two.expect("it has started"));
        assert_eq!((one.state.status, one.state.pid), (Status::Started, two.state.pid), "it is one run");
    }
    // Each makes one of its own; whoever comes then sees both.
    let spec = stand.spec("web", "exec sleep 1000", "");
    let (one, two) = tokio::join!(stand.runtime.start(&spec), other.start(&spec));
    let made = [one.expect("it starts").unit, two.expect("it starts, too").unit];
    assert_ne!(made[0], made[1]);
    units.extend(made);
    let fresh = stand.place.open().await;
    let seen = fresh.observe("default/App/web", None).await.expect("the runtime answers");
    assert_eq!(seen.iter().map(|seen| &seen.unit).collect::<BTreeSet<_>>(), units.iter().collect());
    fresh.close().await;
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
