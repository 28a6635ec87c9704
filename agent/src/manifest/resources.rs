//! What each unit of an app may use, and is promised: processors, memory, swap, processes.

use super::{
    fields::{Field, Fields},
    quantity::{ByteSize, Cpu},
    yaml::Value,
};

/// Bounds of one unit; none where nothing is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Resources {
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<ByteSize>,
    /// Swap beside the memory.
    pub swap: Option<ByteSize>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl Resources {
    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads `resources`. What a host cannot hold units to is refused by its runtime.
pub(super) fn read(mut fields: Fields<'_>) -> Resources {
    // Less than any program needs to start says that something else was meant.
    const LEAST_MEMORY: u64 = 1 << 20;
    let memory = fields.get("memory");
    let swap = fields.get("swap");
    let resources = Resources {
        cpu: cpu(&fields.get("cpu")),
        memory: memory.parsed(),
        swap: swap.parsed(),
        pids: fields.get("pids").number(1..=4_194_304_u32),
    };
    if let Some(found) = resources.memory.filter(|memory| memory.get() < LEAST_MEMORY) {
        memory.refuse(format!("found {found}, allowed is at least {}", ByteSize::new(LEAST_MEMORY)));
    }
    if resources.swap.is_some() && memory.value().is_none() {
        swap.refuse("found a value without memory beside it, allowed is both or neither");
    }
    fields.finish();
    resources
}

/// A number, in quotes or without.
fn cpu(field: &Field<'_>) -> Option<Cpu> {
    let text = match field.value()? {
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        _ => field.text()?,
    };
    text.parse().map_err(|error: super::ParseQuantityError| field.refuse(error.to_string())).ok()
}
