//! Replies of the gateway: a status, and for lists a count and fixed-width entries
//! (docs/protocol.md 1 and 2). Entries are the same in both dialects; counts differ.

use std::{fmt, net::Ipv4Addr};

use crate::{
    field::{Description, FieldError, Filename, Port, Username, WIDTH_ADDRESS, WIDTH_NAME, WIDTH_PORT},
    reading::Encoding,
};

/// Size of one user in a LIST_USERS reply, in bytes.
pub const USER_ENTRY: usize = WIDTH_NAME + WIDTH_ADDRESS + WIDTH_PORT;
/// Size of one file in a LIST_CONTENT reply, in bytes.
pub const FILE_ENTRY: usize = 2 * WIDTH_NAME;
/// Size of the status and the count before a list, in bytes.
pub const LIST_HEADER: usize = 5;
/// The largest number of entries that four decimal digits can count.
pub const MAX_TERMINATED_COUNT: u32 = 9999;

/// The ASCII digit of a status from 0 to 9.
#[must_use]
pub const fn status(status: u8) -> u8 {
    b'0' + status
}

/// The status and the count before a list of `count` entries, and the number of entries to send:
/// a list for a terminated request is cut at [`MAX_TERMINATED_COUNT`].
#[must_use]
pub fn list_header(count: u32, encoding: Encoding) -> ([u8; LIST_HEADER], u32) {
    let mut header = [status(0); LIST_HEADER];
    match encoding {
        Encoding::Padded => {
            header[1..].copy_from_slice(&count.to_be_bytes());
            (header, count)
        }
        Encoding::Terminated => {
            let sent = count.min(MAX_TERMINATED_COUNT);
            let mut rest = sent;
            for digit in header[1..].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            (header, sent)
        }
    }
}

/// Appends one user of a LIST_USERS reply. A username that does not fit its field is cut;
/// a [`Username`] always fits.
pub fn push_user(username: &str, address: Ipv4Addr, port: u16, out: &mut Vec<u8>) {
    push_field(username.as_bytes(), WIDTH_NAME, out);
    let mut text = [0; WIDTH_ADDRESS];
    push_field(address_text(address, &mut text), WIDTH_ADDRESS, out);
    push_field(decimal(port, &mut text), WIDTH_PORT, out);
}

/// Appends one file of a LIST_CONTENT reply.
pub fn push_file(filename: &str, description: &str, out: &mut Vec<u8>) {
    push_field(filename.as_bytes(), WIDTH_NAME, out);
    push_field(description.as_bytes(), WIDTH_NAME, out);
}

fn push_field(bytes: &[u8], width: usize, out: &mut Vec<u8>) {
    let end = out.len() + width;
    out.extend_from_slice(&bytes[..bytes.len().min(width - 1)]);
    out.resize(end, 0);
}

// Not `write!`: with it, a list of 10,000 users takes four milliseconds instead of one.
fn address_text(address: Ipv4Addr, text: &mut [u8; WIDTH_ADDRESS]) -> &[u8] {
    let mut len = 0;
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text[len] = b'.';
            len += 1;
        }
        let mut digits = [0; WIDTH_ADDRESS];
        let digits = decimal(u16::from(octet), &mut digits);
        text[len..len + digits.len()].copy_from_slice(digits);
        len += digits.len();
    }
    &text[..len]
}

fn decimal(mut number: u16, text: &mut [u8; WIDTH_ADDRESS]) -> &[u8] {
    let mut start = WIDTH_ADDRESS;
    loop {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &text[start..];
        }
    }
}

/// What is wrong with a reply. No gateway sends such a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// The status is not a decimal digit.
    #[error("the status is not a decimal digit")]
    Status,
    /// The count is not four decimal digits.
    #[error("the count is not four decimal digits")]
    Count,
    /// A field of an entry is bad.
    #[error("a field of an entry is {0}")]
    Field(FieldError),
}

impl From<FieldError> for BadReply {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

/// Reads a status.
///
/// # Errors
/// When the byte is not a decimal digit.
pub fn read_status(byte: u8) -> Result<u8, BadReply> {
    byte.is_ascii_digit().then(|| byte - b'0').ok_or(BadReply::Status)
}

/// Reads the count of a list: how many entries follow.
///
/// # Errors
/// When a terminated count is not four decimal digits.
pub fn read_count(bytes: [u8; 4], encoding: Encoding) -> Result<u32, BadReply> {
    match encoding {
        Encoding::Padded => Ok(u32::from_be_bytes(bytes)),
        Encoding::Terminated => bytes.iter().try_fold(0, |count, byte| {
            byte.is_ascii_digit().then(|| count * 10 + u32::from(byte - b'0')).ok_or(BadReply::Count)
        }),
    }
}

/// A user in a LIST_USERS reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// The connected user.
    pub username: Username,
    /// The address at which others dial the user.
    pub address: Ipv4Addr,
    /// The port that the user's peer listens on.
    pub port: Port,
}

