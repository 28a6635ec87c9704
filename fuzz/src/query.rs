use towline_hub::api::doors::{self, Wanted};
use towline_protocol::limits;

/// The parameters of a request: what is read is within its bounds, and what is refused is told as a problem that a client
/// can read.
pub fn query(data: &[u8]) {
    const NOW_UNIX_MS: u64 = 1_800_000_000_000;
    let Ok(text) = std::str::from_utf8(data) else { return };
    for read in doors::query(text, NOW_UNIX_MS).into_iter().flatten() {
        match read {
            Ok(Wanted::Logs(request, time)) => {
                assert!(time.is_none_or(|time| !time.is_zero() && time <= limits::CALL_TIME_MAX));
                assert!(request.unit.is_none_or(|unit| !unit.is_empty()), "an empty unit names nobody");
            }
            Ok(Wanted::Jobs(request, time)) => {
                assert!(time.is_none_or(|time| !time.is_zero() && time <= limits::CALL_TIME_MAX));
                let limit = request.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
                assert!(limit.is_none_or(|limit| (1..=limits::PAGE_ITEMS_MAX).contains(&limit)));
            }
            Ok(Wanted::Events(_)) => {}
            Ok(Wanted::Change(reason)) => {
                assert!(reason.is_none_or(|reason| (1..=limits::REASON_BYTES_MAX).contains(&reason.len())));
            }
            Err(problem) => {
                assert!(!problem.detail.trim().is_empty(), "refused without a word");
                assert_eq!(problem.status, 400, "{problem:?}");
                let written = serde_json::to_vec(&problem).expect("maps with text keys");
                assert_eq!(crate::json::reads_back(&written), Some(problem));
            }
        }
    }
}
