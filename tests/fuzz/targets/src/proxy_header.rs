#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lonja_fuzz::proxy_header(bytes));
