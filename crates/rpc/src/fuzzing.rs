//! What must hold of any bytes.

use prost::Message;

use crate::batch::{ConverseRequest, ConverseResponse};

/// A batch, and the answers to one, are the same after they are encoded and decoded again.
pub fn batch(bytes: &[u8]) {
    same_again::<ConverseRequest>(bytes);
    same_again::<ConverseResponse>(bytes);
}

fn same_again<M: Message + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        assert!(M::decode(&message.encode_to_vec()[..]).is_ok_and(|again| again == message));
    }
}
