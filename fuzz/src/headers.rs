use towline_hub::api::doors::{self, Said};
use towline_protocol::limits;

/// The headers of a request, a line each: what is read is within its bounds, and what is refused is told as a problem that a
/// client can read.
pub fn headers(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let pair = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        (name.to_vec(), value.strip_prefix(b":").unwrap_or(value).trim_ascii().to_vec())
    };
    let pairs: Vec<_> = lines.map(pair).collect();
    let pairs = pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    for read in doors::headers(pairs).into_iter().flatten() {
        match read {
            Ok(Said::Asked(id, time)) => {
                assert!(time.is_none_or(|time| !time.is_zero() && time <= limits::CALL_TIME_MAX));
                assert!(id.is_none_or(|id| id.parse::<towline_protocol::RequestId>().is_ok()));
            }
            Ok(_) => {}
            Err(problem) => {
                assert!(!problem.detail.trim().is_empty(), "refused without a word");
                assert!([400, 415].contains(&problem.status), "{problem:?}");
                let written = serde_json::to_vec(&problem).expect("maps with text keys");
                assert_eq!(crate::json::reads_back(&written), Some(problem));
            }
        }
    }
}
