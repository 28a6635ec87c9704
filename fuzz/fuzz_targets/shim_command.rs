//! Feeds `towline_fuzz::shim_command` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::shim_command(data));
