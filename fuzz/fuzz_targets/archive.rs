//! Feeds `towline_fuzz::archive` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::archive(data));
