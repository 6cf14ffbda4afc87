//! Decodes any bytes. Nothing panics, `MAX_REQUEST` bytes are decided, and a request that was
//! decoded is the same after it is encoded and decoded again.
//!
//! Run this target with `cargo +nightly fuzz run decode`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lonja_wire::{Encoding, MAX_REQUEST, Progress, decode, decode_final, encoding_of, is_original};

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(MAX_REQUEST)];
    if bytes.len() == MAX_REQUEST {
        assert_ne!(decode(bytes), Progress::Incomplete);
    }
    if let Ok(request) = decode_final(bytes) {
        let _ = (encoding_of(bytes), is_original(bytes));
        for encoding in [Encoding::Terminated, Encoding::Padded] {
            let mut again = Vec::new();
            request.encode(encoding, &mut again);
            assert_eq!(decode_final(&again).as_ref(), Ok(&request));
        }
    }
});
