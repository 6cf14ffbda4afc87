//! The dialects in which peers of other authors read replies (docs/protocol.md 3). To serve another
//! dialect, add a line to the table of this file.

use std::{io::Write as _, net::Ipv4Addr, str::FromStr};

use crate::{
    field::{WIDTH_ADDRESS, WIDTH_NAME, WIDTH_PORT},
    operation::Operation,
    reading::Encoding,
    reply::{FILE_ENTRY, USER_ENTRY},
};

/// How a peer reads a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The original's: the status is a digit, and lists have fields of fixed width, counted by four
    /// digits.
    Char,
    /// The original report's: as [`Self::Char`], counted by a 32-bit number. Only a padded request is
    /// answered like this.
    Padded,
    /// Everything is a string that ends in a NUL.
    Text,
    /// As [`Self::Text`], with one string for all fields of an entry.
    Rows,
    /// The status is a byte of value 0 to 4, and lists are strings.
    Byte,
    /// As [`Self::Byte`], but the status is a 32-bit number.
    Int32,
    /// The status is a digit, and lists are strings, names only.
    Names,
}

/// What a status is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Digit,
    DigitString,
    Value,
    Value32,
}

/// What a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// Entries of fixed width, which [`crate::reply`] writes, behind a count in this encoding.
    Fixed(Encoding),
    /// A count and entries as strings: how many fields of a user and of a file are sent, what follows
    /// each field but an entry's last, and whether an empty string follows a count of 0.
    Strings { users: usize, files: usize, between: u8, ends_empty: bool },
}

struct Style {
    dialect: Dialect,
    name: &'static str,
    status: Status,
    lists: Lists,
}

const fn strings(users: usize, files: usize) -> Lists {
    Lists::Strings { users, files, between: 0, ends_empty: false }
}

#[rustfmt::skip]
const STYLES: [Style; 7] = [
    Style { dialect: Dialect::Char, name: "char", status: Status::Digit, lists: Lists::Fixed(Encoding::Terminated) },
    Style { dialect: Dialect::Padded, name: "padded", status: Status::Digit, lists: Lists::Fixed(Encoding::Padded) },
    Style {
        dialect: Dialect::Text, name: "text", status: Status::DigitString,
        lists: Lists::Strings { users: 3, files: 2, between: 0, ends_empty: true },
    },
    Style {
        dialect: Dialect::Rows, name: "rows", status: Status::DigitString,
        lists: Lists::Strings { users: 3, files: 2, between: b' ', ends_empty: false },
    },
    Style { dialect: Dialect::Byte, name: "byte", status: Status::Value, lists: strings(3, 1) },
    Style { dialect: Dialect::Int32, name: "int32", status: Status::Value32, lists: strings(3, 1) },
    Style { dialect: Dialect::Names, name: "names", status: Status::Digit, lists: strings(1, 1) },
];

/// The error for a text that is not the name of a dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {}", Dialect::CHOICES)]
pub struct BadDialect;

/// Reads the name of a dialect that a person may choose: any but [`Dialect::Padded`]. 2020, the year
/// of the assignment whose peers read `names`, is another name of that dialect.
impl FromStr for Dialect {
    type Err = BadDialect;

    fn from_str(name: &str) -> Result<Self, BadDialect> {
        let name = if name == "2020" { "names" } else { name };
        Self::from_name(name).filter(|dialect| *dialect != Self::Padded).ok_or(BadDialect)
    }
}

impl Dialect {
    /// Every dialect, in the order of its discriminant.
    pub const ALL: [Self; STYLES.len()] =
        [Self::Char, Self::Padded, Self::Text, Self::Rows, Self::Byte, Self::Int32, Self::Names];

    /// The names that a person may choose from, as an error message lists them.
    pub const CHOICES: &str = "char, text, rows, byte, int32 or names";

