use towline_agent::shim::UnitState;

use crate::json::reads_back;

/// What a shim says of its unit, on its socket and in `state.json`: the shim may be of another version.
pub fn unit_state(data: &[u8]) {
    reads_back::<UnitState>(data);
}
