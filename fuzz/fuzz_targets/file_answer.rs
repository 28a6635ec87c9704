//! Feeds `towline_fuzz::file_answer` to the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_fuzz::file_answer(data));