    fn style(self) -> &'static Style {
        &STYLES[self as usize]
    }

    /// The dialect with this name; `None` if there is none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        STYLES.iter().find(|style| style.name == name).map(|style| style.dialect)
    }

    /// The dialect of the replies to a request that only its encoding tells something about.
    #[must_use]
    pub const fn of_encoding(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Terminated => Self::Char,
            Encoding::Padded => Self::Padded,
        }
    }

    /// The dialect's name in settings, records, logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.style().name
    }

    /// The bytes of a status from 0 to 4, which are all that an operation has.
    #[must_use]
    pub fn status(self, status: u8) -> &'static [u8] {
        const STRINGS: &[u8; 10] = b"0\x001\x002\x003\x004\0";
        const VALUES: &[u8; 20] = b"\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04";
        let at = usize::from(status.min(4));
        match self.style().status {
            Status::Digit => &STRINGS[2 * at..=2 * at],
            Status::DigitString => &STRINGS[2 * at..2 * at + 2],
            Status::Value => &VALUES[4 * at + 3..4 * at + 4],
            Status::Value32 => &VALUES[4 * at..4 * at + 4],
        }
    }

    /// The encoding of the count before entries of fixed width; `None` if this dialect has its lists
    /// as strings ([`Self::list`]).
    #[must_use]
    pub fn fixed(self) -> Option<Encoding> {
        match self.style().lists {
            Lists::Fixed(encoding) => Some(encoding),
            Lists::Strings { .. } => None,
        }
    }

    /// Gives the reply to LIST_USERS or LIST_CONTENT, the status included, made of entries of fixed
    /// width as [`crate::reply`] writes them. `None` if this dialect reads those as they are
    /// ([`Self::fixed`]).
    #[must_use]
    pub fn list(self, operation: Operation, entries: &[u8]) -> Option<Vec<u8>> {
        let Lists::Strings { users, files, between, ends_empty } = self.style().lists else { return None };
        let (size, widths, sent): (_, &[usize], _) = match operation {
            Operation::ListUsers => (USER_ENTRY, &[WIDTH_NAME, WIDTH_ADDRESS, WIDTH_PORT], users),
            _ => (FILE_ENTRY, &[WIDTH_NAME, WIDTH_NAME], files),
        };
        let mut out = Vec::with_capacity(entries.len() / 4);
        out.extend_from_slice(self.status(0));
        // Writing to a vector cannot fail.
        let _ = write!(out, "{}\0", entries.len() / size);
        for entry in entries.chunks_exact(size) {
            let mut start = 0;
            for (field, width) in widths[..sent].iter().enumerate() {
                let bytes = &entry[start..start + width];
                let end = memchr::memchr(0, bytes).unwrap_or(*width);
                out.extend_from_slice(&bytes[..end]);
                out.push(if field + 1 < sent { between } else { 0 });
                start += width;
            }
        }
        if entries.is_empty() && ends_empty {
            out.push(0);
        }
        Some(out)
    }

    /// Gives the reply to GET_FILE, the status included: where the owner of the file is. The address
    /// and the port are strings in every dialect.
    #[must_use]
    pub fn address(self, address: Ipv4Addr, port: u16) -> Vec<u8> {
        let mut out = self.status(0).to_vec();
        // Writing to a vector cannot fail.
        let _ = write!(out, "{address}\0{port}\0");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::{push_file, push_user};

    #[test]
    fn the_table_is_in_order() {
        for (style, dialect) in STYLES.iter().zip(Dialect::ALL) {
            assert_eq!((style.dialect, Dialect::from_name(style.name)), (dialect, Some(dialect)));
            assert_eq!((dialect.style().dialect, dialect.name()), (dialect, style.name));
            let chosen = (dialect != Dialect::Padded).then_some(dialect).ok_or(BadDialect);
            assert_eq!(style.name.parse::<Dialect>(), chosen);
            let is_a_choice = Dialect::CHOICES.split([',', ' ']).any(|choice| choice == style.name);
            assert_eq!(is_a_choice, chosen.is_ok(), "{}", style.name);
        }
        assert_eq!("2020".parse(), Ok(Dialect::Names));
        assert_eq!("auto".parse::<Dialect>(), Err(BadDialect));
    }

    #[test]
    fn golden_statuses_and_addresses() {
        for (dialect, status, address) in [
            (Dialect::Char, b"3".as_slice(), b"010.0.0.7\x0050085\0".as_slice()),
            (Dialect::Padded, b"3", b"010.0.0.7\x0050085\0"),
            (Dialect::Text, b"3\0", b"0\x0010.0.0.7\x0050085\0"),
            (Dialect::Rows, b"3\0", b"0\x0010.0.0.7\x0050085\0"),
            (Dialect::Byte, b"\x03", b"\x0010.0.0.7\x0050085\0"),
            (Dialect::Int32, b"\0\0\0\x03", b"\0\0\0\x0010.0.0.7\x0050085\0"),
            (Dialect::Names, b"3", b"010.0.0.7\x0050085\0"),
        ] {
            assert_eq!(dialect.status(3), status, "{dialect:?}");
            assert_eq!(dialect.address(Ipv4Addr::new(10, 0, 0, 7), 50_085), address, "{dialect:?}");
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
        let triples = format!("2\0alice\x00127.0.0.1\x0050085\0{long}\x00192.168.100.200\x0065535\0");
        let cases = [
            (
                Dialect::Text,
                format!("0\0{triples}"),
                "0\x002\0a.txt\0a description\0año.txt\0\0",
                "0\x000\0\0",
            ),
            (
                Dialect::Rows,
                format!("0\x002\0alice 127.0.0.1 50085\0{long} 192.168.100.200 65535\0"),
                "0\x002\0a.txt a description\0año.txt \0",
                "0\x000\0",
            ),
            (Dialect::Byte, format!("\0{triples}"), "\x002\0a.txt\0año.txt\0", "\x000\0"),
            (Dialect::Int32, format!("\0\0\0\0{triples}"), "\0\0\0\x002\0a.txt\0año.txt\0", "\0\0\0\x000\0"),
            (Dialect::Names, format!("02\0alice\0{long}\0"), "02\0a.txt\0año.txt\0", "00\0"),
        ];
        for (dialect, of_users, of_files, empty) in cases {
            assert_eq!(
                dialect.list(Operation::ListUsers, &users).unwrap(),
                of_users.into_bytes(),
                "{dialect:?}"
            );
            assert_eq!(
                dialect.list(Operation::ListContent, &files).unwrap(),
                of_files.as_bytes(),
                "{dialect:?}"
            );
            assert_eq!(dialect.list(Operation::ListUsers, b"").unwrap(), empty.as_bytes(), "{dialect:?}");
            assert_eq!(dialect.list(Operation::ListContent, b"").unwrap(), empty.as_bytes(), "{dialect:?}");
            assert_eq!(dialect.fixed(), None);
        }
        for encoding in [Encoding::Terminated, Encoding::Padded] {
            let dialect = Dialect::of_encoding(encoding);
            assert_eq!((dialect.list(Operation::ListUsers, &users), dialect.fixed()), (None, Some(encoding)));
        }
    }

    proptest::proptest! {
        /// Whatever the names are, a reader of strings gets back what was written.
        #[test]
        fn lists_of_strings_round_trip(
            names in proptest::collection::vec("[^\\x00]{1,60}", 0..20),
            descriptions in proptest::collection::vec("[^\\x00]{0,60}", 20),
            endpoints in proptest::collection::vec(proptest::prelude::any::<(u32, u16)>(), 20),
        ) {
            let (mut users, mut files) = (Vec::new(), Vec::new());
            let (mut users_sent, mut files_sent) = (Vec::new(), Vec::new());
            for ((name, description), &(address, port)) in names.iter().zip(&descriptions).zip(&endpoints) {
                let address = Ipv4Addr::from(address);
                push_user(name, address, port, &mut users);
                push_file(name, description, &mut files);
                users_sent.push([name.clone(), address.to_string(), port.to_string()]);
                files_sent.push([name.clone(), description.clone()]);
            }
            for (dialect, status, fields_of_user, fields_of_file) in [
                (Dialect::Text, 2, 3, 2),
                (Dialect::Byte, 1, 3, 1),
                (Dialect::Int32, 4, 3, 1),
                (Dialect::Names, 1, 1, 1),
            ] {
                let of_users: Vec<_> =
                    users_sent.iter().flat_map(|user| &user[..fields_of_user]).collect();
                let of_files: Vec<_> =
                    files_sent.iter().flat_map(|file| &file[..fields_of_file]).collect();
                for (operation, entries, expected) in
                    [(Operation::ListUsers, &users, of_users), (Operation::ListContent, &files, of_files)]
                {
                    let reply = dialect.list(operation, entries).unwrap();
                    proptest::prop_assert_eq!(&reply[..status], dialect.status(0));
                    let text = String::from_utf8(reply[status..].to_vec()).unwrap();
                    let mut strings = text.split_terminator('\0');
                    let count = names.len().to_string();
                    proptest::prop_assert_eq!(strings.next(), Some(count.as_str()));
                    for field in expected {
                        proptest::prop_assert_eq!(strings.next(), Some(field.as_str()));
                    }
                    let rest: Vec<_> = strings.collect();
                    proptest::prop_assert!(rest.is_empty() || names.is_empty() && rest == [""]);
                }
            }
        }
    }
}
