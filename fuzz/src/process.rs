use towline_agent::doors;

/// What the system says of a process, in whose middle stands a name of its own choice: whatever it calls itself, the rest is read
/// as it is.
pub fn process(data: &[u8]) {
    let _some = doors::process_stat(data);
    let fields = b") T 7 1 1 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 8192 1 18446744073709551615\n";
    let stat = [b"12 (", data, fields].concat();
    assert_eq!(doors::process_stat(&stat), Some((7, 4711, false, true)));
}
