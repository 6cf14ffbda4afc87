//! The orders in which peers write the fields of a terminated request (docs/protocol.md 2).
//!
//! The original writes the datetime first. Peers of other authors write it last, or not at all, and
//! some write an address beside the port of a CONNECT. Whether the first field is a datetime tells
//! these orders apart. To serve another order, add it to the tables of this file.

use std::net::Ipv4Addr;

use crate::{
    field::{Datetime, FieldError, Port, WIDTH_ADDRESS, WIDTH_DATETIME, WIDTH_NAME, WIDTH_PORT},
    operation::Operation,
    reading::Fields,
};

/// What a field behind the username is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Port,
    /// The address that a peer believes to have. It is read and not believed.
    Address,
    /// A filename, a description or a remote username.
    Name,
}

/// The fields of an operation behind the username, in each order that peers write them in. The
/// original's order comes first.
const fn orders(operation: Operation) -> &'static [&'static [Part]] {
    match operation {
        Operation::Register | Operation::Unregister | Operation::Disconnect | Operation::ListUsers => &[&[]],
        Operation::Connect => &[&[Part::Port], &[Part::Address, Part::Port], &[Part::Port, Part::Address]],
        Operation::Delete | Operation::ListContent => &[&[Part::Name]],
        Operation::Publish => &[&[Part::Name, Part::Name]],
        Operation::GetFile => &[&[Part::Name], &[Part::Name, Part::Name]],
    }
}

impl Part {
    const fn width(self) -> usize {
        match self {
            Self::Port => WIDTH_PORT,
            Self::Address => WIDTH_ADDRESS,
            Self::Name => WIDTH_NAME,
        }
    }

    /// Whether a field may be this part. A name that fits its width always may; what is wrong with
    /// the name is said later.
    fn may_be(self, field: &[u8]) -> bool {
        field.len() < self.width()
            && match self {
                Self::Port => field.iter().all(u8::is_ascii_digit),
                Self::Address => is_address(field),
                Self::Name => true,
            }
    }
}

fn is_address(field: &[u8]) -> bool {
    std::str::from_utf8(field).is_ok_and(|text| text.parse::<Ipv4Addr>().is_ok())
}

/// Which of the two kinds of orders a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The datetime comes first, or its place is empty, or nothing is known yet. Such a request may be
    /// padded.
    Original,
    /// The username comes first. Such a request is terminated.
    Other,
}

/// What the bytes behind the operation code are, read as a terminated request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Terminated<'a> {
    /// Every field has arrived. The last one, with its NUL, ends at the offset `end`.
    Complete { fields: Fields<'a>, end: usize },
    /// Every field has arrived but a datetime, which may still come behind them.
    Undated(Fields<'a>),
    /// More bytes are needed.
    Pending,
    /// The bytes cannot be read in any order. `field` is the place of the bad field in the
    /// original's order: 0 is the datetime.
    Impossible { field: usize, error: FieldError },
}

/// The most fields that any order has.
const MOST: usize = 5;

/// The fields that have arrived with their NULs, and the bytes behind them.
struct Pieces<'a> {
    fields: [&'a [u8]; MOST],
    len: usize,
    rest: &'a [u8],
}

impl<'a> Pieces<'a> {
    /// Splits bytes at their NULs. In LIST_USERS and LIST_CONTENT a line feed ends a field too, because
    /// some peers send one, and no name may hold one.
    fn split(operation: Operation, bytes: &'a [u8]) -> Self {
        let other = match operation {
            Operation::ListUsers | Operation::ListContent => b'\n',
            _ => 0,
        };
        let mut pieces = Self { fields: [&[]; MOST], len: 0, rest: bytes };
        while pieces.len < MOST
            && let Some(end) = memchr::memchr2(0, other, pieces.rest)
        {
            pieces.fields[pieces.len] = &pieces.rest[..end];
            pieces.len += 1;
            pieces.rest = &pieces.rest[end + 1..];
        }
        pieces
    }

    /// The field at `index`: the field if its NUL has arrived, or what has arrived of it.
    fn at(&self, index: usize) -> Piece<'a> {
        match self.fields[..self.len].get(index) {
            Some(field) => Piece::Whole(field),
            None if index == self.len => Piece::Begun(self.rest),
            None => Piece::Begun(&[]),
        }
    }

    /// The offset behind the NUL of the field at `index`.
    fn end_of(&self, index: usize) -> usize {
        self.fields[..=index].iter().map(|field| field.len() + 1).sum()
    }
}

