//! What must hold of any bytes.

use prost::Message as _;

use crate::{commit::Commit, segment::scan};

/// A segment holds no more than its bytes, and what is read of its frames is a commit or is refused.
pub fn frames(bytes: &[u8]) {
    let found = scan(bytes);
    let payloads = found.payloads.iter().chain(&found.beyond);
    assert!(found.payloads.iter().map(Vec::len).sum::<usize>() <= bytes.len());
    payloads.for_each(|payload| drop(Commit::decode(&payload[..])));
}
