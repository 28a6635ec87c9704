//! Feeds `towline_fuzz::registry` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::registry(data));