/// A file in a LIST_CONTENT reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// The name to ask for with GET_FILE.
    pub filename: Filename,
    /// What the file's owner says about the file.
    pub description: Description,
}

/// Writes the entry as a person sees it (docs/protocol.md 7).
impl fmt::Display for UserEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.username, self.address, self.port)
    }
}

/// Writes the entry as a person sees it (docs/protocol.md 7).
impl fmt::Display for FileEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.filename, self.description)
    }
}

/// Reads one user of a LIST_USERS reply.
///
/// # Errors
/// When a field is bad.
pub fn read_user(entry: &[u8; USER_ENTRY]) -> Result<UserEntry, BadReply> {
    let (username, rest) = entry.split_at(WIDTH_NAME);
    let (address, port) = rest.split_at(WIDTH_ADDRESS);
    Ok(UserEntry {
        username: Username::from_bytes(until_nul(username))?,
        address: std::str::from_utf8(until_nul(address))
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(FieldError::NotUtf8)?,
        port: Port::from_bytes(until_nul(port))?,
    })
}

/// Reads one file of a LIST_CONTENT reply.
///
/// # Errors
/// When a field is bad.
pub fn read_file(entry: &[u8; FILE_ENTRY]) -> Result<FileEntry, BadReply> {
    let (filename, description) = entry.split_at(WIDTH_NAME);
    Ok(FileEntry {
        filename: Filename::from_bytes(until_nul(filename))?,
        description: Description::from_bytes(until_nul(description))?,
    })
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_list_of_users() {
        // The list of docs/protocol.md 8, with alice and bob online.
        let mut entries = Vec::new();
        push_user("alice", Ipv4Addr::LOCALHOST, 50085, &mut entries);
        push_user("bob", Ipv4Addr::LOCALHOST, 58607, &mut entries);
        assert_eq!(entries.len(), 2 * 278);
        assert_eq!(&entries[..6], b"alice\0");
        assert_eq!(&entries[256..278], b"127.0.0.1\0\0\0\0\0\0\x0050085\0");
        assert_eq!(&entries[278..282], b"bob\0");
        assert_eq!(list_header(2, Encoding::Terminated), (*b"00002", 2));
        assert_eq!(list_header(2, Encoding::Padded), (*b"0\0\0\0\x02", 2));
    }

    #[test]
    fn four_digits_end_at_9999() {
        assert_eq!(list_header(9999, Encoding::Terminated), (*b"09999", 9999));
        assert_eq!(list_header(10_000, Encoding::Terminated), (*b"09999", 9999));
        assert_eq!(list_header(10_000, Encoding::Padded), (*b"0\0\0\x27\x10", 10_000));
    }

    #[test]
    fn addresses_and_ports_are_written_as_the_standard_library_does() {
        for address in [[0, 0, 0, 0], [10, 0, 100, 9], [255, 255, 255, 255]] {
            for port in [1, 80, 65535] {
                let mut entry = Vec::new();
                push_user("a", address.into(), port, &mut entry);
                let read = read_user(entry.as_slice().try_into().unwrap()).unwrap();
                assert_eq!(read.address, Ipv4Addr::from(address));
                assert_eq!(read.port.get(), port);
            }
        }
    }

    #[test]
    fn the_longest_names_fill_their_fields() {
        let name = "ñ".repeat(127) + "x";
        let mut entry = Vec::new();
        push_file(&name, &name, &mut entry);
        let read = read_file(entry.as_slice().try_into().unwrap()).unwrap();
        assert_eq!((read.filename.as_str(), read.description.as_str()), (&*name, &*name));
    }

    #[test]
    fn replies_that_no_gateway_sends_are_refused() {
        assert_eq!(read_status(b'x'), Err(BadReply::Status));
        assert_eq!(read_count(*b"00a2", Encoding::Terminated), Err(BadReply::Count));
        assert_eq!(read_count(*b"0012", Encoding::Terminated), Ok(12));
        assert!(read_user(&[0; USER_ENTRY]).is_err());
        assert!(read_file(&[1; FILE_ENTRY]).is_err());
    }
}
