//! Feeds `towline_fuzz::events` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::events(data));
