//! The dialects in which peers of other authors read replies (docs/protocol.md 3). To serve another
//! dialect, add a line to the table of this file.

use std::{io::Write as _, str::FromStr};

use crate::{
    field::{WIDTH_ADDRESS, WIDTH_NAME, WIDTH_PORT},
    operation::Operation,
    reply::{FILE_ENTRY, USER_ENTRY},
};

/// How a peer reads a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The original's: the status is a digit, and lists have fields of fixed width.
    Char,
    /// Everything is a string that ends in a NUL.
    Text,
    /// The status is a byte of value 0 to 4, and lists are strings.
    Byte,
    /// The status is a digit, and lists are strings, names only.
    Names,
}

/// What a status is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Digit,
    DigitString,
    Value,
}

/// What a list is whose entries are strings: how many fields of a user and of a file are sent, and
/// whether an empty string follows a count of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Strings {
    users: usize,
    files: usize,
    ends_empty: bool,
}

struct Style {
    dialect: Dialect,
    name: &'static str,
    status: Status,
    /// `None` for lists of fixed width, which [`crate::reply`] writes.
    lists: Option<Strings>,
}

const STYLES: [Style; 4] = [
    Style { dialect: Dialect::Char, name: "char", status: Status::Digit, lists: None },
    Style {
        dialect: Dialect::Text,
        name: "text",
        status: Status::DigitString,
        lists: Some(Strings { users: 3, files: 2, ends_empty: true }),
    },
    Style {
        dialect: Dialect::Byte,
        name: "byte",
        status: Status::Value,
        lists: Some(Strings { users: 3, files: 1, ends_empty: false }),
    },
    Style {
        dialect: Dialect::Names,
        name: "names",
        status: Status::Digit,
        lists: Some(Strings { users: 1, files: 1, ends_empty: false }),
    },
];

/// The error for a text that is not the name of a dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not char, text, byte or names")]
pub struct BadDialect;

impl FromStr for Dialect {
    type Err = BadDialect;

    fn from_str(name: &str) -> Result<Self, BadDialect> {
        STYLES.iter().find(|style| style.name == name).map(|style| style.dialect).ok_or(BadDialect)
    }
}

impl Dialect {
    fn style(self) -> &'static Style {
        &STYLES[self as usize]
    }

    /// The dialect's name in settings, logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.style().name
    }

    /// The bytes of a status from 0 to 4, which are all that an operation has.
    #[must_use]
    pub fn status(self, status: u8) -> &'static [u8] {
        const STRINGS: &[u8; 10] = b"0\x001\x002\x003\x004\0";
        const VALUES: &[u8; 5] = &[0, 1, 2, 3, 4];
        let at = usize::from(status.min(4));
        match self.style().status {
            Status::Digit => &STRINGS[2 * at..=2 * at],
            Status::DigitString => &STRINGS[2 * at..2 * at + 2],
            Status::Value => &VALUES[at..=at],
        }
    }

    /// Gives the reply to LIST_USERS or LIST_CONTENT, the status included, made of entries of fixed
    /// width as [`crate::reply`] writes them. `None` if this dialect reads those as they are.
    #[must_use]
    pub fn list(self, operation: Operation, entries: &[u8]) -> Option<Vec<u8>> {
        let lists = self.style().lists?;
        let (size, widths, sent): (_, &[usize], _) = match operation {
            Operation::ListUsers => (USER_ENTRY, &[WIDTH_NAME, WIDTH_ADDRESS, WIDTH_PORT], lists.users),
            _ => (FILE_ENTRY, &[WIDTH_NAME, WIDTH_NAME], lists.files),
        };
        let mut out = Vec::with_capacity(entries.len() / 4);
        out.extend_from_slice(self.status(0));
        // Writing to a vector cannot fail.
        let _ = write!(out, "{}\0", entries.len() / size);
        for entry in entries.chunks_exact(size) {
            let mut start = 0;
            for width in &widths[..sent] {
                let field = &entry[start..start + width];
                let end = memchr::memchr(0, field).unwrap_or(*width);
                out.extend_from_slice(&field[..end]);
                out.push(0);
                start += width;
            }
        }
        if entries.is_empty() && lists.ends_empty {
            out.push(0);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::reply::{push_file, push_user};

    #[test]
    fn each_form_has_its_line_and_its_name() {
        for (at, style) in STYLES.iter().enumerate() {
            assert_eq!((style.dialect as usize, style.name.parse()), (at, Ok(style.dialect)));
            assert_eq!(style.dialect.name(), style.name);
        }
        assert_eq!("Text".parse::<Dialect>(), Err(BadDialect));
    }

    #[test]
    fn golden_statuses() {
        for (dialect, expected) in [
            (Dialect::Char, &b"3"[..]),
            (Dialect::Text, b"3\0"),
            (Dialect::Byte, b"\x03"),
            (Dialect::Names, b"3"),
        ] {
            assert_eq!(dialect.status(3), expected, "{dialect:?}");
        }
    }

    #[test]
    fn golden_lists() {
        let (mut users, mut files) = (Vec::new(), Vec::new());
        push_user("alice", Ipv4Addr::LOCALHOST, 50_085, &mut users);
        push_user(&"b".repeat(255), Ipv4Addr::new(192, 168, 100, 200), 65_535, &mut users);
        push_file("a.txt", "a description", &mut files);
        push_file("año.txt", "", &mut files);
        let long = "b".repeat(255);
        let cases = [
            (
                Dialect::Text,
                format!("0\x002\0alice\x00127.0.0.1\x0050085\0{long}\x00192.168.100.200\x0065535\0"),
                "0\x002\0a.txt\0a description\0año.txt\0\0".to_owned(),
            ),
            (
                Dialect::Byte,
                format!("\x002\0alice\x00127.0.0.1\x0050085\0{long}\x00192.168.100.200\x0065535\0"),
                "\x002\0a.txt\0año.txt\0".to_owned(),
            ),
            (Dialect::Names, format!("02\0alice\0{long}\0"), "02\0a.txt\0año.txt\0".to_owned()),
        ];
        for (dialect, of_users, of_files) in cases {
            assert_eq!(
                dialect.list(Operation::ListUsers, &users).unwrap(),
                of_users.into_bytes(),
                "{dialect:?}"
            );
            assert_eq!(
                dialect.list(Operation::ListContent, &files).unwrap(),
                of_files.into_bytes(),
                "{dialect:?}"
            );
        }
        assert_eq!(Dialect::Text.list(Operation::ListUsers, b"").unwrap(), b"0\x000\0\0");
        assert_eq!(Dialect::Byte.list(Operation::ListContent, b"").unwrap(), b"\x000\0");
        assert_eq!(Dialect::Char.list(Operation::ListUsers, &users), None);
    }
}
