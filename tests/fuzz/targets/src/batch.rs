#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lonja_fuzz::batch(bytes));
