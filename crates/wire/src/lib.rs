//! The peer protocol as bytes: fields, requests and replies. This crate has no I/O and no async.
//!
//! A gateway collects the bytes that arrive and calls [`decode`] after each piece: [`decode`] gives
//! the request as soon as the request's last field is complete. [`Request::encode`] writes
//! requests, and [`reply`] writes replies. docs/protocol.md is the source of every rule.
//!
//! ```
//! use lonja_wire::{Command, Progress, decode};
//!
//! let bytes = b"REGISTER\012/05/2024 10:00:00\0alice\0";
//! assert_eq!(decode(&bytes[..20]), Progress::Incomplete);
//! let Progress::Complete(request) = decode(bytes) else { panic!("the last field is complete") };
//! assert_eq!(request.command, Command::Register);
//! assert_eq!(request.username.unwrap().as_str(), "alice");
//! ```

mod dialect;
mod field;
pub mod get_file;
pub mod get_part;
mod layout;
mod operation;
mod reading;
pub mod reply;
mod request;
mod shown;

pub use dialect::{BadDialect, Dialect};
pub use field::{
    Datetime, Description, FieldError, Filename, Port, Username, WIDTH_ADDRESS, WIDTH_DATETIME, WIDTH_NAME,
    WIDTH_OPERATION, WIDTH_PORT,
};
pub use operation::{Operation, Outcome};
pub use reading::Encoding;
pub use request::{
    BadRequest, Command, MAX_REQUEST, Progress, Request, decode, decode_final, encoding_of, is_original,
};
pub use shown::{Printable, is_harmful};
