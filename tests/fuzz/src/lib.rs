//! What must hold of any bytes that reach Lonja from outside. Each function is a fuzz target (`make fuzz`),
//! and `make test` calls each with all inputs of its corpus.

pub use lonja_datetime::fuzzing::soap_call;
pub use lonja_gateway::fuzzing::proxy_header;
pub use lonja_journal::fuzzing::frames;
pub use lonja_rpc::fuzzing::batch;
use lonja_wire::{
    Command, Datetime, Encoding, MAX_REQUEST, Progress, decode, decode_final, encoding_of, get_file,
    get_part, is_original,
};

/// A target: its name, which is that of its corpus too, and what must hold.
pub type Target = (&'static str, fn(&[u8]));

/// Every target that `make fuzz` runs, and whose corpus `make test` reads.
pub const TARGETS: [Target; 7] = [
    ("request", request),
    ("get_file", get_file),
    ("get_part", get_part),
    ("proxy_header", proxy_header),
    ("soap_call", soap_call),
    ("frames", frames),
    ("batch", batch),
];

/// A request of a peer is decided within [`MAX_REQUEST`] bytes, and is the same after it is encoded and
/// decoded again. A request without a datetime whose last field looks like a datetime has no terminated form:
/// the field would be read as a datetime that comes last (docs/protocol.md 2).
pub fn request(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MAX_REQUEST)];
    if bytes.len() == MAX_REQUEST {
        assert_ne!(decode(bytes), Progress::Incomplete);
    }
    let Ok(request) = decode_final(bytes) else { return };
    let _ = (encoding_of(bytes), is_original(bytes));
    let last = match &request.command {
        Command::Publish(_, description) => description.as_str(),
        Command::Delete(filename) => filename.as_str(),
        _ => "",
    };
    let looks_dated = request.datetime.as_str().is_empty() && Datetime::has_form(last.as_bytes());
    for encoding in [Encoding::Terminated, Encoding::Padded] {
        if looks_dated && encoding == Encoding::Terminated {
            continue;
        }
        let mut again = Vec::new();
        request.encode(encoding, &mut again);
        assert_eq!(decode_final(&again).as_ref(), Ok(&request));
    }
}

/// A GET_FILE that is complete is the same after it is encoded and decoded again.
pub fn get_file(bytes: &[u8]) {
    if let get_file::Progress::Complete(filename) = get_file::decode(bytes) {
        let mut again = Vec::new();
        get_file::encode(&filename, &mut again);
        assert_eq!(get_file::decode(&again), get_file::Progress::Complete(filename));
    }
}

/// A GET_PART that is complete, and the head of its reply, are the same after they are encoded and decoded
/// again.
pub fn get_part(bytes: &[u8]) {
    if let get_part::Progress::Complete(part) = get_part::decode(bytes) {
        let mut again = Vec::new();
        part.encode(&mut again);
        assert_eq!(get_part::decode(&again), get_part::Progress::Complete(part));
    }
    if let Some(head) = bytes.first_chunk() {
        assert_eq!(get_part::Head::decode(head).encode(), *head);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn each_target_holds_for_its_corpus() {
        for (name, holds) in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/corpus").join(name);
            let files = fs::read_dir(corpus).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
            let files: Vec<Vec<u8>> = files.collect();
            files.iter().for_each(|bytes| holds(bytes));
            assert!(files.len() >= 16, "the corpus of {name} has {} files", files.len());
        }
    }
}
