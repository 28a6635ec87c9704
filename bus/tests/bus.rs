//! The bus over the memory transport: one binary, so that it links once.

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test owns its tasks, and measures with the clock at hand")]
#[expect(clippy::print_stdout, reason = "a battery says how far it came")]
mod bus {
    mod absence;
    mod batteries;
    mod faults;
    mod fixture;
    mod hostile;
    mod measured;
    mod sessions;
    mod transfers;
}
