//! Feeds `towline_fuzz::sync_file` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::sync_file(data));
