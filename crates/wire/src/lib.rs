//! The peer protocol, as bytes: fields, requests and replies. No I/O, no async.
//!
//! A gateway collects what arrives and asks [`decode`] after each piece; the answer is
//! there as soon as the last field is complete. Replies and requests are written by
//! [`reply`] and [`Request::encode`]. docs/protocol.md is the source of every rule.

mod field;
pub mod get_file;
pub mod get_part;
mod operation;
mod reading;
pub mod reply;
mod request;

pub use field::{
    Datetime, Description, FieldError, Filename, Port, Username, WIDTH_ADDRESS, WIDTH_DATETIME, WIDTH_NAME,
    WIDTH_OPERATION, WIDTH_PORT,
};
pub use operation::{Operation, Outcome};
pub use reading::Dialect;
pub use request::{BadRequest, Command, MAX_REQUEST, Progress, Request, decode, decode_final, dialect};
