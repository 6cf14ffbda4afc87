//! What must hold of any bytes.

use crate::proxy::parse;

/// A PROXY header is no longer than what has arrived, and is not complete before its last byte.
pub fn proxy_header(bytes: &[u8]) {
    if let Ok(Some((_, length))) = parse(bytes) {
        assert!(length <= bytes.len());
        assert!(matches!(parse(&bytes[..length - 1]), Ok(None)));
        assert!(matches!(parse(&bytes[..length]), Ok(Some(_))));
    }
}
