//! Feeds `towline_fuzz::unit_state` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::unit_state(data));
