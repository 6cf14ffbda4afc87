//! GET_FILE, which one peer asks of another (docs/protocol.md 6).

use crate::{
    field::{FieldError, Filename, WIDTH_NAME},
    reading::{self, Conclusion, Encoding},
};

/// The operation code of GET_FILE.
pub const NAME: &str = "GET_FILE";

/// Status 1: the file does not exist or is not published.
pub const STATUS_NO_FILE: u8 = 1;
/// Status 2: any other failure, and the answer to an unknown operation.
pub const STATUS_FAILED: u8 = 2;

/// The largest size of a GET_FILE request, in bytes.
pub const MAX_REQUEST: usize = crate::WIDTH_OPERATION + WIDTH_NAME;

/// What the bytes that have arrived on a connection are so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// The request is complete and asks for this file.
    Complete(Filename),
    /// The operation is not GET_FILE: answer [`STATUS_FAILED`].
    UnknownOperation,
    /// The filename is bad: answer [`STATUS_FAILED`].
    Bad(FieldError),
}

/// Reads all bytes that have arrived on a connection so far, in either encoding.
#[must_use]
pub fn decode(bytes: &[u8]) -> Progress {
    match reading::operation_code(bytes) {
        Ok(None) => return Progress::Incomplete,
        Ok(Some(code)) if code == NAME.as_bytes() => {}
        Ok(Some(_)) | Err(_) => return Progress::UnknownOperation,
    }
    let widths = &[WIDTH_NAME];
    let terminated = reading::terminated(&bytes[NAME.len() + 1..], widths);
    match reading::conclude(bytes, NAME.len(), widths, terminated) {
        Conclusion::Incomplete | Conclusion::Tentative => Progress::Incomplete,
        Conclusion::Bad { error, .. } => Progress::Bad(error),
        Conclusion::Complete(fields, _) => match Filename::from_bytes(fields.get(0).unwrap_or_default()) {
            Ok(filename) => Progress::Complete(filename),
            Err(error) => Progress::Bad(error),
        },
    }
}

/// Appends the request's bytes to `out`, as an original peer sends them.
pub fn encode(filename: &Filename, out: &mut Vec<u8>) {
    out.extend_from_slice(NAME.as_bytes());
    out.push(0);
    reading::encode_field(filename.as_str(), WIDTH_NAME, Encoding::Terminated, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_split_anywhere() {
        let mut bytes = Vec::new();
        encode(&"a b.txt".parse().unwrap(), &mut bytes);
        assert_eq!(bytes, b"GET_FILE\0a b.txt\0");
        for split in 0..bytes.len() {
            assert_eq!(decode(&bytes[..split]), Progress::Incomplete, "{split}");
        }
        assert_eq!(decode(&bytes), Progress::Complete("a b.txt".parse().unwrap()));
    }

    #[test]
    fn the_padded_form_is_the_same_request() {
        let mut bytes = b"GET_FILE\0hello.txt".to_vec();
        bytes.resize(9 + WIDTH_NAME, 0);
        assert_eq!(decode(&bytes), Progress::Complete("hello.txt".parse().unwrap()));
    }

    #[test]
    fn what_no_file_can_be_is_refused() {
        assert_eq!(decode(b"PUT_FILE\0"), Progress::UnknownOperation);
        assert_eq!(decode(&[b'G'; 256]), Progress::UnknownOperation);
        assert_eq!(decode(b"GET_FILE\0a\nb\0"), Progress::Bad(FieldError::ControlCharacter));
        assert!(matches!(decode(&[b"GET_FILE\0".as_slice(), &[b'a'; 256]].concat()), Progress::Bad(_)));
    }
}
