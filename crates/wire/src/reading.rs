//! The two ways to read the bytes of a request, side by side (docs/protocol.md 2).
//!
//! A request does not say how it is encoded, so the bytes that have arrived are read in each way
//! that is still possible. The first byte other than NUL that follows a NUL within a field's width
//! shows that the request is not padded; until then both readings are possible.

use crate::field::{FieldError, WIDTH_OPERATION};

/// How a request was encoded, which decides the form of the counts in its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Each field ends at its NUL. Counts are four decimal digits.
    Terminated,
    /// Each field fills its width. Counts are 32-bit big-endian numbers.
    Padded,
}

/// The largest number of fields that a message has behind the operation code.
pub(crate) const MAX_FIELDS: usize = 4;

/// The fields behind the operation code, without their NULs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fields<'a> {
    slices: [&'a [u8]; MAX_FIELDS],
    len: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn push(&mut self, field: &'a [u8]) {
        self.slices[self.len] = field;
        self.len += 1;
    }

    pub(crate) fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.slices[..self.len].get(index).copied()
    }
}

/// What the bytes behind the operation code are in one of the possible readings.
pub(crate) enum Read<'a> {
    /// Every field has arrived. The last field, with its NULs, ends at the offset `end`.
    Complete { fields: Fields<'a>, end: usize },
    /// More bytes are needed. `known` has the fields whose text has arrived.
    Pending { known: Fields<'a> },
    /// The bytes cannot be read in this way, because of the field of this index.
    Impossible { field: usize, error: FieldError },
}

/// What a message is when all possible readings are considered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Conclusion<'a> {
    /// More bytes are needed.
    Incomplete,
    /// The bytes are a complete terminated message, but they may also be the beginning of a padded
    /// message with other fields. If no more bytes arrive, the terminated message is meant.
    Tentative,
    /// The message is complete. More bytes may still show that the message is padded, but they
    /// cannot change its fields.
    Complete(Fields<'a>, Encoding),
    /// The field of this index is bad; index 0 is the first field behind the operation code.
    Bad { field: usize, error: FieldError },
}

/// The operation code at the start of `bytes`; `None` until the code's NUL has arrived.
///
/// # Errors
/// [`FieldError::TooLong`] when there is no NUL in the first [`WIDTH_OPERATION`] bytes.
pub(crate) fn operation_code(bytes: &[u8]) -> Result<Option<&[u8]>, FieldError> {
    let window = &bytes[..bytes.len().min(WIDTH_OPERATION)];
    match memchr::memchr(0, window) {
        Some(end) => Ok(Some(&window[..end])),
        None if window.len() == WIDTH_OPERATION => Err(FieldError::TooLong),
        None => Ok(None),
    }
}

/// Reads the fields behind the operation code in each possible encoding; `terminated` is what they
/// are in the terminated encoding. The code has `code` bytes without its NUL.
pub(crate) fn conclude<'a>(
    bytes: &'a [u8],
    code: usize,
    widths: &[usize],
    terminated: Read<'a>,
) -> Conclusion<'a> {
    let behind_code = &bytes[code + 1..];
    let readings = [Some(padded(behind_code, widths)), padded_code(bytes, code, widths)];
    let mut doubt = false;
    let mut possible = false;
    for reading in readings.into_iter().flatten() {
        match reading {
            Read::Complete { fields, end } => {
                let same = matches!(terminated, Read::Complete { end: other, .. } if other == end);
                // Names of 255 bytes leave no padding: the bytes are the same either way.
                let encoding = if same { Encoding::Terminated } else { Encoding::Padded };
                return Conclusion::Complete(fields, encoding);
            }
            Read::Pending { known } => {
                possible = true;
                doubt |= known.len < widths.len();
            }
            Read::Impossible { .. } => {}
        }
    }
    match terminated {
        Read::Complete { end, .. } if possible && end < behind_code.len() => Conclusion::Incomplete,
        Read::Complete { .. } if doubt => Conclusion::Tentative,
        Read::Complete { fields, .. } => Conclusion::Complete(fields, Encoding::Terminated),
        Read::Pending { .. } => Conclusion::Incomplete,
        Read::Impossible { .. } if possible => Conclusion::Incomplete,
        Read::Impossible { field, error } => Conclusion::Bad { field, error },
    }
}

/// Appends a field in this encoding. The caller makes sure that the text fits the width.
pub(crate) fn encode_field(text: &str, width: usize, encoding: Encoding, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    match encoding {
        Encoding::Terminated => out.push(0),
        Encoding::Padded => out.resize(start + width, 0),
    }
}

/// Reads fields that end at their NULs.
pub(crate) fn terminated<'a>(bytes: &'a [u8], widths: &[usize]) -> Read<'a> {
    let mut known = Fields::default();
    let mut start = 0;
    for (field, width) in widths.iter().enumerate() {
        let window = &bytes[start..bytes.len().min(start + width)];
        let Some(len) = memchr::memchr(0, window) else {
            return short_of(field, window, *width, known);
        };
        known.push(&window[..len]);
        start += len + 1;
    }
    Read::Complete { fields: known, end: start }
}

/// What a field is whose NUL has not arrived.
fn short_of<'a>(field: usize, window: &[u8], width: usize, known: Fields<'a>) -> Read<'a> {
    if window.len() == width {
        Read::Impossible { field, error: FieldError::TooLong }
    } else {
        Read::Pending { known }
    }
}

fn padded<'a>(bytes: &'a [u8], widths: &[usize]) -> Read<'a> {
    let mut known = Fields::default();
    let mut start = 0;
    for (field, width) in widths.iter().enumerate() {
        let window = &bytes[start..bytes.len().min(start + width)];
        let Some(len) = memchr::memchr(0, window) else {
            return short_of(field, window, *width, known);
        };
        if window[len..].iter().any(|byte| *byte != 0) {
            return Read::Impossible { field, error: FieldError::TooLong };
        }
        known.push(&window[..len]);
        if window.len() < *width {
            return Read::Pending { known };
        }
        start += width;
    }
    Read::Complete { fields: known, end: start }
}

/// Reads a message whose operation code is padded too; `None` if the code is not padded.
fn padded_code<'a>(bytes: &'a [u8], code: usize, widths: &[usize]) -> Option<Read<'a>> {
    let window = &bytes[code..bytes.len().min(WIDTH_OPERATION)];
    if window.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(match bytes.get(WIDTH_OPERATION..) {
        Some(behind) => padded(behind, widths),
        None => Read::Pending { known: Fields::default() },
    })
}
