//! Feeds `towline_fuzz::container_log` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::container_log(data));
