//! Decodes a request to the gateway from bytes that arrive in any pieces, and encodes a request.

use crate::{
    field::{
        Datetime, Description, FieldError, Filename, Port, Username, WIDTH_DATETIME, WIDTH_NAME,
        WIDTH_OPERATION,
    },
    layout::{self, Order, Terminated},
    operation::{Operation, Outcome},
    reading::{self, Conclusion, Encoding, Fields, Read},
};

/// The largest size of a request, in bytes: a PUBLISH with every field padded. What a peer sends
/// beyond these bytes is not part of its request.
pub const MAX_REQUEST: usize = WIDTH_OPERATION + WIDTH_DATETIME + 3 * WIDTH_NAME;

/// A well-formed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The time that the peer claims.
    pub datetime: Datetime,
    /// The user who asks. `None` is the empty username of a peer that has not registered yet;
    /// a REGISTER always has a username.
    pub username: Option<Username>,
    /// What the peer asks for.
    pub command: Command,
}

/// An operation, with the fields that not every operation has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Adds the username.
    Register,
    /// Removes the username and ends its session.
    Unregister,
    /// Opens a session at this port of the peer's address.
    Connect(Port),
    /// Ends the session.
    Disconnect,
    /// Adds a file to the session's list.
    Publish(Filename, Description),
    /// Takes a file off the session's list.
    Delete(Filename),
    /// Lists the connected users.
    ListUsers,
    /// Lists what this user has published. `None` is the empty name, which nobody has.
    ListContent(Option<Username>),
    /// Says where the owner of a file is. Peers disagree on the order of the names: this name is the
    /// owner's and the username of the request is the asker's, or this name is the file's and the
    /// username of the request is the owner's (docs/protocol.md 4).
    GetFile(Option<Username>),
}

/// A request that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The gateway knows no operation with this code. No answer is possible.
    #[error("unknown operation")]
    UnknownOperation,
    /// The operation is known, but a field is bad. The answer is "any other failure".
    #[error("{}: the {field} is {error}", operation.name())]
    Field {
        /// The operation that the peer asked for.
        operation: Operation,
        /// The field's name in docs/protocol.md.
        field: &'static str,
        /// What is wrong with the field.
        error: FieldError,
    },
    /// The peer stopped in the middle of a known operation. The answer is "any other failure".
    #[error("{}: the request ends before its last field", operation.name())]
    Incomplete {
        /// The operation that the peer asked for.
        operation: Operation,
    },
    /// The peer stopped before its operation code was complete. No answer is possible.
    #[error("the request ends before its operation code")]
    NoOperation,
}

impl BadRequest {
    /// The operation, and the status that answers it; `None` where no answer is possible.
    #[must_use]
    pub const fn answer(&self) -> Option<(Operation, u8)> {
        match self {
            Self::Field { operation, .. } | Self::Incomplete { operation } => {
                Some((*operation, operation.status(Outcome::Failed)))
            }
            Self::UnknownOperation | Self::NoOperation => None,
        }
    }

    /// The reason as a label for metrics, such as `too_long`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownOperation => "unknown_operation",
            Self::NoOperation => "no_operation",
            Self::Incomplete { .. } => "incomplete",
            Self::Field { error, .. } => match error {
                FieldError::TooLong => "too_long",
                FieldError::NotUtf8 => "not_utf8",
                FieldError::ControlCharacter => "control_character",
                FieldError::Empty => "empty_name",
                FieldError::ImpossiblePort => "impossible_port",
                FieldError::NotDatetime => "not_datetime",
                FieldError::MisplacedDatetime => "misplaced_datetime",
            },
        }
    }

    /// Every label that [`Self::reason`] can give.
    pub const REASONS: [&'static str; 10] = [
        "unknown_operation",
        "no_operation",
        "incomplete",
        "too_long",
        "not_utf8",
        "control_character",
        "empty_name",
        "impossible_port",
        "not_datetime",
        "misplaced_datetime",
    ];
}

/// What the bytes that have arrived on a connection are so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// The bytes are a whole request unless more bytes arrive. Either the request ends with an empty
    /// filename, port or remote username, which no peer has a use for, and may be the beginning of a
    /// padded request; or it has no datetime, which may still come behind the last field. Wait a
    /// moment; if no more bytes arrive, [`decode_final`] decides.
    Tentative,
    /// The request is complete: answer it at once. [`encoding_of`] gives how it was encoded.
    Complete(Request),
    /// The request cannot be carried out.
    Bad(BadRequest),
}

