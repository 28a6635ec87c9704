//! Feeds `towline_fuzz::http_status` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::http_status(data));
