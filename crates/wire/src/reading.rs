//! The two ways to read the bytes of a request, side by side (docs/protocol.md 2).
//!
//! A request does not say how it is encoded, so what has arrived is read in each way
//! that is still possible. The padded reading is contradicted by the first byte that
//! follows a NUL inside its field; until then both stand.

use crate::field::{FieldError, WIDTH_OPERATION};

/// How a request was encoded, which decides the form of the counts in its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Each field ends at its NUL. Counts are four decimal digits.
    Terminated,
    /// Each field fills its width. Counts are 32-bit big-endian numbers.
    Padded,
}

impl Dialect {
    /// The word for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Terminated => "terminated",
            Self::Padded => "padded",
        }
    }
}

/// The most fields that a message has behind its operation code.
pub(crate) const MAX_FIELDS: usize = 4;

/// The fields behind the operation code, without their NULs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fields<'a> {
    slices: [&'a [u8]; MAX_FIELDS],
    len: usize,
}

impl<'a> Fields<'a> {
    fn push(&mut self, field: &'a [u8]) {
        self.slices[self.len] = field;
        self.len += 1;
    }

    pub(crate) fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.slices[..self.len].get(index).copied()
    }
}

/// What the bytes behind the operation code are, read in one way.
enum Read<'a> {
    /// Every field is there; they end `end` bytes into what was read.
    Complete { fields: Fields<'a>, end: usize },
    /// More must come. These fields are known already.
    Pending { known: Fields<'a> },
    /// The bytes cannot be read in this way.
    Impossible { field: usize },
}

/// What a message is, all readings considered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Conclusion<'a> {
    /// More must come.
    Incomplete,
    /// Complete as a terminated message, but it may also be the beginning of a padded
    /// one that says something else. It is what it seems if nothing more comes.
    Tentative,
    /// Complete. The dialect may still turn out to be padded, the content may not change.
    Complete(Fields<'a>, Dialect),
    /// The field of that index (0: the first behind the operation code) is wrong.
    Bad { field: usize, error: FieldError },
}

/// The operation code at the start of `bytes`, as soon as its NUL is there.
///
/// # Errors
/// [`FieldError::TooLong`] when a whole width holds no NUL.
pub(crate) fn operation_code(bytes: &[u8]) -> Result<Option<&[u8]>, FieldError> {
    let window = &bytes[..bytes.len().min(WIDTH_OPERATION)];
    match memchr::memchr(0, window) {
        Some(end) => Ok(Some(&window[..end])),
        None if window.len() == WIDTH_OPERATION => Err(FieldError::TooLong),
        None => Ok(None),
    }
}

/// Reads the fields behind an operation code of `code` bytes and its NUL.
pub(crate) fn conclude<'a>(bytes: &'a [u8], code: usize, widths: &[usize]) -> Conclusion<'a> {
    let behind_code = &bytes[code + 1..];
    let readings = [Some(padded(behind_code, widths)), padded_code(bytes, code, widths)];
    let mut doubt = false;
    let mut possible = false;
    for reading in readings.into_iter().flatten() {
        match reading {
            Read::Complete { fields, end } => {
                let same = matches!(terminated(behind_code, widths), Read::Complete { end: other, .. } if other == end);
                // Names of 255 bytes leave no padding: the bytes are the same either way.
                let dialect = if same { Dialect::Terminated } else { Dialect::Padded };
                return Conclusion::Complete(fields, dialect);
            }
            Read::Pending { known } => {
                possible = true;
                doubt |= known.len < widths.len();
            }
            Read::Impossible { .. } => {}
        }
    }
    match terminated(behind_code, widths) {
        Read::Complete { end, .. } if possible && end < behind_code.len() => Conclusion::Incomplete,
        Read::Complete { .. } if doubt => Conclusion::Tentative,
        Read::Complete { fields, .. } => Conclusion::Complete(fields, Dialect::Terminated),
        Read::Pending { .. } => Conclusion::Incomplete,
        Read::Impossible { .. } if possible => Conclusion::Incomplete,
        Read::Impossible { field } => Conclusion::Bad { field, error: FieldError::TooLong },
    }
}

/// The terminated reading alone: what the message is if nothing more comes.
pub(crate) fn conclude_final<'a>(bytes: &'a [u8], code: usize, widths: &[usize]) -> Option<Fields<'a>> {
    match terminated(&bytes[code + 1..], widths) {
        Read::Complete { fields, .. } => Some(fields),
        Read::Pending { .. } | Read::Impossible { .. } => None,
    }
}

/// Appends a field that fits its width.
pub(crate) fn encode_field(text: &str, width: usize, dialect: Dialect, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    match dialect {
        Dialect::Terminated => out.push(0),
        Dialect::Padded => out.resize(start + width, 0),
    }
}

fn terminated<'a>(bytes: &'a [u8], widths: &[usize]) -> Read<'a> {
    let mut known = Fields::default();
    let mut start = 0;
    for (field, width) in widths.iter().enumerate() {
        let window = &bytes[start..bytes.len().min(start + width)];
        let Some(len) = memchr::memchr(0, window) else {
            return if window.len() == *width { Read::Impossible { field } } else { Read::Pending { known } };
        };
        known.push(&window[..len]);
        start += len + 1;
    }
    Read::Complete { fields: known, end: start }
}

fn padded<'a>(bytes: &'a [u8], widths: &[usize]) -> Read<'a> {
    let mut known = Fields::default();
    let mut start = 0;
    for (field, width) in widths.iter().enumerate() {
        let window = &bytes[start..bytes.len().min(start + width)];
        let Some(len) = memchr::memchr(0, window) else {
            return if window.len() == *width { Read::Impossible { field } } else { Read::Pending { known } };
        };
        if window[len..].iter().any(|byte| *byte != 0) {
            return Read::Impossible { field };
        }
        known.push(&window[..len]);
        if window.len() < *width {
            return Read::Pending { known };
        }
        start += width;
    }
    Read::Complete { fields: known, end: start }
}

/// The padded reading of a message whose operation code is padded too.
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