/// Reads all bytes that have arrived on a connection so far.
///
/// The request is the same however its bytes were split. Call this function again with more bytes
/// until it gives something other than [`Progress::Incomplete`] or [`Progress::Tentative`].
#[must_use]
pub fn decode(bytes: &[u8]) -> Progress {
    let (code, operation) = match known_operation(bytes) {
        Ok(Some(known)) => known,
        Ok(None) => return Progress::Incomplete,
        Err(bad) => return Progress::Bad(bad),
    };
    match conclude(bytes, code, operation) {
        Conclusion::Incomplete => Progress::Incomplete,
        Conclusion::Tentative => Progress::Tentative,
        Conclusion::Complete(fields, _) => finish(operation, &fields),
        Conclusion::Bad { field, error } => {
            Progress::Bad(BadRequest::Field { operation, field: field_name(operation, field), error })
        }
    }
}

/// Reads all bytes that have arrived on a connection when no more will come, or when the time to
/// wait for more is over.
///
/// # Errors
/// [`BadRequest`] says why the request cannot be carried out. An incomplete request cannot.
pub fn decode_final(bytes: &[u8]) -> Result<Request, BadRequest> {
    match decode(bytes) {
        Progress::Complete(request) => return Ok(request),
        Progress::Bad(bad) => return Err(bad),
        Progress::Incomplete | Progress::Tentative => {}
    }
    let (code, operation) = known_operation(bytes)?.ok_or(BadRequest::NoOperation)?;
    let fields = match layout::read(operation, &bytes[code + 1..]).1 {
        Terminated::Complete { fields, .. } | Terminated::Undated(fields) => fields,
        Terminated::Pending | Terminated::Impossible { .. } => {
            return Err(BadRequest::Incomplete { operation });
        }
    };
    match finish(operation, &fields) {
        Progress::Complete(request) => Ok(request),
        Progress::Bad(bad) => Err(bad),
        Progress::Incomplete | Progress::Tentative => Err(BadRequest::Incomplete { operation }),
    }
}

/// How the request at the start of `bytes` is encoded (docs/protocol.md 2). Where only the NULs
/// behind the last field show the encoding, NULs that arrive before the reply is written count too.
#[must_use]
pub fn encoding_of(bytes: &[u8]) -> Encoding {
    let Ok(Some((code, operation))) = known_operation(bytes) else {
        return Encoding::Terminated;
    };
    match conclude(bytes, code, operation) {
        Conclusion::Complete(_, encoding) => encoding,
        Conclusion::Incomplete => Encoding::Padded,
        Conclusion::Tentative | Conclusion::Bad { .. } => Encoding::Terminated,
    }
}

/// Whether an original peer may have sent the request at the start of `bytes`: the operation is in
/// capitals, the operation and each field end in a NUL, and the datetime comes first
/// (docs/protocol.md 2).
#[must_use]
pub fn is_original(bytes: &[u8]) -> bool {
    let Ok(Some((code, operation))) = known_operation(bytes) else { return false };
    bytes.starts_with(operation.name().as_bytes())
        && bytes[code] == 0
        && !(bytes.contains(&b'\n') && matches!(operation, Operation::ListUsers | Operation::ListContent))
        && layout::read(operation, &bytes[code + 1..]).0 == Order::Original
}

/// Reads the fields behind an operation code of `code` bytes in every way that is still possible.
fn conclude(bytes: &[u8], code: usize, operation: Operation) -> Conclusion<'_> {
    let (order, terminated) = layout::read(operation, &bytes[code + 1..]);
    if order == Order::Other {
        return match terminated {
            Terminated::Complete { fields, .. } => Conclusion::Complete(fields, Encoding::Terminated),
            Terminated::Undated(_) => Conclusion::Tentative,
            Terminated::Pending => Conclusion::Incomplete,
            Terminated::Impossible { field, error } => Conclusion::Bad { field, error },
        };
    }
    let (undated, terminated) = match terminated {
        Terminated::Complete { fields, end } => (false, Read::Complete { fields, end }),
        Terminated::Undated(_) => (true, Read::Pending { known: Fields::default() }),
        Terminated::Pending => (false, Read::Pending { known: Fields::default() }),
        Terminated::Impossible { field, error } => (false, Read::Impossible { field, error }),
    };
    match reading::conclude(bytes, code, operation.widths(), terminated) {
        Conclusion::Incomplete if undated => Conclusion::Tentative,
        other => other,
    }
}

