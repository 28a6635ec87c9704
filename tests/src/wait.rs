//! Level-triggered waiting: on a predicate, never on a moment.

use std::future::Future;
use std::time::Duration;

/// Machines stutter; a wait is given up only when something is really wrong.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `look` finds something.
///
/// # Panics
/// When it does not within [`PATIENCE`]; `what` says what was missing.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    assert!(found.is_ok(), "waited in vain for {what}");
    found.expect("checked just above")
}
