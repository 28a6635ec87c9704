//! Feeds `towline_fuzz::log_line` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::log_line(data));
