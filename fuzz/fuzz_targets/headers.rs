//! Feeds `towline_fuzz::headers` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::headers(data));