enum Piece<'a> {
    Whole(&'a [u8]),
    Begun(&'a [u8]),
}

/// Reads the bytes behind the code of an operation.
pub(crate) fn read(operation: Operation, bytes: &[u8]) -> (Order, Terminated<'_>) {
    let pieces = Pieces::split(operation, bytes);
    let terminated = match pieces.at(0) {
        Piece::Begun(begun) if begun.len() >= WIDTH_NAME => {
            Terminated::Impossible { field: 0, error: FieldError::TooLong }
        }
        Piece::Begun(_) => Terminated::Pending,
        // A peer that has no datetime may leave its place empty, and a peer that writes none may
        // have no username yet.
        Piece::Whole(b"") => match (undated(operation, &pieces), dated(operation, &pieces)) {
            (fields @ Terminated::Complete { .. }, _) => fields,
            (fields @ Terminated::Undated(_), Terminated::Pending | Terminated::Impossible { .. }) => fields,
            (_, other) => other,
        },
        Piece::Whole(first) if Datetime::has_form(first) => dated(operation, &pieces),
        Piece::Whole(_) => return (Order::Other, undated(operation, &pieces)),
    };
    (Order::Original, terminated)
}

/// Where the fields of one order end.
enum Ends {
    /// Before the field of this index.
    Before(usize),
    Pending,
    /// Nowhere: the field of this index cannot be what it would have to be.
    Impossible(usize),
}

/// Holds the fields from `from` on against a username and what stands behind it in one order.
fn follow(pieces: &Pieces<'_>, from: usize, order: &[Part]) -> Ends {
    for (index, part) in (from..).zip([Part::Name].iter().chain(order)) {
        match pieces.at(index) {
            Piece::Whole(field) if part.may_be(field) => {}
            Piece::Begun(begun) if begun.len() < part.width() => return Ends::Pending,
            Piece::Whole(_) | Piece::Begun(_) => return Ends::Impossible(index),
        }
    }
    Ends::Before(from + 1 + order.len())
}

/// Puts fields into the original's order. The username is at `username`, and `order` behind it.
fn fields<'a>(pieces: &Pieces<'a>, datetime: &'a [u8], username: usize, order: &[Part]) -> Fields<'a> {
    let mut fields = Fields::default();
    fields.push(datetime);
    fields.push(pieces.fields[username]);
    for (field, part) in pieces.fields[username + 1..].iter().zip(order) {
        if *part != Part::Address {
            fields.push(field);
        }
    }
    fields
}

/// Reads fields with the datetime first.
fn dated<'a>(operation: Operation, pieces: &Pieces<'a>) -> Terminated<'a> {
    let mut pending = false;
    let mut bad = None;
    for order in orders(operation) {
        match follow(pieces, 1, order) {
            Ends::Before(next) => {
                let end = pieces.end_of(next - 1);
                return Terminated::Complete { fields: fields(pieces, pieces.fields[0], 1, order), end };
            }
            Ends::Pending => pending = true,
            Ends::Impossible(index) => bad = bad.or(Some((index, order))),
        }
    }
    match bad {
        Some((index, order)) if !pending => {
            let is_port = index >= 2 && order[index - 2] == Part::Port;
            let error = match pieces.at(index) {
                Piece::Whole(field) if is_port => Port::from_bytes(field).err(),
                Piece::Whole(_) | Piece::Begun(_) => None,
            };
            Terminated::Impossible { field: index, error: error.unwrap_or(FieldError::TooLong) }
        }
        _ => Terminated::Pending,
    }
}

/// Reads fields with the datetime last, or without one. Anything else behind the last field shows
/// that the first field was meant to be a datetime.
fn undated<'a>(operation: Operation, pieces: &Pieces<'a>) -> Terminated<'a> {
    let mut pending = false;
    let mut without = None;
    for order in orders(operation) {
        match follow(pieces, 0, order) {
            Ends::Before(next) => match pieces.at(next) {
                Piece::Whole(last) if Datetime::has_form(last) => {
                    let end = pieces.end_of(next);
                    return Terminated::Complete { fields: fields(pieces, last, 0, order), end };
                }
                Piece::Begun(begun) if begun.len() < WIDTH_DATETIME => {
                    without = Some(fields(pieces, b"", 0, order));
                }
                Piece::Whole(_) | Piece::Begun(_) => {}
            },
            Ends::Pending => pending = true,
            Ends::Impossible(_) => {}
        }
    }
    match without {
        Some(fields) => Terminated::Undated(fields),
        None if pending => Terminated::Pending,
        None => Terminated::Impossible { field: 0, error: FieldError::NotDatetime },
    }
}
