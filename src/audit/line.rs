//! A record as a line for people or for programs.

use std::io::{self, Write};

use jiff::Timestamp;
use lonja_proto::audit::{Operation, OperationRecord};
use lonja_wire::Printable;
use serde_json::json;

use super::Print;

/// When the operation of a record was handled, to the millisecond.
pub(super) fn handled_at(record: &OperationRecord) -> String {
    let moment = record.handled_at.as_ref().map(|at| Timestamp::new(at.seconds, at.nanos));
    let moment = moment.and_then(Result::ok).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{moment:.3}")
}

/// What the names of operations begin with in the proto.
const PREFIX: &str = "OPERATION_";

/// The name of a record's operation, as peers write it.
pub(crate) fn operation_name(record: &OperationRecord) -> &'static str {
    record.operation().as_str_name().trim_start_matches(PREFIX)
}

/// The operation of this name.
pub(crate) fn operation_named(name: &str) -> Option<Operation> {
    Operation::from_str_name(&format!("{PREFIX}{name}"))
}

/// The function that writes records as JSON objects, or else as lines for people.
pub(super) fn printer(json: bool) -> &'static Print {
    if json { &write_json } else { &write_line }
}

fn write_line(record: &OperationRecord, out: &mut dyn Write) -> io::Result<()> {
    let (user, subject) = (Printable(&record.username), Printable(&record.subject));
    let (at, operation, status) = (handled_at(record), operation_name(record), record.status);
    let address = match record.operator.as_str() {
        "" => Printable(&record.peer_address).to_string(),
        operator => format!("by {}", Printable(operator)),
    };
    let space = if record.subject.is_empty() { "" } else { " " };
    writeln!(out, "{at} {address:<21} {status} {operation:<12} {user}{space}{subject}")
}

fn write_json(record: &OperationRecord, out: &mut dyn Write) -> io::Result<()> {
    let object = json!({
        "handled_at": handled_at(record),
        "operation": operation_name(record),
        "username": record.username,
        "subject": record.subject,
        "status": record.status,
        "peer_address": record.peer_address,
        "claimed_datetime": record.claimed_datetime,
        "trace_id": record.trace_id,
        "dialect": record.dialect,
        "operator": record.operator,
    });
    writeln!(out, "{object}")
}