/// The operation at the start of `bytes`, and the length of its code; `None` until the code has
/// arrived. The code ends at its NUL, or at a line feed.
fn known_operation(bytes: &[u8]) -> Result<Option<(usize, Operation)>, BadRequest> {
    let line = memchr::memchr2(0, b'\n', &bytes[..bytes.len().min(WIDTH_OPERATION)]);
    if let Some(operation) = line.and_then(|end| Operation::from_name(&bytes[..end])) {
        return Ok(line.map(|end| (end, operation)));
    }
    match reading::operation_code(bytes) {
        Ok(None) => Ok(None),
        Ok(Some(_)) | Err(_) => Err(BadRequest::UnknownOperation),
    }
}

fn field_name(operation: Operation, index: usize) -> &'static str {
    match (operation, index) {
        (_, 0) => "datetime",
        (_, 1) => "username",
        (Operation::Connect, _) => "port",
        (Operation::ListContent, _) => "remote username",
        (Operation::GetFile, _) => "owner or filename",
        (_, 2) => "filename",
        _ => "description",
    }
}

fn finish(operation: Operation, fields: &Fields<'_>) -> Progress {
    match request(operation, fields) {
        Ok(request) => Progress::Complete(request),
        Err((index, error)) => {
            Progress::Bad(BadRequest::Field { operation, field: field_name(operation, index), error })
        }
    }
}

/// Makes a request of the fields. An error has the index of the bad field and what is wrong there.
fn request(operation: Operation, fields: &Fields<'_>) -> Result<Request, (usize, FieldError)> {
    let field = |index: usize| fields.get(index).unwrap_or_default();
    let at = |index: usize| move |error| (index, error);
    let name = |index: usize| match field(index) {
        b"" => Ok(None),
        // The fields of such a peer are in an order that is not known.
        name if Datetime::has_form(name) => Err((index, FieldError::MisplacedDatetime)),
        name => Username::from_bytes(name).map(Some).map_err(at(index)),
    };
    let datetime = Datetime::from_bytes(field(0)).map_err(at(0))?;
    if !field(0).is_empty() && !Datetime::has_form(field(0)) {
        return Err((0, FieldError::NotDatetime));
    }
    let username = name(1)?;
    if operation == Operation::Register && username.is_none() {
        return Err((1, FieldError::Empty));
    }
    let filename = || Filename::from_bytes(field(2)).map_err(at(2));
    let command = match operation {
        Operation::Register => Command::Register,
        Operation::Unregister => Command::Unregister,
        Operation::Connect => Command::Connect(Port::from_bytes(field(2)).map_err(at(2))?),
        Operation::Disconnect => Command::Disconnect,
        Operation::Publish => {
            Command::Publish(filename()?, Description::from_bytes(field(3)).map_err(at(3))?)
        }
        Operation::Delete => Command::Delete(filename()?),
        Operation::ListUsers => Command::ListUsers,
        Operation::ListContent => Command::ListContent(name(2)?),
        Operation::GetFile => Command::GetFile(name(2)?),
    };
    Ok(Request { datetime, username, command })
}

impl Command {
    /// The operation of this command.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Register => Operation::Register,
            Self::Unregister => Operation::Unregister,
            Self::Connect(_) => Operation::Connect,
            Self::Disconnect => Operation::Disconnect,
            Self::Publish(..) => Operation::Publish,
            Self::Delete(_) => Operation::Delete,
            Self::ListUsers => Operation::ListUsers,
            Self::ListContent(_) => Operation::ListContent,
            Self::GetFile(_) => Operation::GetFile,
        }
    }
}

impl Request {
    /// Appends the request's bytes to `out`, as a peer of this encoding sends them.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) {
        let operation = self.command.operation();
        out.extend_from_slice(operation.name().as_bytes());
        out.push(0);
        let port;
        let (third, fourth) = match &self.command {
            Command::Connect(number) => {
                port = number.to_string();
                (port.as_str(), "")
            }
            Command::Publish(filename, description) => (filename.as_str(), description.as_str()),
            Command::Delete(filename) => (filename.as_str(), ""),
            Command::ListContent(remote) | Command::GetFile(remote) => {
                (remote.as_ref().map_or("", Username::as_str), "")
            }
            Command::Register | Command::Unregister | Command::Disconnect | Command::ListUsers => ("", ""),
        };
        let username = self.username.as_ref().map_or("", Username::as_str);
        let fields = [self.datetime.as_str(), username, third, fourth];
        for (text, width) in fields.into_iter().zip(operation.widths()) {
            reading::encode_field(text, *width, encoding, out);
        }
    }
}
